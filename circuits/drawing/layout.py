"""Layout: where the nodes and edges of a circuit go in a drawing. Coordinates only, no drawing.

Rows run from `embed` at the bottom to `logits` at the top; a layer's attention is below its MLP,
or beside it in parallel blocks, and rows of a deep circuit may be merged (`bands`). An edge that
passes rows gets a lane of its own in each of them, so that no edge runs behind a box. Lengths are
in units of one box width.
"""

from dataclasses import dataclass, replace

from circuits.circuit import Circuit
from circuits.drawing.bands import bands, links
from circuits.drawing.placement import BOX_HEIGHT, BOX_WIDTH, PORTS, Point, place, place_columns
from circuits.naming import kind_of, node_of, nodes_of
from circuits.spans import at_span, collapsed
from patching.span_graph import AT, plain_of, spans_of

__all__ = ["BOX_HEIGHT", "BOX_WIDTH", "PORTS", "Arc", "Layout", "Placed", "Point", "lay_out"]


@dataclass(frozen=True)
class Placed:
    """A node with the middle of its box; `kind` is embed, head, group, mlp or logits."""

    name: str
    label: str
    kind: str
    x: float
    y: float


@dataclass(frozen=True)
class Arc:
    """An edge, and the points it goes through from the top of one box to the bottom of another.

    Points come in pairs, the ends of one step from row to row; between pairs it goes straight up.
    """

    source: str
    dest_node: str
    reader: str
    score: float | None
    points: tuple[Point, ...]


@dataclass(frozen=True)
class Layout:
    """All nodes and edges in place.

    `links` join a shared key-value head to the heads that use it; they are no edges. Neither are
    `moves`, from where a head's keys and values read to where it writes, in another span's column.
    `heads` are the columns' names, each above its middle. `across`: rows are columns from left to
    right, and boxes as wide as they are high elsewhere, in units that differ by direction.
    """

    nodes: tuple[Placed, ...]
    arcs: tuple[Arc, ...]
    links: tuple[Arc, ...]
    moves: tuple[Arc, ...] = ()
    heads: tuple[tuple[str, Point], ...] = ()
    across: bool = False

    @property
    def box(self) -> tuple[float, float]:
        """Width and height of a box."""
        return (BOX_HEIGHT, BOX_WIDTH) if self.across else (BOX_WIDTH, BOX_HEIGHT)

    def turned(self) -> "Layout":
        """From left to right what goes from the bottom to the top; names of columns have no place.

        Raises:
            ValueError: if spans have columns.
        """
        if self.heads:
            raise ValueError("spans have columns side by side; leave out across")
        nodes = tuple(replace(node, x=node.y, y=-node.x) for node in self.nodes)
        arcs, links = (
            tuple(replace(arc, points=tuple((y, -x) for x, y in arc.points)) for arc in some)
            for some in (self.arcs, self.links)
        )
        return Layout(nodes, arcs, links, across=True)

    def bounds(self) -> tuple[float, float, float, float]:
        """Left, right, bottom and top of everything; all 0 where there is nothing."""
        points = [point for arc in (*self.arcs, *self.links) for point in arc.points]
        xs = [x for x, _ in points]
        ys = [y for arc in self.arcs if self.across for _, y in arc.points]
        wide, high = self.box
        xs += [node.x + side * wide / 2 for node in self.nodes for side in (-1, 1)]
        ys += [node.y + side * high / 2 for node in self.nodes for side in (-1, 1)]
        ys += [y + BOX_HEIGHT / 2 for _, (_, y) in self.heads]
        return (min(xs), max(xs), min(ys), max(ys)) if self.nodes else (0.0, 0.0, 0.0, 0.0)


def lay_out(circuit: Circuit, *, most_rows: int | None = None) -> Layout:
    """Place the nodes and edges of a circuit, in as few rows as `most_rows` where that can be.

    With spans apart, each has a column of its own.

    >>> from patching.graph import Graph
    >>> edges = [("embed", "m0"), ("m0", "logits")]
    >>> [node.name for node in lay_out(Circuit.from_edges(Graph(1, 1, 1), edges)).nodes]
    ['embed', 'm0', 'logits']
    """
    if spans_of(circuit.graph):
        return _in_columns(circuit, most_rows)
    ends = [(source, node_of(dest), dest) for source, dest in circuit.edges]
    shared = [(source, head, head) for source, head in links(circuit)]
    middles, points = place(bands(circuit, most_rows), ends + shared)
    nodes = [Placed(name, name, kind_of(name), *middles[name]) for name in middles]
    arcs = [
        Arc(source, node_of(dest), dest, score, route)
        for (source, dest, score), route in zip(circuit.scored_edges(), points, strict=False)
    ]
    routes = zip(shared, points[len(ends) :], strict=True)
    return Layout(tuple(nodes), tuple(arcs), tuple(Arc(*link, None, way) for link, way in routes))


def _in_columns(circuit: Circuit, most_rows: int | None) -> Layout:
    """A column a span, from left to right in their order; nodes are named with their spans."""
    spans = [
        s for s in spans_of(circuit.graph) if any(d.endswith(AT + s) for _, d in circuit.edges)
    ]
    parts = [at_span(circuit, span) for span in spans]
    whole = bands(collapsed(circuit), most_rows)
    rows = [[[n for n in row if n in part.nodes] for row in whole] for part in parts]
    ends = [[(s, node_of(d), d) for s, d in part.edges] for part in parts]
    joined = [[(source, head, head) for source, head in links(part)] for part in parts]
    both = [mine + theirs for mine, theirs in zip(ends, joined, strict=True)]
    nodes, arcs, shared, heads = [], [], [], []
    placed = place_columns(rows, both)
    top = max((y for middles, _ in placed for _, y in middles.values()), default=0.0)
    for span, part, (middles, points) in zip(spans, parts, placed, strict=True):
        at = AT + span
        nodes += [Placed(n + at, n, kind_of(n), *middles[n]) for n in middles]
        routes = iter(points)
        arcs += [
            Arc(s + at, node_of(d) + at, d + at, v, next(routes)) for s, d, v in part.scored_edges()
        ]
        shared += [Arc(s + at, d + at, d + at, None, next(routes)) for s, d in links(part)]
        middle = sum(x for x, _ in middles.values()) / len(middles)
        heads.append((span, (middle, top + BOX_HEIGHT)))
    return Layout(tuple(nodes), tuple(arcs), tuple(shared), _moves(circuit, nodes), tuple(heads))


def _moves(circuit: Circuit, nodes: list[Placed]) -> tuple[Arc, ...]:
    """From each span at which a head's keys or values read to each other at which it writes."""
    places = {node.name: node for node in nodes}
    plain, spans = plain_of(circuit.graph), spans_of(circuit.graph)
    reads = {
        d.partition(AT)[::2] for _, d in circuit.edges if d.partition(AT)[0][-2:] in (".k", ".v")
    }
    writes = {nodes_of(*edge)[0] for edge in circuit.edges}
    found = dict.fromkeys(
        (node_of(reader) + AT + here, f"{plain.sources[head].name}{AT}{there}")
        for reader, here in sorted(reads)
        for head in plain.feeds[plain.dest_index(reader)].nonzero().flatten().tolist()
        for there in spans
        if here != there and f"{plain.sources[head].name}{AT}{there}" in writes
    )
    return tuple(Arc(a, b, b, None, _aside(places[a], places[b])) for a, b in found)


def _aside(start: Placed, end: Placed) -> tuple[Point, ...]:
    """From the side of one box to the side of another."""
    side = BOX_WIDTH / 2 if end.x > start.x else -BOX_WIDTH / 2
    return (start.x + side, start.y), (end.x - side, end.y)
