"""Shared keys and values, and those of every query head: from the one graph to the other.

A model may be loaded with keys and values for every query head (`patching.anatomy.ungrouping`), and
other tools know no others. What is said of such a graph is joined here: over the query heads of a
group, scores are summed, and an edge is in a circuit if it is for any of them.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from circuits.circuit import Circuit
from circuits.scores import Scores
from patching.graph import Graph
from patching.span_graph import plain_of

SPLIT = "edges kept for some heads of a group"
"""In the provenance of a joined circuit: how many edges it keeps for more heads than before."""


def shared_readers(graph: Graph) -> Int[Tensor, " ungrouped_dest"]:
    """Which reader of the graph each reader of the ungrouped one is."""
    heads, n_shared = torch.arange(graph.n_heads), graph.n_kv_heads
    keys = graph.n_heads + heads // (graph.n_heads // n_shared)
    rest = torch.arange(graph.gate_readers(0).start, graph.mlp_reader(0) + 1)
    layer = torch.cat([heads, keys, keys + n_shared, rest])
    starts = torch.tensor([graph.q_readers(i).start for i in range(graph.n_layers)])
    logits = torch.tensor([len(graph.destinations) - 1])
    return torch.cat([(starts[:, None] + layer).flatten(), logits])


def join_scores(scores: Scores, graph: Graph, what: str = "the scores are") -> Scores:
    """Scores of the ungrouped graph as those of this one, summed over each group's query heads.

    For gradients that is exact: a group's score is the sum of its query heads'. Scores of this
    graph are handed back as they are. `what` is named where they do not fit.

    >>> graph = Graph(n_layers=1, n_heads=4, n_kv_heads=2)
    >>> wide = graph.ungrouped
    >>> join_scores(Scores(wide.exists.double(), wide, {}), graph).of("embed", "a0.g1.k")
    2.0

    Raises:
        ValueError: if they are of neither graph.
    """
    if plain_of(scores.graph) == graph:
        return scores
    _require_fit(scores.graph, graph, what)
    matrix = _sum(scores.matrix, graph)
    return Scores(matrix, graph, scores.provenance, scores.completeness)


def join_circuit(circuit: Circuit, graph: Graph, what: str = "the circuit is") -> Circuit:
    """A circuit of the ungrouped graph as one of this graph: a group's edge is in it for any head.

    Provenance counts the edges that not all heads of a group had. A circuit of this graph is handed
    back as it is. `what` is named where it does not fit.

    Raises:
        ValueError: if it is of neither graph.
    """
    if plain_of(circuit.graph) == graph:
        return circuit
    _require_fit(circuit.graph, graph, what)
    n_kept = _sum(circuit.mask.double(), graph)
    scores = None if circuit.scores is None else _sum(circuit.scores, graph)
    n_split = int(_is_split(n_kept, graph).sum())
    provenance = {**circuit.provenance, SPLIT: n_split} if n_split else circuit.provenance
    return Circuit(n_kept > 0, graph, scores, provenance)


def _sum(matrix: Float[Tensor, "source ungrouped_dest"], graph: Graph) -> Float[Tensor, "..."]:
    zeros = torch.zeros(graph.exists.shape, dtype=torch.float64)
    return zeros.index_add(1, shared_readers(graph), matrix)


def _is_split(n_kept: Float[Tensor, "source dest"], graph: Graph) -> Bool[Tensor, "source dest"]:
    return (n_kept > 0) & (n_kept < shared_readers(graph).bincount())


def _require_fit(given: Graph, graph: Graph, what: str) -> None:
    if given != graph.ungrouped:
        graph.require_same(given, what)
