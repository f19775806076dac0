"""The notebook of a bundle: makes everything again from the files of the search.

Written as JSON (nbformat 4.5) without the package nbformat, and without outputs.
"""

import json

from circuits.drawing.canvas import Width
from patching.files.visible import in_markdown

_INTRODUCTION = """# {title}

This notebook makes every figure, table and text of this folder again from the files of the search
in {run}. No model is loaded."""

_CELLS = (
    (
        "setup",
        """from pathlib import Path

from circuits import draw, draw_roles
from circuits.paper import (
    edges_frame,
    faithfulness_frame,
    methods_markdown,
    open_run,
    plot_measurements,
    write_bundle,
)
from circuits.drawing.roles import load_roles

RUN = Path({run!r})
WIDTH = {width!r}
ROLES = load_roles("roles.json") if Path("roles.json").exists() else None
run = open_run(RUN)
run.circuit""",
    ),
    ("circuit", "draw(run.circuit, width=WIDTH, roles=ROLES)"),
    ("roles", "draw_roles(run.circuit, ROLES) if ROLES else None"),
    ("curve", "plot_measurements(run.measurements)"),
    ("edges", "edges_frame(run).head({top})"),
    ("faithfulness", "faithfulness_frame(run)"),
    ("methods", "print(methods_markdown(run))"),
    (
        "write",
        """written = write_bundle(
    RUN, Path("."), width=WIDTH, roles=ROLES, top={top}, with_notebook=False
)
[path.name for path in written]""",
    ),
)


def notebook(title: str, run: str, *, width: Width, top: int) -> str:
    """The notebook as text; `run` is the folder of the search as seen from the bundle's.

    Nothing of a result becomes code in it: paths and widths stand there as values.
    """
    values = {"run": run, "width": width, "top": top}
    about = _INTRODUCTION.format(title=in_markdown(title), run=in_markdown(run))
    cells: list[dict[str, object]] = [_cell("about", "markdown", about)]
    cells += [_cell(name, "code", text.format(**values)) for name, text in _CELLS]
    content = {
        "cells": cells,
        "metadata": {
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
        },
        "nbformat": 4,
        "nbformat_minor": 5,
    }
    return json.dumps(content, indent=1) + "\n"


def _cell(name: str, kind: str, text: str) -> dict[str, object]:
    ran = {"execution_count": None, "outputs": []} if kind == "code" else {}
    source = text.splitlines(keepends=True)
    return {"cell_type": kind, "id": name, "metadata": {}, "source": source, **ran}
