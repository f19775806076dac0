"""Pictures of circuits: of all edges, of two circuits' difference, of roles. Drawn by others.

Blue and solid helps the metric in the clean run, vermillion and dashed hurts it, so that the sign
survives both colour blindness and grey print; width is |score| relative to the strongest edge.
"""

from collections.abc import Mapping, Sequence

import torch

from circuits.circuit import Circuit
from circuits.drawing.canvas import (
    TYPE,
    Box,
    Frame,
    Key,
    Mark,
    Picture,
    Stroke,
    Width,
    above_letters,
    arranged,
    fitted,
    frame,
)
from circuits.drawing.layout import BOX_HEIGHT, PORTS, Arc, Layout, Placed, Point
from circuits.drawing.legible import legible, size_of, unit_of
from circuits.drawing.roles import Roles
from circuits.naming import plain_name

POSITIVE, NEGATIVE, NEUTRAL = "#0072B2", "#D55E00", "#666666"  # safe for colour-blind readers
FILLS = {
    "embed": "#ECECEC",
    "logits": "#ECECEC",
    "head": "#E3EDF7",
    "group": "#F4F4F4",
    "mlp": "#FBEFD9",
}
SIGNS = (
    Key("positive: helps the metric in the clean run", POSITIVE),
    Key("negative: hurts it", NEGATIVE, dashed=True),
)
LINK = "#999999"
FIRST, SECOND = "#009E73", "#CC79A7"  # of two circuits; not the colours of the sign
MOVED = "#444444"

_LETTERS = 14  # of a user's label, in one line
_FOOT = 0.02  # units from the foot of a box to that of its letters
_LETTER = 0.13  # inches: the letters at both sides of a name, the right ones of nothing


def picture(
    circuit: Circuit,
    *,
    title: str | None = None,
    most_edges: int | None = None,
    width: Width = None,
    height: float | int | None = None,
    labels: Mapping[str, str] | None = None,
    roles: Roles | None = None,
    across: bool = False,
) -> Picture:
    """The circuit from `embed` at the bottom to `logits` at the top; letters mark q, k and v.

    With spans apart there is a column for each that has edges, and dotted arrows between columns
    show where heads may move what their keys and values read to where they write.

    Args:
        circuit: what is drawn.
        title: above the drawing.
        most_edges: the strongest are drawn; as many as are legible, 100 at most, if not given.
        width: "column", "page" or inches; as wide as needed, if not given.
        height: inches at most; those of a page, if not given. Rows of a deep model's circuit are
            merged and squeezed to fit.
        labels: other names for nodes.
        roles: colours for heads, explained in the legend.
        across: from `embed` at the left to `logits` at the right, for slides and wide pages.

    Raises:
        ValueError: if `most_edges` edges are not legible at that size, or are less than 1, labels
            or roles name nodes that are not there, or spans that are apart are to go across.
    """
    names = _checked_labels(circuit, labels or {})
    if roles is not None:
        roles.check(circuit.graph)
    size = size_of(width, height)
    shown, layout = legible(circuit, most_edges, size, across=across)
    used = [] if roles is None else [r for r in roles.members if _is_used(r, layout, roles)]
    legend = [*signs([arc.score for arc in layout.arcs]), *_of_links(layout)]
    legend += [Key(role, roles.colour(role), square=True) for role in used if roles is not None]
    paper = _paper(layout, legend, size, title)
    largest = max((abs(arc.score or 0.0) for arc in layout.arcs), default=0.0)
    strokes = [
        _stroke(arc, paper, largest, across=across)
        for arc in sorted(layout.arcs, key=lambda arc: abs(arc.score or 0.0))
    ]
    caption = _caption(circuit, shown) + ("; width: |score|" if shown.scores is not None else "")
    caption += _said_of_letters(layout)
    return _composed(layout, paper, strokes, legend, (caption, title), (names, roles))


def picture_difference(
    a: Circuit,
    b: Circuit,
    names: tuple[str, str] = ("A", "B"),
    *,
    title: str | None = None,
    most_edges: int | None = None,
    width: Width = None,
    height: float | int | None = None,
    across: bool = False,
) -> Picture:
    """Two circuits in one drawing: edges only in the first, only in the second, and in both.

    Raises:
        ValueError: if they are of different graphs, and as `picture`.
    """
    mask = a.mask | (b - a).mask  # of one graph, or refused
    union = Circuit(mask, a.graph, _strength(a, b))
    size = size_of(width, height)
    shown, layout = legible(union, most_edges, size, across=across)
    parts = (a - b, b - a, a & b)
    counts = [f"{part.size} only in {name}" for part, name in zip(parts, names, strict=False)]
    counts.append(f"{parts[2].size} in both")
    styles = ((FIRST, False), (SECOND, True), (NEUTRAL, False))
    where = [
        [(arc.source, arc.reader) in part for part in parts].index(True) for arc in layout.arcs
    ]
    legend = [
        Key(said.split(" ", 1)[1], *styles[which])
        for which, said in enumerate(counts)
        if which in where
    ]
    legend += _of_links(layout)
    paper = _paper(layout, legend, size, title)
    strokes = []
    for which, arc in zip(where, layout.arcs, strict=True):
        colour, dashed = styles[which]
        points = tuple(paper.at(point) for point in arc.points)
        wide = 0.7 if which == 2 else 1.3
        strokes.append(Stroke(points, colour, wide, dashed, across=across))
    strokes.sort(key=lambda stroke: stroke.colour != NEUTRAL)
    caption = f"edges: {', '.join(counts)}"
    caption += f"; {shown.size} shown" if shown.size < union.size else ""
    caption += _said_of_letters(layout)
    return _composed(layout, paper, strokes, legend, (caption, title), ({}, None))


def colour_of(score: float | None) -> str:
    """The colour that says a score's sign."""
    if not score:
        return NEUTRAL
    return POSITIVE if score > 0 else NEGATIVE


def signs(scores: Sequence[float | None]) -> list[Key]:
    """The legend of the scores that are drawn."""
    known = [score for score in scores if score is not None]
    zero = [Key("score 0", NEUTRAL)] if 0.0 in known else []
    return [*SIGNS[: any(s > 0 for s in known)], *SIGNS[1:][: any(s < 0 for s in known)], *zero]


def _of_links(layout: Layout) -> list[Key]:
    return [Key("shared key-value head and its heads", LINK, faint=True)] if layout.links else []


def _said_of_letters(layout: Layout) -> str:
    """What the letters mark, of those that are there."""
    names = {"q": "query", "k": "key", "v": "value"}
    there = {arc.reader[-1] for arc in layout.arcs if arc.reader != arc.dest_node}
    used = [letter for letter in names if letter in there]
    return f"; {', '.join(used)}: {', '.join(names[u] for u in used)} input" if used else ""


def _strength(a: Circuit, b: Circuit) -> torch.Tensor | None:
    """|score| relative to each circuit's own strongest edge, the larger of the two."""
    if a.scores is None or b.scores is None:
        return None
    parts = [c.scores.abs() / (c.scores.abs().max() or 1.0) for c in (a, b) if c.scores is not None]
    return torch.maximum(*parts)


def _caption(circuit: Circuit, shown: Circuit) -> str:
    if circuit.size == shown.size:
        return f"{circuit.size} edges" if circuit.size != 1 else "1 edge"
    which = "first" if circuit.scores is None else "strongest"
    return f"{shown.size} of {circuit.size} edges shown (the {which})"


def _paper(
    layout: Layout,
    legend: Sequence[Key],
    size: tuple[float | None, float],
    title: str | None,
) -> Frame:
    (width, height), unit = size, unit_of(layout)
    has_title = title is not None
    return frame(layout.bounds(), unit, legend, width=width, height=height, has_title=has_title)


def _stroke(arc: Arc, paper: Frame, largest: float, *, across: bool) -> Stroke:
    share = abs(arc.score) / largest if arc.score is not None and largest else 0.3
    return Stroke(
        tuple(paper.at(point) for point in arc.points),
        colour_of(arc.score),
        0.4 + 2.0 * share,
        dashed=(arc.score or 0.0) < 0,
        opacity=0.55 + 0.45 * share,
        across=across,
    )


def _composed(
    layout: Layout,
    paper: Frame,
    strokes: Sequence[Stroke],
    legend: Sequence[Key],
    texts: tuple[str, str | None],
    looks: tuple[Mapping[str, str], Roles | None],
) -> Picture:
    links = [
        Stroke(tuple(map(paper.at, link.points)), LINK, 0.5, faint=True, across=layout.across)
        for link in layout.links
    ]
    links += [_move(move, paper) for move in layout.moves]
    return Picture(
        width=paper.width,
        height=paper.height,
        boxes=tuple(_box(node, layout, paper, *looks) for node in layout.nodes),
        strokes=(*links, *strokes),
        marks=(*_letters(layout, paper), *_heads(layout, paper)),
        legend=arranged(legend, paper.width),
        caption=texts[0],
        title=texts[1],
    )


def _box(
    node: Placed, layout: Layout, paper: Frame, names: Mapping[str, str], roles: Roles | None
) -> Box:
    role = None if roles is None else roles.of(node.name)
    fill = FILLS[node.kind] if role is None or roles is None else roles.colour(role)
    label = names.get(node.name, node.label)
    x, y = paper.at((node.x, node.y))
    wide, high = layout.box[0] * paper.unit[0], layout.box[1] * paper.unit[1]
    has_letters = node.kind in ("head", "group")
    room = wide - (_LETTER * paper.scale if has_letters and layout.across else 0.01)
    foot = _FOOT * paper.unit[1], _letter_size(paper)
    letters = foot if has_letters and not layout.across else None
    size, lift = above_letters(high, fitted(label, room, TYPE * paper.scale), letters)
    return Box(label, x, y, wide, high, fill, size, lift)


def _letters(layout: Layout, paper: Frame) -> tuple[Mark, ...]:
    """Marks at the query, key and value inputs that are used."""
    nodes = {node.name: node for node in layout.nodes}
    readers = {arc.reader: nodes[arc.dest_node] for arc in layout.arcs}
    return tuple(
        Mark(letter, *_port(letter, node, layout, paper), _letter_size(paper))
        for reader, node in readers.items()
        if reader != node.name and (letter := plain_name(reader)[-1])
    )


def _letter_size(paper: Frame) -> float:
    return max(4.0, 4.5 * paper.scale)


def _port(letter: str, node: Placed, layout: Layout, paper: Frame) -> Point:
    """Where a letter stands: at the foot of a box, or inside its left edge."""
    if not layout.across:
        return paper.at((node.x + PORTS[letter], node.y - BOX_HEIGHT / 2 + _FOOT))
    x, y = paper.at((node.x - BOX_HEIGHT / 2, node.y - PORTS[letter]))
    return x + 0.035 * paper.scale, y - _letter_size(paper) / 2 / 72


def _move(move: Arc, paper: Frame) -> Stroke:
    points, ends = tuple(paper.at(p) for p in move.points), (move.source, move.dest_node)
    return Stroke(points, MOVED, 0.6, faint=True, arrow="end", ends=ends)


def _heads(layout: Layout, paper: Frame) -> tuple[Mark, ...]:
    """The names of columns."""
    return tuple(Mark(name, *paper.at(at), TYPE * paper.scale) for name, at in layout.heads)


def _is_used(role: str, layout: Layout, roles: Roles) -> bool:
    return any(node.name in roles.members[role] for node in layout.nodes)


def _checked_labels(circuit: Circuit, labels: Mapping[str, str]) -> Mapping[str, str]:
    for node, label in labels.items():
        if node not in circuit.nodes:
            raise ValueError(f"a label for {node!r}, which is no node of this circuit")
        if not label or len(label) > _LETTERS or "\n" in label:
            raise ValueError(
                f"the label {label!r} of {node} does not fit into its box; "
                f"1 to {_LETTERS} letters in one line do"
            )
    return labels
