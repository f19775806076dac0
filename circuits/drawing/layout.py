"""Layout: where the nodes and edges of a circuit go in a drawing. Coordinates only, no drawing.

Rows run from `embed` at the bottom to `logits` at the top; a layer's attention is below its MLP,
or beside it in parallel blocks, and rows of a deep circuit may be merged (`bands`). An edge that
passes rows gets a lane of its own in each of them, so that no edge runs behind a box. Lengths are
in units of one box width.
"""

from dataclasses import dataclass

from circuits.circuit import Circuit, kind_of, node_of
from circuits.drawing.bands import bands, links
from circuits.drawing.placement import BOX_HEIGHT, BOX_WIDTH, PORTS, Point, place

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

    `links` join a shared key-value head to the heads that use it; they are no edges.
    """

    nodes: tuple[Placed, ...]
    arcs: tuple[Arc, ...]
    links: tuple[Arc, ...]

    def bounds(self) -> tuple[float, float, float, float]:
        """Left, right, bottom and top of everything; all 0 where there is nothing."""
        points = [point for arc in (*self.arcs, *self.links) for point in arc.points]
        xs = [x for x, _ in points]
        xs += [node.x + side * BOX_WIDTH / 2 for node in self.nodes for side in (-1, 1)]
        ys = [node.y + side * BOX_HEIGHT / 2 for node in self.nodes for side in (-1, 1)]
        return (min(xs), max(xs), min(ys), max(ys)) if self.nodes else (0.0, 0.0, 0.0, 0.0)


def lay_out(circuit: Circuit, *, most_rows: int | None = None) -> Layout:
    """Place the nodes and edges of a circuit, in as few rows as `most_rows` where that can be.

    >>> from patching.graph import Graph
    >>> edges = [("embed", "m0"), ("m0", "logits")]
    >>> [node.name for node in lay_out(Circuit.from_edges(Graph(1, 1, 1), edges)).nodes]
    ['embed', 'm0', 'logits']
    """
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
