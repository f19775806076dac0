"""Where the nodes of an explorer stand: one drawing for every range of sizes.

Small circuits are laid out tightly, larger ones more widely, each as `circuits.drawing.layout`
places them, so that boxes stand still while the slider moves within a range; rows of deep models
are merged, so that a screen holds them. Beyond the last, every node of the graph stands in a grid,
layer above layer.
"""

from collections.abc import Sequence
from functools import reduce
from itertools import accumulate

from circuits.circuit import Circuit, kind_of, node_of
from circuits.drawing.layout import BOX_WIDTH, Placed, lay_out
from circuits.explorer.content import Ordered
from patching.graph import Graph

SIZES = (15, 40, 100, 300)
"""How many edges the drawings are made for."""

_WIDTH = 18.0  # box widths that fit on a screen
_ROWS = 15  # and rows
_COLUMN, _ROW = 1.25, 1.2  # distances
_LEAST_PITCH = 0.72  # of rows, where there are many

Places = dict[str, tuple[float, float]]


def drawings(orders: Sequence[Ordered]) -> list[tuple[int, Places]]:
    """For each size, where the nodes of the first edges of all lists stand."""
    longest = max(len(order.edges) for order in orders)
    sizes = [size for size in SIZES if size < longest] + [min(longest, SIZES[-1])]
    return [(size, _place([order.prefix(size) for order in orders])) for size in sizes]


def grid(graph: Graph) -> Places:
    """Every node: rows by the moment in the forward pass, heads by number, MLPs in the middle."""
    order = {node_of(node.name): node.order for node in graph.destinations}
    order |= {node.name: node.order for node in graph.sources}
    rows: dict[tuple[int, bool], list[str]] = {}
    for name, moment in order.items():
        rows.setdefault((moment, kind_of(name) != "group"), []).append(name)
    places = {}
    for number, height in enumerate(sorted(rows)):
        row = rows[height]
        for i, name in enumerate(row):
            places[name] = ((i - (len(row) - 1) / 2) * _COLUMN * BOX_WIDTH, number * _ROW)
    return places


def _place(circuits: Sequence[Circuit]) -> Places:
    """The boxes of the shared layout, drawn together where lanes for edges held them far apart."""
    layout = lay_out(reduce(_either, circuits), most_rows=_ROWS)
    left, right, _, _ = layout.bounds()
    factor = min(1.0, _WIDTH / max(right - left, BOX_WIDTH))
    rows: dict[float, list[Placed]] = {}
    for node in sorted(layout.nodes, key=lambda node: node.x):
        rows.setdefault(node.y, []).append(node)
    pitch = _LEAST_PITCH + (_ROW - _LEAST_PITCH) * min(1.0, _ROWS / max(2 * len(rows), 1))
    return {
        node.name: (x, number * pitch)
        for number, y in enumerate(sorted(rows))
        for node, x in zip(rows[y], _apart([node.x * factor for node in rows[y]]), strict=True)
    }


def _apart(wishes: Sequence[float]) -> list[float]:
    """Places near the wished ones, in their order, no two closer than a column.

    The mean of pushing to the right and pushing to the left, which both keep the distance.

    >>> _apart([0.0, 0.0, 5.0])
    [-0.625, 0.625, 5.0]
    """
    rightwards = list(accumulate(wishes, lambda before, wish: max(wish, before + _COLUMN)))
    leftwards = list(accumulate(wishes[::-1], lambda after, wish: min(wish, after - _COLUMN)))
    return [(a + b) / 2 for a, b in zip(rightwards, leftwards[::-1], strict=True)]


def _either(a: Circuit, b: Circuit) -> Circuit:
    return Circuit(a.mask | b.mask, a.graph)
