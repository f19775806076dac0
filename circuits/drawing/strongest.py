"""The edges of a circuit that are drawn where all are too many."""

from collections.abc import Iterator, Mapping

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from circuits.circuit import Circuit
from circuits.select import prune
from patching.span_graph import spans_of

_Edge = tuple[int, int]


def strongest(circuit: Circuit, n: int) -> Circuit:
    """At most n edges by |score|, the first ones without scores, and none that dangles.

    They are as many of the strongest as leave n that join `embed` to `logits` among themselves.
    Where these are fewer than half of n, the strongest each with the strongest way from `embed` and
    to `logits`; where there is none in the circuit, the n strongest as they are.
    """
    if circuit.size <= n:
        return circuit
    order = _by_strength(circuit)
    joined = _joined(circuit, order, n)
    if 2 * joined.size >= n:
        return joined
    with_ways = _with_ways(circuit, order, n)
    return with_ways if with_ways.size else _first(circuit, order, n)


def _with_ways(circuit: Circuit, order: Int[Tensor, " edge"], n: int) -> Circuit:
    """The first edges whose ways fit in n; none where spans are apart, or no edge is on a way."""
    mask = torch.zeros_like(circuit.mask)
    alive = prune(circuit).mask
    if alive.any() and not spans_of(circuit.graph):
        before, after = _ways(circuit, alive, order)
        kept: set[_Edge] = set()
        for edge in (divmod(i, alive.shape[1]) for i in order.tolist()):
            if alive[edge] and len(kept) < n:
                way = {edge, *_followed(edge, before, 0), *_followed(edge, after, 1)}
                kept = kept if len(kept | way) > n else kept | way
        for edge in kept:
            mask[edge] = True
    return Circuit(mask, circuit.graph, circuit.scores)


def _ways(
    circuit: Circuit, alive: Bool[Tensor, "source dest"], order: Int[Tensor, " edge"]
) -> tuple[dict[int, _Edge], dict[int, _Edge]]:
    """The strongest edge by which each writer is come to, and by which each reader goes on."""
    before, after = dict[int, _Edge](), dict[int, _Edge]()
    fed = [row.nonzero().flatten().tolist() for row in circuit.graph.feeds]
    readers = [column.nonzero().flatten().tolist() for column in circuit.graph.feeds.T]
    for edge in (divmod(i, alive.shape[1]) for i in order.tolist()):
        if alive[edge]:
            source, dest = edge
            for writer in fed[dest]:
                before.setdefault(writer, edge)
            for reader in readers[source]:
                after.setdefault(reader, edge)
    return before, after


def _followed(edge: _Edge, ways: Mapping[int, _Edge], end: int) -> Iterator[_Edge]:
    """One edge after the other, as far as it goes."""
    while edge[end] in ways:
        edge = ways[edge[end]]
        yield edge


def _joined(circuit: Circuit, order: Int[Tensor, " edge"], n: int) -> Circuit:
    """The most of the first edges, in which those that dangle are left out: by halving."""
    low, high = n, len(order)
    while low < high:
        middle = (low + high + 1) // 2
        if prune(_first(circuit, order, middle)).size <= n:
            low = middle
        else:
            high = middle - 1
    return prune(_first(circuit, order, low))


def _by_strength(circuit: Circuit) -> Int[Tensor, " edge"]:
    """The circuit's edges as flat indices, the strongest first; ties in order."""
    size = circuit.mask.double() if circuit.scores is None else circuit.scores.abs()
    size = size.where(circuit.mask, -1.0).flatten()
    return size.sort(descending=True, stable=True).indices[: circuit.size]


def _first(circuit: Circuit, order: Int[Tensor, " edge"], n: int) -> Circuit:
    mask = torch.zeros_like(circuit.mask)
    mask.view(-1)[order[:n]] = True
    return Circuit(mask, circuit.graph, circuit.scores)
