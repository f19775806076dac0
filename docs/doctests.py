"""Doctests in docstrings as code: fences around them before Markdown sees them.

An extension of griffe, which reads the docstrings; `mkdocs.yml` names it.
"""

import re

import griffe

DOCTEST = re.compile(r"^>>> .*(?:\n.+)*", re.MULTILINE)


class Doctests(griffe.Extension):
    """Puts a fence around every paragraph that starts with `>>>`."""

    def on_object(self, *, obj: griffe.Object, **_: object) -> None:
        """Change the docstring of one object, as griffe reads it."""
        if obj.docstring is not None:
            obj.docstring.value = DOCTEST.sub(_fenced, obj.docstring.value)


def _fenced(found: re.Match[str]) -> str:
    return f"```pycon\n{found[0]}\n```"
