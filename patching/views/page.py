"""A page: one HTML file that holds its style, scripts and data, and refers to nothing outside.

Data travel as JSON in a script element with `<`, `>` and `&` escaped, and the scripts write text
as text only, so that a token such as `</script><img onerror=...>` is shown and never run. The
page's own security policy forbids every connection, and every script and style but its own, which
it names by their hashes.
"""

import base64
import hashlib
import html
import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from patching.files.whole import write_text

_HOME = "patching.views"
_RESOLUTION = 120  # dots per inch of the still picture
_UNSAFE = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"}


@dataclass(frozen=True)
class Parts:
    """What a page is made of: files of one package, in the order in which they are joined."""

    package: str
    styles: Sequence[str]
    scripts: Sequence[str]
    body: str


@dataclass(frozen=True)
class Page:
    """A page to show in a notebook or to save.

    In Jupyter it appears in a sandboxed frame `height` pixels high; where scripts are not run, as
    on GitHub, the still `picture` is shown instead.
    """

    title: str
    content: str
    picture: Callable[[], Figure]
    height: int = 640

    def save(self, path: str | Path) -> None:
        """Write the page as one HTML file; a whole file or none is left.

        Raises:
            ValueError: if the name does not end in .html.
        """
        if Path(path).suffix.lower() not in (".html", ".htm"):
            raise ValueError(f"cannot write a page to {str(path)!r}: the name should end in .html")
        write_text(path, self.content)

    def __repr__(self) -> str:
        return f"Page({self.title!r}, {len(self.content) / 1000:,.0f} kB; .save('page.html'))"

    def _repr_mimebundle_(
        self, include: object = None, exclude: object = None
    ) -> dict[str, str | bytes]:
        """What Jupyter shows: the page in a frame, a still picture, a line of text."""
        frame = (
            f'<iframe sandbox="allow-scripts allow-downloads" title="{html.escape(self.title)}" '
            f'style="width:100%;height:{self.height}px;border:0" '
            f'srcdoc="{html.escape(self.content)}"></iframe>'
        )
        return {"text/html": frame, "image/png": _png(self.picture()), "text/plain": repr(self)}


def assemble(title: str, parts: Parts, data: Mapping[str, object]) -> str:
    """One HTML file: the common style and scripts, those of the page, and its data.

    Raises:
        ValueError: if the data do not fit into JSON.
    """
    style = "\n".join([_read(_HOME, "page.css"), *_all(parts.package, parts.styles)])
    script = "\n".join([_read(_HOME, "page.js"), *_all(parts.package, parts.scripts)])
    script = f'(function () {{\n"use strict";\n{script}\n}})();'
    fields = {
        "TITLE": html.escape(title),
        "POLICY": _policy(style, script),
        "STYLE": style,
        "BODY": _read(parts.package, parts.body),
        "DATA": escaped_json(data),
        "SCRIPT": script,
    }
    pieces = _read(_HOME, "page.html").split("@@")  # text, name, text, name, ..., text
    return "".join(fields[piece] if i % 2 else piece for i, piece in enumerate(pieces))


def source_hash(text: str) -> str:
    """How a Content-Security-Policy names one script or style that stands in the page itself.

    >>> source_hash("alert(1)")
    "'sha256-bhHHL3z2vDgxUt0W3dWQOrprscmda2Y5pLsLg4GF+pI='"
    """
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _policy(style: str, script: str) -> str:
    rules = {
        "default-src": "'none'",
        "style-src": source_hash(style),
        "script-src": source_hash(script),
        "img-src": "data: blob:",
        "base-uri": "'none'",
        "form-action": "'none'",
    }
    return "; ".join(f"{name} {value}" for name, value in rules.items())


def escaped_json(data: Mapping[str, object]) -> str:
    r"""JSON that can stand inside a script element whatever its strings hold.

    >>> escaped_json({"token": "</script>"})
    '{"token":"\\u003c/script\\u003e"}'

    Raises:
        ValueError: if the data do not fit into JSON.
    """
    try:
        text = json.dumps(data, allow_nan=False, ensure_ascii=False, separators=(",", ":"))
    except (TypeError, ValueError) as error:
        raise ValueError(f"the data of a page must fit into JSON: {error}") from None
    for character, escape in _UNSAFE.items():
        text = text.replace(character, escape)
    return text.encode("utf-8", "backslashreplace").decode()  # lone surrogates are no UTF-8


def packed(values: np.ndarray, kind: str) -> str:
    """Numbers as base64 of their little-endian bytes, for a typed array in the page.

    >>> packed(np.array([1, 2]), "uint16")
    'AQACAA=='
    """
    numbers = np.ascontiguousarray(values, dtype=np.dtype(kind).newbyteorder("<"))
    return base64.b64encode(numbers.tobytes()).decode("ascii")


def _read(package: str, name: str) -> str:
    return files(package).joinpath(name).read_text(encoding="utf-8")


def _all(package: str, names: Sequence[str]) -> list[str]:
    return [_read(package, name) for name in names]


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=_RESOLUTION)
    return buffer.getvalue()
