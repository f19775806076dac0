"""Bands: the rows of boxes that a drawing has, one for each moment of the forward pass, or fewer.

A deep model's circuit has more moments than a page has room for. Neighbouring rows then become one
band where no edge runs between them, so that layers stay in order and every edge still goes up.
"""

from collections.abc import Collection, Mapping, Sequence

from circuits.circuit import Circuit
from circuits.naming import kind_of, node_of

_WIDEST = (4, 6, 8, 12)  # boxes of a band, tried in turn


def bands(circuit: Circuit, most: int | None = None) -> list[list[str]]:
    """The circuit's nodes from the bottom up: a row each moment, merged where there are too many.

    Bands are as narrow as they can be and still at most `most`; where even the widest are more,
    they are as few as they can be.

    >>> from patching.graph import Graph
    >>> edges = [("embed", "m0"), ("m0", "logits"), ("embed", "a1.h0.q"), ("a1.h0", "logits")]
    >>> circuit = Circuit.from_edges(Graph(2, 1, 1), edges)
    >>> bands(circuit)
    [['embed'], ['m0'], ['a1.h0'], ['logits']]
    >>> bands(circuit, most=3)
    [['embed'], ['m0', 'a1.h0'], ['logits']]
    """
    rows = _moments(circuit)
    if most is None or len(rows) <= most:
        return rows
    before: dict[str, set[str]] = {}
    for source, reader in [*circuit.edges, *links(circuit)]:
        before.setdefault(node_of(reader), set()).add(source)
    found = [_merged(rows, before, widest) for widest in (*_WIDEST, len(circuit.nodes))]
    return next((some for some in found if len(some) <= most), found[-1])


def links(circuit: Circuit) -> list[tuple[str, str]]:
    """Shared key-value heads with the heads of the circuit that use them; these are no edges."""
    graph, nodes = circuit.graph, circuit.nodes
    return [
        (node_of(reader.name), graph.sources[head].name)
        for index, reader in enumerate(graph.destinations)
        if kind_of(node_of(reader.name)) == "group" and reader.name.endswith(".k")
        for head in graph.feeds[index].nonzero().flatten().tolist()
        if node_of(reader.name) in nodes and graph.sources[head].name in nodes
    ]


def _moments(circuit: Circuit) -> list[list[str]]:
    """The circuit's nodes by height: shared key-value heads just below the heads."""
    graph = circuit.graph
    order = {node_of(node.name): node.order for node in graph.destinations}
    order |= {node.name: node.order for node in graph.sources}
    rows: dict[tuple[int, bool], list[str]] = {}
    for name in circuit.nodes:
        rows.setdefault((order[name], kind_of(name) != "group"), []).append(name)
    return [rows[height] for height in sorted(rows)]


def _merged(
    rows: Sequence[Sequence[str]], before: Mapping[str, Collection[str]], widest: int
) -> list[list[str]]:
    """Each row joins the band below it, if it fits in and nothing there leads to it.

    `embed` and `logits` stay alone.
    """
    found: list[list[str]] = []
    for row in rows:
        alone = not found or {"embed", "logits"} & {*found[-1], *row}
        fits = not alone and len(found[-1]) + len(row) <= widest
        if fits and not any(set(found[-1]) & set(before.get(name, ())) for name in row):
            found[-1] += row
        else:
            found.append([*row])
    return found
