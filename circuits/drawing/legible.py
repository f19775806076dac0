"""Legible: how many edges of a circuit a sheet of paper has room for, and where they go."""

from circuits.circuit import Circuit
from circuits.drawing.canvas import LEAST_TYPE, PAGE_HEIGHT, TYPE, Width, inches
from circuits.drawing.layout import Layout, lay_out
from circuits.drawing.strongest import strongest

MOST_EDGES = 100
"""More edges than this are not readable; the strongest are drawn, and the caption says so."""

UNIT, UNIT_ACROSS = (0.42, 0.42), (0.88, 0.25)
"""Inches per unit of length, to the right and upwards; across, boxes lie on their side."""

_LEAST_UNIT = (0.26, 0.14)  # upwards: lower boxes have no room for a name above a letter
_COLUMN = 0.9  # units of a column with what runs to the next one
_FOOT = 0.9  # inches that caption, legend and title take at most


def size_of(width: Width, height: float | int | None) -> tuple[float | None, float]:
    """Inches of paper: the width that is wanted, if one is, and the most height."""
    return inches(width), inches(height, "height") or PAGE_HEIGHT


def unit_of(layout: Layout) -> tuple[float, float]:
    """Inches per unit of length."""
    return UNIT_ACROSS if layout.across else UNIT


def legible(
    circuit: Circuit, most: int | None, size: tuple[float | None, float], *, across: bool = False
) -> tuple[Circuit, Layout]:
    """The strongest edges that can be read at a size, in place, upwards or from left to right.

    Raises:
        ValueError: if not one can, or not as many as asked for, or spans have columns.
    """
    if most is not None and most < 1:
        raise ValueError(f"cannot draw at most {most} edges; 1 is the least")
    n = min(circuit.size, most or MOST_EDGES)
    while True:
        shown = strongest(circuit, n)
        layout = lay_out(shown, most_rows=_most_rows(size, across=across))
        layout = layout.turned() if across else layout
        fault = _fault(layout, *size)
        if fault is None:
            return shown, layout
        if most is not None or n <= 1:
            raise ValueError(f"{n} edges are not legible at {fault}")
        n = max(1, min(n - 1, int(n * 0.85)))


def _most_rows(size: tuple[float | None, float], *, across: bool) -> int | None:
    """How many rows there is room for, or columns; None for as many as there are."""
    width, height = size
    if not across:
        return max(1, int((height - _FOOT) / UNIT[1]))
    return None if width is None else max(3, int(width / UNIT_ACROSS[0] / _COLUMN))


def _fault(layout: Layout, width: float | None, height: float) -> str | None:
    """What is too small to be read, if anything is."""
    left, right, bottom, top = layout.bounds()
    unit = unit_of(layout)[0] * (right - left)
    type_size = TYPE if width is None else TYPE * (width - 0.12) / max(unit, 0.1)
    if type_size < LEAST_TYPE:
        return (
            f"{width:g} inches: names would be {type_size:.1f} points, {LEAST_TYPE:g} is the "
            "least; draw fewer (most_edges=) or give more width"
        )
    least = _LEAST_UNIT[layout.across]
    if (height - _FOOT) / max(top - bottom, 0.1) < least:
        needed = least * (top - bottom) + _FOOT
        return f"{height:g} inches of height; draw fewer (most_edges=) or give {needed:.1f} inches"
    return None
