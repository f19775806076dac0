"""Circuits and scores with spans kept apart, and without: from one to the other.

`by_span` says of every edge that it is the same at all spans; `collapsed` keeps an edge that is
there at any, and adds scores up. Haklay et al. 2025, arXiv:2502.04577. Knows no model library.
"""

from collections.abc import Sequence
from typing import TypeVar

from jaxtyping import Shaped
from torch import Tensor

from circuits.circuit import Circuit
from circuits.scores import Scores
from patching.span_graph import SpanGraph, plain_of, spans_of

CircuitOrScores = TypeVar("CircuitOrScores", Circuit, Scores)


def by_span(circuit: Circuit, spans: Sequence[str]) -> Circuit:
    """The circuit with each of its edges at every span; run, it does what it did.

    Scores are left out: an edge's would have to be divided.

    >>> from patching.graph import Graph
    >>> circuit = Circuit.from_edges(Graph(1, 1, 1), [("embed", "m0")])
    >>> by_span(circuit, ("rest", "end")).edges
    [('embed', 'm0@rest'), ('embed', 'm0@end')]

    Raises:
        ValueError: if it keeps spans apart already, or names are not sound.
    """
    if before := spans_of(circuit.graph):
        raise ValueError(f"this circuit keeps spans apart: {', '.join(before)}; collapse it first")
    graph = SpanGraph.of(circuit.graph, spans)
    mask = circuit.mask.repeat_interleave(graph.n_spans, dim=1)
    return Circuit(mask, graph, None, {"operation": "by span", "of": [dict(circuit.provenance)]})


def collapsed(found: CircuitOrScores) -> CircuitOrScores:
    """Without spans: the edges that are there at any, and the sums of scores.

    What keeps no spans apart stays as it is. A circuit's collapse does more than it did: its edges
    are at all spans.
    """
    graph, spans = found.graph, spans_of(found.graph)
    if not spans:
        return found
    plain, cut = plain_of(graph), (len(found.graph.destinations) // len(spans), len(spans))
    provenance = {"operation": "collapsed", "of": [dict(found.provenance)]}
    if isinstance(found, Circuit):
        scores = None if found.scores is None else found.scores.unflatten(1, cut).sum(dim=2)
        return Circuit(found.mask.unflatten(1, cut).any(dim=2), plain, scores, provenance)
    rest = {name: value for name, value in found.provenance.items() if name != "spans"}
    summed = found.matrix.unflatten(1, cut).sum(dim=2)
    rest["positions"] = "summed over all tokens up to the answer"
    return Scores(summed, plain, rest, found.completeness)


def at_span(found: CircuitOrScores, span: str) -> CircuitOrScores:
    """What is said of one span, as a circuit or scores without any.

    Raises:
        ValueError: if there is no such span.
    """
    spans = spans_of(found.graph)
    if span not in spans:
        raise ValueError(f"no span {span!r}; there is {', '.join(spans) or 'none kept apart'}")
    i, plain = spans.index(span), plain_of(found.graph)
    provenance = {"operation": f"at span {span}", "of": [dict(found.provenance)]}
    if isinstance(found, Circuit):
        scores = None if found.scores is None else _column(found.scores, i, spans)
        return Circuit(_column(found.mask, i, spans), plain, scores, provenance)
    provenance = {**found.provenance, "positions": f"summed over the span {span}"}
    return Scores(_column(found.matrix, i, spans), plain, provenance)


def _column(
    matrix: Shaped[Tensor, "source dest"], i: int, spans: Sequence[str]
) -> Shaped[Tensor, "source plain_dest"]:
    return matrix[:, i :: len(spans)].contiguous()
