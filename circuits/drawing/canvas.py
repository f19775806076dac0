"""Canvas: what a drawing consists of, whatever draws it: boxes, strokes, marks, a legend.

All lengths are inches from the lower left corner, sizes of type and widths of lines are points,
colours are `#RRGGBB`. Knows no circuit, no matplotlib and no LaTeX.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

Point = tuple[float, float]
Width = float | int | str | None
"""Of a drawing: inches, a name of `WIDTHS`, or None for what it needs."""

PAGE_HEIGHT = 8.5
"""Inches: no drawing is higher, unless it is told to be."""

WIDTHS = {"column": 3.25, "page": 6.75}
"""Inches: one column, and the whole width of a two-column page."""

TYPE = 6.5
"""Points: the names of nodes, where there is room."""

LEAST_TYPE = 5.0
"""Points: smaller names are not readable on paper."""

# Widths of letters in heights, of DejaVu Sans, the widest of the fonts used, rounded up.
_NARROW = {letter: 0.32 for letter in " ijl.,:;|'!"} | {letter: 0.4 for letter in "tfr-()[]/"}
_WIDE = {"m": 0.98, "M": 0.87, "w": 0.82, "W": 0.99, "%": 0.95, "@": 1.0}
_KEY, _GAP = 0.22, 0.1  # inches: the sample of a legend's entry, the space after its text
_ROW = 0.125  # inches
CAPTION = 0.24
"""Inches below the legend."""


@dataclass(frozen=True)
class Box:
    """A box with its middle at (x, y).

    `details` are smaller lines below the label, which is `lift` above the middle; `pitch` is how
    far apart they are, in points.
    """

    label: str
    x: float
    y: float
    width: float
    height: float
    fill: str
    size: float
    lift: float = 0.0
    details: tuple[str, ...] = ()
    pitch: float = TYPE

    def lines(self) -> list[tuple[float, str]]:
        """The details with the heights of their middles."""
        first = self.y + self.lift - (self.size + self.pitch) / 2 / 72
        return [(first - i * self.pitch / 72, line) for i, line in enumerate(self.details)]


@dataclass(frozen=True)
class Stroke:
    """A line through points in pairs: S-shaped within a pair, straight up between pairs.

    `across`: straight to the right between pairs.

    `faint` is a dotted link that is no edge. `arrow` is the end that has a head, if one has. `ends`
    name the nodes that something is moved between.
    """

    points: tuple[Point, ...]
    colour: str
    width: float
    dashed: bool = False
    opacity: float = 1.0
    faint: bool = False
    arrow: Literal["", "start", "end"] = ""
    ends: tuple[str, str] | None = None
    across: bool = False

    def bends(self) -> list[tuple[Point, Point, Point, Point]]:
        """Each pair of points, with the two that the curve between them bends to."""
        found = []
        for start, end in zip(self.points[0::2], self.points[1::2], strict=True):
            (x0, y0), (x1, y1) = start, end
            middle = (x0 + x1) / 2 if self.across else (y0 + y1) / 2
            near = (middle, y0) if self.across else (x0, middle)
            far = (middle, y1) if self.across else (x1, middle)
            found.append((start, near, far, end))
        return found


@dataclass(frozen=True)
class Mark:
    """A short text with its foot at (x, y)."""

    text: str
    x: float
    y: float
    size: float


@dataclass(frozen=True)
class Key:
    """An entry of the legend: a sample line, or a filled square, at (x, y) and its text.

    `faint` is the dotted look of links that are no edges.
    """

    label: str
    colour: str
    dashed: bool = False
    square: bool = False
    faint: bool = False
    x: float = 0.0
    y: float = 0.0


@dataclass(frozen=True)
class Picture:
    """A whole drawing, ready for any renderer."""

    width: float
    height: float
    boxes: tuple[Box, ...]
    strokes: tuple[Stroke, ...]
    marks: tuple[Mark, ...]
    legend: tuple[Key, ...]
    caption: str
    title: str | None = None

    @property
    def caption_size(self) -> float:
        """Points: 6, or less where the caption would be wider than the page."""
        return self._fitting(self.caption, 6.0)

    @property
    def title_size(self) -> float:
        """Points: 8, or less where the title would be wider than the page."""
        return self._fitting(self.title or "", 8.0)

    def without(self, *parts: str) -> "Picture":
        """The picture without its "legend" or its "caption", and without the room they took.

        Raises:
            ValueError: if a part is neither.
        """
        if unknown := set(parts) - {"legend", "caption"}:
            raise ValueError(f"'legend' and 'caption' can be left out; got {min(unknown)!r}")
        legend = () if "legend" in parts else self.legend
        saved = _ROW * (len({key.y for key in self.legend}) - len({key.y for key in legend}))
        saved += CAPTION if "caption" in parts and self.caption else 0.0
        return replace(
            self,
            height=self.height - saved,
            boxes=tuple(replace(box, y=box.y - saved) for box in self.boxes),
            strokes=tuple(_lowered(stroke, saved) for stroke in self.strokes),
            marks=tuple(replace(mark, y=mark.y - saved) for mark in self.marks),
            legend=tuple(replace(key, y=key.y - saved) for key in legend),
            caption="" if "caption" in parts else self.caption,
        )

    def _fitting(self, text: str, size: float) -> float:
        return min(size, (self.width - 0.1) * 68 / max(_extent(text), 1.0))


@dataclass(frozen=True)
class Frame:
    """Where a drawing lies on the paper: its units in inches, its corner, the paper's size."""

    unit: Point
    corner: Point
    origin: Point
    width: float
    height: float
    scale: float

    def at(self, point: Point) -> Point:
        """A point of the drawing, in inches on the paper."""
        return (
            self.corner[0] + (point[0] - self.origin[0]) * self.unit[0],
            self.corner[1] + (point[1] - self.origin[1]) * self.unit[1],
        )


def inches(width: Width, what: str = "width") -> float | None:
    """A width or height in inches: a number, or of widths "column" or "page"; None stays None.

    Raises:
        ValueError: if it is none of these.
    """
    if width is None:
        return None
    value = WIDTHS.get(width, 0.0) if isinstance(width, str) else float(width)
    if not 1 <= value <= 100:
        names = f"'column' ({WIDTHS['column']} in), 'page' ({WIDTHS['page']} in) or "
        raise ValueError(
            f"a {what} is {names if what == 'width' else ''}a number of inches from 1 to 100; "
            f"got {width!r}"
        )
    return value


def frame(
    bounds: tuple[float, float, float, float],
    unit: Point,
    legend: Sequence[Key],
    *,
    width: float | None,
    height: float = math.inf,
    has_title: bool,
) -> Frame:
    """Room for a drawing with these bounds (left, right, bottom, top, in its own units).

    A given width shrinks the drawing to fit, never enlarges it, and a height squeezes it; the
    legend and one line of caption are below, the title above.
    """
    left, right, bottom, top = bounds
    margin = 0.06
    natural = (right - left) * unit[0] + 2 * margin
    whole = width or max(natural, WIDTHS["column"])
    scale = min(1.0, whole / natural)
    foot = CAPTION + _ROW * len(_rows(legend, whole))
    rest = foot + 2 * margin + (0.26 if has_title else 0.05)
    squeezed = min(unit[1] * scale, max(height - rest, 0.0) / max(top - bottom, 1e-9))
    middle = (whole - (right - left) * unit[0] * scale) / 2
    high = rest + (top - bottom) * squeezed
    return Frame(
        (unit[0] * scale, squeezed), (middle, foot + margin), (left, bottom), whole, high, scale
    )


def arranged(legend: Sequence[Key], width: float) -> tuple[Key, ...]:
    """The entries in centred rows above the caption, as many a row as fit."""
    result: list[Key] = []
    rows = _rows(legend, width)
    for number, row in enumerate(rows):
        x = (width - sum(_room(key) for key in row) + _GAP) / 2
        y = CAPTION + _ROW * (len(rows) - 1 - number)
        for key in row:
            result.append(replace(key, x=x, y=y))
            x += _room(key)
    return tuple(result)


def fitted(text: str, room: float, size: float) -> float:
    """The size of type, `size` at most, at which a text fits into `room`, in inches."""
    return min(size, room * 72 / max(_extent(text), 0.1))


def above_letters(
    high: float, size: float, letters: tuple[float, float] | None
) -> tuple[float, float]:
    """Of a name in a box: its size of type, `size` at most, and how far above the middle it stands.

    `letters` below it have their feet so many inches above the box's, and so many points. From its
    middle a name reaches .37 of its size up and .59 down; from its foot a letter .76 of its own.
    """
    if letters is None:
        return size, 0.0
    below = letters[0] + 0.76 * letters[1] / 72 + 0.004
    size = min(size, 72 * (high - below - 0.006) / 0.96)
    return size, max(0.12 * high, below + 0.59 * size / 72 - high / 2)


def is_dark(colour: str) -> bool:
    """Whether text on a colour should be white (relative luminance, ITU-R BT.709)."""
    red, green, blue = (int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue < 0.45


def _lowered(stroke: Stroke, by: float) -> Stroke:
    return replace(stroke, points=tuple((x, y - by) for x, y in stroke.points))


def _room(key: Key) -> float:
    return _KEY + 6 * _extent(key.label) / 72 + _GAP


def _extent(text: str) -> float:
    """The width of a running text in heights."""
    widths = _NARROW | _WIDE
    return sum((widths.get(c, 0.76 if c.isupper() else 0.635) for c in text), start=0.0)


def _rows(legend: Sequence[Key], width: float) -> list[list[Key]]:
    rows: list[list[Key]] = []
    for key in legend:
        if rows and sum(_room(k) for k in rows[-1]) + _room(key) - _GAP <= width:
            rows[-1].append(key)
        else:
            rows.append([key])
    return rows
