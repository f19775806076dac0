"""The picture of roles: each role one box, with the edges between two roles as one arrow."""

from collections.abc import Mapping, Sequence
from textwrap import wrap

from circuits.circuit import Circuit, kind_of
from circuits.drawing.canvas import (
    LEAST_TYPE,
    TYPE,
    Box,
    Frame,
    Picture,
    Stroke,
    Width,
    arranged,
    fitted,
    frame,
    inches,
)
from circuits.drawing.pictures import FILLS, colour_of, signs
from circuits.drawing.placement import BOX_HEIGHT, BOX_WIDTH, Point, place
from circuits.drawing.roles import RoleEdge, RoleGraph, Roles, by_role

_UNIT = 1.1  # inches per box width
_LINE = 20  # letters of a line of heads
_MOST_LINES = 3


def picture_roles(
    circuit: Circuit, roles: Roles, *, title: str | None = None, width: Width = None
) -> Picture:
    """The circuit with each role as one box, and the edges between two roles as one arrow.

    An arrow's width is the |sum| of its edges' scores relative to the largest, its colour the sum's
    sign. Nodes without a role have boxes of their own; edges within a role are counted in the
    caption only. Width as for `picture`.

    Raises:
        ValueError: if a role names a node that the graph does not have, or is too long for its
            box, or the boxes are not legible at that width.
    """
    seen = by_role(circuit, roles)
    wide = inches(width)
    for role in roles.members:
        if fitted(role, _UNIT - 0.04, TYPE) < LEAST_TYPE:
            raise ValueError(f"the name of the role {role!r} is too long for its box")
    details = {
        box: _details(nodes) if box in roles.members else () for box, nodes in seen.boxes.items()
    }
    rows, upward = _rows(seen)
    ends = [(e.source, e.dest) if up else (e.dest, e.source) for e, up in upward]
    middles, routes = place(rows, [(low, high, high) for low, high in ends])
    legend = signs([edge.score for edge in seen.edges])
    lines = max((len(part) for part in details.values()), default=0)
    unit = _UNIT, (0.2 + 0.09 * lines) / BOX_HEIGHT
    bounds = _bounds(middles, routes)
    paper = frame(bounds, unit, legend, width=wide, has_title=title is not None)
    if paper.scale * TYPE < LEAST_TYPE:
        raise ValueError(
            f"{len(middles)} boxes are not legible at {paper.width:g} inches; "
            f"{paper.width * LEAST_TYPE / TYPE / paper.scale:.1f} inches would do, or a role for "
            "the nodes that have none (roles.with_rest(circuit))"
        )
    largest = max((abs(edge.score or 0.0) for edge in seen.edges), default=0.0)
    return Picture(
        width=paper.width,
        height=paper.height,
        boxes=tuple(_box(box, middles[box], paper, details[box], roles) for box in middles),
        strokes=tuple(
            _stroke(edge, up, [paper.at(point) for point in route], largest)
            for (edge, up), route in zip(upward, routes, strict=True)
        ),
        marks=(),
        legend=arranged(legend, paper.width),
        caption=_caption(seen, circuit),
        title=title,
    )


def _rows(seen: RoleGraph) -> tuple[list[list[str]], list[tuple[RoleEdge, bool]]]:
    """Boxes by the longest way up to them, and for every edge whether it goes up.

    Roles may write to each other both ways; an edge goes up if its source is earlier on average.
    """
    place_of = {box: number for number, box in enumerate(seen.boxes)}
    upward = [(edge, place_of[edge.source] < place_of[edge.dest]) for edge in seen.edges]
    height = dict.fromkeys(seen.boxes, 0)
    for box in seen.boxes:
        for edge, up in upward:
            low, high = (edge.source, edge.dest) if up else (edge.dest, edge.source)
            if low == box:
                height[high] = max(height[high], height[box] + 1)
    if "logits" in height:
        height["logits"] = 1 + max((height[box] for box in height if box != "logits"), default=0)
    rows: dict[int, list[str]] = {}
    for box, row in height.items():
        rows.setdefault(row, []).append(box)
    return [rows[row] for row in sorted(rows)], upward


def _bounds(
    middles: Mapping[str, Point], routes: Sequence[Sequence[Point]]
) -> tuple[float, float, float, float]:
    xs = [x + side * BOX_WIDTH / 2 for x, _ in middles.values() for side in (-1, 1)]
    xs += [x for route in routes for x, _ in route]
    ys = [y + side * BOX_HEIGHT / 2 for _, y in middles.values() for side in (-1, 1)]
    return (min(xs), max(xs), min(ys), max(ys)) if xs else (0.0, 0.0, 0.0, 0.0)


def _details(nodes: Sequence[str]) -> tuple[str, ...]:
    """The nodes of a role in a few lines; where they do not fit, how many more there are."""
    for n in range(len(nodes), 0, -1):
        more = f" and {len(nodes) - n} more" if n < len(nodes) else ""
        lines = wrap(", ".join(nodes[:n]) + more, _LINE)
        if len(lines) <= _MOST_LINES:
            return tuple(lines)
    return (f"{len(nodes)} nodes",)


def _box(name: str, middle: Point, paper: Frame, details: tuple[str, ...], roles: Roles) -> Box:
    is_role = name in roles.members
    x, y = paper.at(middle)
    wide, high = BOX_WIDTH * paper.unit[0], BOX_HEIGHT * paper.unit[1]
    size = fitted(name, wide - 0.04, TYPE * paper.scale)
    pitch = 6.5 * paper.scale
    lift = len(details) * pitch / 2 / 72
    fill = roles.colour(name) if is_role else FILLS[kind_of(name)]
    return Box(name, x, y, wide, high, fill, size, lift, details, pitch)


def _stroke(edge: RoleEdge, up: bool, points: Sequence[Point], largest: float) -> Stroke:
    share = abs(edge.score) / largest if edge.score is not None and largest else 0.3
    return Stroke(
        tuple(points),
        colour_of(edge.score),
        0.6 + 2.4 * share,
        dashed=(edge.score or 0.0) < 0,
        opacity=0.9,
        arrow="end" if up else "start",
    )


def _caption(seen: RoleGraph, circuit: Circuit) -> str:
    width = "; width: |sum of scores|" if circuit.scores is not None else ""
    within = f", {seen.within} within a role not drawn" if seen.within else ""
    return f"{circuit.size} edges in {len(seen.edges)} arrows{within}{width}"
