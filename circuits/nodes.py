"""Circuits of whole nodes: a node outside writes what the ablation says, whoever reads it.

A set of heads and MLPs is a circuit like any other: all edges among them, the embedding and the
logits. Runs no model.
"""

from collections.abc import Iterable

import torch

from circuits.circuit import Circuit
from circuits.scores import Ranking, Scores
from patching.graph import Graph


def node_circuit(graph: Graph, nodes: Iterable[str]) -> Circuit:
    """All edges among some heads and MLPs, the embedding and the logits.

    Nodes outside read nothing live, which changes nothing but where a norm over a layer's heads
    follows (Gemma 2, OLMo 2): there they take part in it as they are in the corrupt run.

    >>> graph = Graph(n_layers=1, n_heads=2, n_kv_heads=2)
    >>> node_circuit(graph, ["m0"]).edges
    [('embed', 'm0'), ('embed', 'logits'), ('m0', 'logits')]

    Raises:
        ValueError: if the graph has no such head or MLP.
    """
    kept = torch.zeros(len(graph.sources), dtype=torch.bool)
    for name in nodes:
        if name not in ("embed", "logits"):
            kept[graph.source_index(name)] = True
    read = (graph.feeds & kept).any(dim=1)
    kept[graph.source_index("embed")] = True
    read[graph.dest_index("logits")] = True
    return Circuit(graph.exists & kept[:, None] & read, graph)


def top_nodes(scores: Scores, n: int, *, ranking: Ranking) -> Circuit:
    """The circuit of the n best heads and MLPs, by the sum of the scores of their outgoing edges.

    That sum is a node's own score to first order. Ties go to the first in the graph's order.

    Raises:
        ValueError: if the graph does not have n heads and MLPs, or the ranking is unknown.
    """
    graph = scores.graph
    merit = scores.matrix.sum(dim=1)[[graph.source_index(name) for name in graph.inner]]
    if not 0 <= n <= len(merit):
        raise ValueError(
            f"cannot choose {n} nodes; this graph has {len(merit)} heads and MLPs, 0 is the least"
        )
    if ranking not in ("signed", "absolute"):
        raise ValueError(f"no ranking named {ranking!r}; there are signed and absolute")
    merit = merit.abs() if ranking == "absolute" else merit
    best = merit.argsort(descending=True, stable=True)[:n]
    circuit = node_circuit(graph, [graph.inner[i] for i in best.tolist()])
    selection = {"selector": "top_nodes", "requested": n, "ranking": ranking, "size": circuit.size}
    return Circuit(
        circuit.mask, graph, scores.matrix, {**scores.provenance, "selection": selection}
    )


def inner_nodes(circuit: Circuit) -> list[str]:
    """The heads and MLPs that write into a circuit, in the graph's order."""
    writes = circuit.mask.any(dim=1).tolist()
    return [
        node.name
        for node, is_in in zip(circuit.graph.sources, writes, strict=True)
        if is_in and node.name != "embed"
    ]
