"""Pictures of features: rows upwards, positions to the right, nodes as boxes, edges by weight.

Drawn as pictures of circuits are, so that every renderer takes them. Knows no circuit and no graph.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from circuits.drawing.canvas import (
    TYPE,
    Box,
    Frame,
    Key,
    Mark,
    Picture,
    Stroke,
    Width,
    arranged,
    fitted,
    frame,
    inches,
)
from circuits.drawing.pictures import colour_of

MOST_NODES, MOST_EDGES = 120, 400
"""Drawn at most: the strongest."""

_WIDE, _HIGH = 0.4, 0.17  # inches: the room of a box
_BOX = 0.36, 0.14
_BETWEEN_COLUMNS, _BETWEEN_ROWS, _LEFT = 0.12, 0.34, 0.55
_SIDE_BY_SIDE = 3
_ALONE = 12  # boxes side by side, in one column and in several


@dataclass(frozen=True)
class Shown:
    """A node: its name in its row, where it stands, and how strong it is, -1 to 1."""

    label: str
    row: int
    column: int
    strength: float


@dataclass(frozen=True)
class Scene:
    """What is drawn: names of rows from below and of columns, nodes, and edges between them."""

    rows: tuple[str, ...]
    columns: tuple[str, ...]
    nodes: tuple[Shown, ...]
    edges: tuple[tuple[int, int, float], ...]
    legend: tuple[Key, ...]
    caption: str


def pictured(scene: Scene, *, title: str | None = None, width: Width = None) -> Picture:
    """The picture of a scene: blue helps, vermillion and dashed hurts, strong is dark and wide.

    Raises:
        ValueError: if the width is none.
    """
    places, right, top, heads = _laid_out(scene)
    bounds = (0.0, right, -0.15 if any(scene.columns) else 0.0, top)
    has_title = title is not None
    paper = frame(bounds, (1.0, 1.0), scene.legend, width=inches(width), has_title=has_title)
    boxes = tuple(_box(node, paper, place) for node, place in zip(scene.nodes, places, strict=True))
    most = max((abs(weight) for _, _, weight in scene.edges), default=0.0) or 1.0
    strokes = tuple(
        _stroke(paper, (places[source], places[target]), weight, most)
        for source, target, weight in sorted(scene.edges, key=lambda edge: abs(edge[2]))
    )
    size = 0.9 * TYPE * paper.scale
    marks = tuple(Mark(text, *paper.at(at), size) for text, at in heads if text)
    legend = arranged(scene.legend, paper.width)
    return Picture(paper.width, paper.height, boxes, strokes, marks, legend, scene.caption, title)


def _laid_out(
    scene: Scene,
) -> tuple[list[tuple[float, float]], float, float, list[tuple[str, tuple[float, float]]]]:
    """Where each node stands, how far all reaches, and where names of rows and columns are."""
    cells: dict[tuple[int, int], list[int]] = {}
    for i, node in enumerate(scene.nodes):
        cells.setdefault((node.row, node.column), []).append(i)
    side = _ALONE if len(scene.columns) == 1 else _SIDE_BY_SIDE
    wide, lines = [1] * len(scene.columns), [1] * len(scene.rows)
    for (row, column), own in cells.items():
        wide[column] = max(wide[column], min(len(own), side))
        lines[row] = max(lines[row], -(-len(own) // side))
    lefts, right = _spread([n * _WIDE for n in wide], _BETWEEN_COLUMNS, _LEFT)
    feet, top = _spread([n * _HIGH for n in lines], _BETWEEN_ROWS, 0.0)
    places = [(0.0, 0.0)] * len(scene.nodes)
    for (row, column), own in cells.items():
        for k, i in enumerate(own):
            here = min(side, len(own) - k // side * side)
            x = lefts[column] + (wide[column] - here) * _WIDE / 2 + (k % side + 0.5) * _WIDE
            places[i] = (x, feet[row] + (k // side + 0.5) * _HIGH)
    heads = [
        (name, (_LEFT / 2, foot + n * _HIGH / 2 - 0.045))
        for name, foot, n in zip(scene.rows, feet, lines, strict=True)
    ]
    heads += [
        (name, (left + n * _WIDE / 2, -0.14))
        for name, left, n in zip(scene.columns, lefts, wide, strict=True)
    ]
    return places, right, top, heads


def _spread(sizes: Sequence[float], between: float, start: float) -> tuple[list[float], float]:
    """Where things of some sizes begin, one after the other, and where the last one ends."""
    begins, at = [], start
    for size in sizes:
        begins.append(at)
        at += size + between
    return begins, at - between


def _box(node: Shown, paper: Frame, place: tuple[float, float]) -> Box:
    x, y = paper.at(place)
    wide, high = (side * paper.scale for side in _BOX)
    size = fitted(node.label, wide - 0.03, TYPE * paper.scale)
    return Box(node.label, x, y, wide, high, _fill(node.strength), size)


def _fill(strength: float) -> str:
    """From white to the colour of the sign."""
    colour, share = colour_of(strength), 0.1 + 0.7 * abs(strength)
    parts = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return "#" + "".join(f"{round(255 + share * (part - 255)):02X}" for part in parts)


def _stroke(
    paper: Frame, ends: tuple[tuple[float, float], ...], weight: float, most: float
) -> Stroke:
    (x0, y0), (x1, y1) = ends
    half, share = _BOX[1] / 2, abs(weight) / most
    points = (paper.at((x0, y0 + half)), paper.at((x1, y1 - half)))
    look = {"dashed": weight < 0, "opacity": 0.2 + 0.75 * share}
    return Stroke(points, colour_of(weight), 0.3 + 1.7 * share, **look)
