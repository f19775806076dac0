"""Placement: boxes in given rows, and edges between them. Knows no circuit.

An edge that passes rows gets a lane of its own in each of them, so that no edge runs behind a box.
The order within a row comes from sweeps over the rows that move everything towards the mean of its
neighbours (Sugiyama et al. 1981), keeping the order with the fewest crossings.
"""

from bisect import bisect_right, insort
from collections.abc import Mapping, Sequence
from itertools import accumulate

BOX_WIDTH = 1.0
BOX_HEIGHT = 0.5
PORTS = {"q": -0.3, "k": 0.0, "v": 0.3}
"""How far right of a box's middle its query, key and value inputs are."""

_BOX_GAP, _LANE_GAP, _COLUMN_GAP = 0.25, 0.13, 0.8
_LEAST_BETWEEN, _MOST_BETWEEN = 0.45, 1.2
_BOX_FAN, _PORT_FAN = 0.4, 0.1  # how far from the middle the edges at one place spread
_SWEEPS = 10
_LANE_PULL = 8.0

Point = tuple[float, float]
Edge = tuple[str, str, str]
"""From a box to a box, and where it ends there: at the box itself or at `NAME.q`, `.k` or `.v`."""
_Item = str | tuple[int, int]  # a box, or the lane of one edge in one row


def place(
    rows: Sequence[Sequence[str]], edges: Sequence[Edge]
) -> tuple[dict[str, Point], list[tuple[Point, ...]]]:
    """The middle of every box, and the points of every edge; lengths are in box widths.

    Rows go upwards, and so does every edge. Its points come in pairs, the ends of one step from row
    to row.

    >>> place([["a"], ["b"]], [("a", "b", "b")])
    ({'a': (0.0, 0.95), 'b': (0.0, 1.9)}, [((0.0, 1.2), (0.0, 1.65))])
    """
    (placed,) = place_columns([rows], [edges])
    return placed


def place_columns(
    columns: Sequence[Sequence[Sequence[str]]], edges: Sequence[Sequence[Edge]]
) -> list[tuple[dict[str, Point], list[tuple[Point, ...]]]]:
    """`place` for columns side by side, whose rows are at the same heights."""
    filled: list[list[list[_Item]]] = [[list(row) for row in rows] for rows in columns]
    paths = [_add_lanes(rows, mine) for rows, mine in zip(filled, edges, strict=True)]
    xs = [_place(rows, mine) for rows, mine in zip(filled, paths, strict=True)]
    reaches = [_reach(*column) for column in zip(filled, paths, xs, strict=True)]
    y = _heights([max(row) for row in zip(*reaches, strict=True)])
    found, left = [], 0.0
    for rows, mine, theirs, x in zip(filled, paths, edges, xs, strict=True):
        if len(filled) > 1:
            x, left = _shifted(x, left)
        heights = {item: y[i] for i, row in enumerate(rows) for item in row}
        middles = {item: (x[item], heights[item]) for item in x if isinstance(item, str)}
        found.append((middles, _routes(mine, theirs, x, heights)))
    return found


def _shifted(x: Mapping[_Item, float], left: float) -> tuple[dict[_Item, float], float]:
    """A column moved to begin at `left`, and where the next one begins."""
    first, last = min(x.values(), default=0.0), max(x.values(), default=0.0)
    moved = {item: place - first + left + BOX_WIDTH / 2 for item, place in x.items()}
    return moved, left + last - first + BOX_WIDTH + _COLUMN_GAP


def _add_lanes(rows: list[list[_Item]], edges: Sequence[Edge]) -> list[list[_Item]]:
    """The items that every edge passes, one a row; its lanes are added to the rows."""
    height = {name: number for number, row in enumerate(rows) for name in row}
    paths = []
    for number, (source, dest, _) in enumerate(edges):
        low, high = height[source], height[dest]
        lanes: list[_Item] = [(number, row) for row in range(low + 1, high)]
        for row, lane in enumerate(lanes, start=low + 1):
            rows[row].append(lane)
        paths.append([source, *lanes, dest])
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
    return offsets[: len(row)]


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


def _reach(
    rows: list[list[_Item]], paths: Sequence[Sequence[_Item]], x: Mapping[_Item, float]
) -> list[float]:
    """How far aside edges run that arrive at each row."""
    number = {item: i for i, row in enumerate(rows) for item in row}
    reach = [0.0] * len(rows)
    for path in paths:
        for low, high in zip(path, path[1:], strict=False):
            reach[number[high]] = max(reach[number[high]], abs(x[low] - x[high]))
    return reach


def _heights(reach: Sequence[float]) -> list[float]:
    """The height of every row: they stand further apart where edges run far aside."""
    between = (BOX_HEIGHT + min(_MOST_BETWEEN, _LEAST_BETWEEN + far / 12) for far in reach)
    return list(accumulate(between))


def _routes(
    paths: Sequence[Sequence[_Item]],
    edges: Sequence[Edge],
    x: Mapping[_Item, float],
    y: Mapping[_Item, float],
) -> list[tuple[Point, ...]]:
    """The points of every path; paths that share an end of a box fan out."""
    starts = _fan([str(path[0]) for path in paths], [x[path[1]] for path in paths])
    arrivals = _fan([reader for _, _, reader in edges], [x[path[-2]] for path in paths])
    routes = []
    for path, start, edge, arrival in zip(paths, starts, edges, arrivals, strict=True):
        (first, last), (_, dest, reader) = (path[0], path[-1]), edge
        room, port = (_BOX_FAN, 0.0) if reader == dest else (_PORT_FAN, PORTS[reader[-1]])
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
