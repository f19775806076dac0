"""Layout: where the nodes and edges of a circuit go in a drawing. Coordinates only, no drawing.

Rows run from `embed` at the bottom to `logits` at the top; a layer's attention is below its MLP,
or beside it in parallel blocks. An edge that passes rows gets a lane of its own in each of them, so
that no edge runs behind a box. Lengths are in units of one box width.
"""

from bisect import bisect_right, insort
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from circuits.circuit import Circuit, kind_of, node_of

BOX_WIDTH = 1.0
BOX_HEIGHT = 0.5
PORTS = {"q": -0.3, "k": 0.0, "v": 0.3}
"""How far right of a head's middle its query, key and value inputs are."""

_BOX_GAP, _LANE_GAP = 0.25, 0.13
_LEAST_BETWEEN, _MOST_BETWEEN = 0.45, 1.2
_BOX_FAN, _PORT_FAN = 0.4, 0.1  # how far from the middle the edges at one place spread
_SWEEPS = 10
_LANE_PULL = 8.0

Point = tuple[float, float]
_Item = str | tuple[int, int]  # a node, or the lane of one path in one row


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


def lay_out(circuit: Circuit) -> Layout:
    """Place the nodes and edges of a circuit.

    The order within a row comes from sweeps over the rows that move everything towards the mean of
    its neighbours (Sugiyama et al. 1981), keeping the order with the fewest crossings.

    >>> from patching.graph import Graph
    >>> edges = [("embed", "m0"), ("m0", "logits")]
    >>> [node.name for node in lay_out(Circuit.from_edges(Graph(1, 1, 1), edges)).nodes]
    ['embed', 'm0', 'logits']
    """
    rows = _rows(circuit)
    ends = [(source, dest) for source, dest, _ in circuit.scored_edges()]
    links = _links(circuit)
    paths = _add_lanes(rows, ends + links)
    x = _place(rows, paths)
    y = _heights(rows, paths, x)
    nodes = [
        Placed(n, n, kind_of(n), x[n], y[n]) for row in rows for n in row if isinstance(n, str)
    ]
    points = _routes(paths, [dest for _, dest in ends + links], x, y)
    arcs = [
        Arc(source, node_of(dest), dest, score, route)
        for (source, dest, score), route in zip(circuit.scored_edges(), points, strict=False)
    ]
    shared = [
        Arc(*link, link[1], None, route)
        for link, route in zip(links, points[len(ends) :], strict=True)
    ]
    return Layout(tuple(nodes), tuple(arcs), tuple(shared))


def _rows(circuit: Circuit) -> list[list[_Item]]:
    """The circuit's nodes by height: shared key-value heads just below the heads."""
    graph = circuit.graph
    order = {node_of(node.name): node.order for node in graph.destinations}
    order |= {node.name: node.order for node in graph.sources}
    rows: dict[tuple[int, bool], list[_Item]] = {}
    for name in circuit.nodes:
        rows.setdefault((order[name], kind_of(name) != "group"), []).append(name)
    return [rows[height] for height in sorted(rows)]


def _links(circuit: Circuit) -> list[tuple[str, str]]:
    graph, nodes = circuit.graph, circuit.nodes
    return [
        (node_of(reader.name), graph.sources[head].name)
        for index, reader in enumerate(graph.destinations)
        if kind_of(node_of(reader.name)) == "group" and reader.name.endswith(".k")
        for head in graph.feeds[index].nonzero().flatten().tolist()
        if node_of(reader.name) in nodes and graph.sources[head].name in nodes
    ]


def _add_lanes(rows: list[list[_Item]], ends: Sequence[tuple[str, str]]) -> list[list[_Item]]:
    """The items that every edge passes, one a row; its lanes are added to the rows."""
    height = {name: number for number, row in enumerate(rows) for name in row}
    paths = []
    for number, (source, dest) in enumerate(ends):
        low, high = height[source], height[node_of(dest)]
        lanes: list[_Item] = [(number, row) for row in range(low + 1, high)]
        for row, lane in enumerate(lanes, start=low + 1):
            rows[row].append(lane)
        paths.append([source, *lanes, node_of(dest)])
    return paths


def _place(rows: list[list[_Item]], paths: Sequence[Sequence[_Item]]) -> dict[_Item, float]:
    """The horizontal position of every item."""
    below: dict[_Item, list[_Item]] = {item: [] for row in rows for item in row}
    above: dict[_Item, list[_Item]] = {item: [] for row in rows for item in row}
    for path in paths:
        for low, high in zip(path, path[1:], strict=False):
            below[high].append(low)
            above[low].append(high)
    best = rows
    fewest = _crossings(best, above)
    for sweep in range(_SWEEPS):
        rows = _swept(rows, below) if sweep % 2 == 0 else _swept(rows[::-1], above)[::-1]
        crossings = _crossings(rows, above)
        if crossings < fewest:
            fewest, best = crossings, rows
    x = {item: place for row in best for item, place in zip(row, _centred(row), strict=True)}
    for sweep in range(2 * _SWEEPS):
        for row in best if sweep % 2 == 0 else best[::-1]:
            x |= _apart(row, {item: _pulled(item, below[item] + above[item], x) for item in row})
    return x


def _pulled(item: _Item, near: Sequence[_Item], x: Mapping[_Item, float]) -> float:
    """Where its neighbours pull an item; lanes pull each other harder, to stay upright."""
    both_lanes = [not isinstance(item, str) and not isinstance(other, str) for other in near]
    pulls = [_LANE_PULL if both else 1.0 for both in both_lanes]
    total = sum(pull * x[other] for pull, other in zip(pulls, near, strict=True))
    return total / sum(pulls) if pulls else x[item]


def _swept(rows: list[list[_Item]], near: Mapping[_Item, list[_Item]]) -> list[list[_Item]]:
    """The rows in a new order: each by the mean position of its neighbours in the row before."""
    x: dict[_Item, float] = {}
    result = []
    for row in rows:
        here = dict(zip(row, _centred(row), strict=True))
        wish = {item: _mean([x[other] for other in near[item]], here[item]) for item in row}
        result.append(sorted(row, key=lambda item: wish[item]))  # noqa: B023
        x |= _apart(result[-1], wish)
    return result


def _crossings(rows: list[list[_Item]], above: Mapping[_Item, list[_Item]]) -> int:
    """How many pairs of steps from row to row cross."""
    place = {item: number for row in rows for number, item in enumerate(row)}
    total = 0
    for row in rows:
        seen: list[int] = []
        for item in row:
            ends = sorted(place[other] for other in above[item])
            total += sum(len(seen) - bisect_right(seen, end) for end in ends)
            for end in ends:
                insort(seen, end)
    return total


def _mean(values: Sequence[float], otherwise: float) -> float:
    return sum(values) / len(values) if values else otherwise


def _gap(left: _Item, right: _Item) -> float:
    """How far apart the middles of two neighbours must be."""
    boxes = isinstance(left, str) + isinstance(right, str)
    return (_LANE_GAP, BOX_WIDTH / 2 + _LANE_GAP, BOX_WIDTH + _BOX_GAP)[boxes]


def _offsets(row: Sequence[_Item]) -> list[float]:
    """The positions of a row's items when they stand as close as they may."""
    offsets = [0.0]
    for left, right in zip(row, row[1:], strict=False):
        offsets.append(offsets[-1] + _gap(left, right))
    return offsets


def _centred(row: Sequence[_Item]) -> list[float]:
    offsets = _offsets(row)
    return [offset - offsets[-1] / 2 for offset in offsets]


def _apart(row: Sequence[_Item], wish: Mapping[_Item, float]) -> dict[_Item, float]:
    """The positions nearest to the wished ones (least squares) that keep order and gaps."""
    offsets = _offsets(row)
    blocks: list[tuple[float, int]] = []  # items pushed together: the sum of their shifts, count
    for item, offset in zip(row, offsets, strict=True):
        total, count = wish[item] - offset, 1
        while blocks and blocks[-1][0] / blocks[-1][1] >= total / count:
            total, count = total + blocks[-1][0], count + blocks[-1][1]
            blocks.pop()
        blocks.append((total, count))
    shifts = [total / count for total, count in blocks for _ in range(count)]
    return {item: shift + offset for item, shift, offset in zip(row, shifts, offsets, strict=True)}


def _heights(
    rows: list[list[_Item]], paths: Sequence[Sequence[_Item]], x: Mapping[_Item, float]
) -> dict[_Item, float]:
    """The vertical position of every item: rows stand further apart where edges run far aside."""
    number = {item: i for i, row in enumerate(rows) for item in row}
    reach = [0.0] * len(rows)
    for path in paths:
        for low, high in zip(path, path[1:], strict=False):
            reach[number[high]] = max(reach[number[high]], abs(x[low] - x[high]))
    y, result = 0.0, {}
    for row, far in zip(rows, reach, strict=True):
        y += BOX_HEIGHT + min(_MOST_BETWEEN, _LEAST_BETWEEN + far / 12)
        result |= dict.fromkeys(row, y)
    return result


def _routes(
    paths: Sequence[Sequence[_Item]],
    readers: Sequence[str],
    x: Mapping[_Item, float],
    y: Mapping[_Item, float],
) -> list[tuple[Point, ...]]:
    """The points of every path; paths that share an end of a box fan out."""
    starts = _fan([str(path[0]) for path in paths], [x[path[1]] for path in paths])
    arrivals = _fan(readers, [x[path[-2]] for path in paths])
    routes = []
    for path, start, reader, arrival in zip(paths, starts, readers, arrivals, strict=True):
        first, last = path[0], path[-1]
        room = _PORT_FAN if reader[-2:] in (".q", ".k", ".v") else _BOX_FAN
        port = PORTS[reader[-1]] if room == _PORT_FAN else 0.0
        route = [(x[first] + start * _BOX_FAN, y[first] + BOX_HEIGHT / 2)]
        for lane in path[1:-1]:
            route += [(x[lane], y[lane] - BOX_HEIGHT / 2), (x[lane], y[lane] + BOX_HEIGHT / 2)]
        route.append((x[last] + port + arrival * room, y[last] - BOX_HEIGHT / 2))
        routes.append(tuple(route))
    return routes


def _fan(shared: Sequence[str], towards: Sequence[float]) -> list[float]:
    """Where each path leaves a shared end, from -1 to 1, in the order of where it goes."""
    groups: dict[str, list[int]] = {}
    for index in sorted(range(len(shared)), key=lambda i: towards[i]):
        groups.setdefault(shared[index], []).append(index)
    places = [0.0] * len(shared)
    for group in groups.values():
        spread = min(1.0, (len(group) - 1) / 6)
        for rank, index in enumerate(group):
            places[index] = spread * (2 * rank / (len(group) - 1) - 1) if len(group) > 1 else 0.0
    return places
