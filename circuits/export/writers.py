"""Saving a circuit in the format its file name asks for."""

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from circuits.circuit import Circuit, to_json
from circuits.export.text import to_csv, to_dot, to_gexf, to_graphml
from circuits.plots import draw, render
from patching.files import write_bytes


class Writer(Protocol):
    """Turns a circuit into the content of a file."""

    def __call__(self, circuit: Circuit) -> bytes:
        """The whole file; equal circuits give equal bytes."""
        ...


def _json(circuit: Circuit) -> bytes:
    return to_json(circuit).encode()


def _svg(circuit: Circuit) -> bytes:
    return render(draw(circuit), "svg")


def _pdf(circuit: Circuit) -> bytes:
    return render(draw(circuit), "pdf")


def _png(circuit: Circuit) -> bytes:
    return render(draw(circuit), "png")


WRITERS: Mapping[str, Writer] = {
    ".json": _json,
    ".svg": _svg,
    ".pdf": _pdf,
    ".png": _png,
    ".graphml": to_graphml,
    ".gexf": to_gexf,
    ".dot": to_dot,
    ".csv": to_csv,
}
"""What writes which kind of file."""


def save(circuit: Circuit, path: str | Path) -> None:
    """Write a circuit to a file whose suffix says the format; a whole file or none is left.

    `load_circuit` reads .json; .graphml and .gexf keep every edge, its score and its reader. The
    pictures show the strongest edges of a large circuit, and say so.

    Raises:
        ValueError: if no writer has this suffix.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in WRITERS:
        raise ValueError(
            f"cannot write a circuit to {str(path)!r}: the name should end in {', '.join(WRITERS)}"
        )
    write_bytes(path, WRITERS[suffix](circuit))
