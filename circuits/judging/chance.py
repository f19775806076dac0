"""Random circuits to compare with: what a circuit of that size keeps by chance. Knows no model."""

from collections.abc import Sequence

import torch
from jaxtyping import Int
from torch import Tensor

from circuits.circuit import Circuit
from circuits.nodes import inner_nodes, node_circuit
from circuits.select import prune, random_circuit
from patching.graph import Graph


def uniform_circuits(circuit: Circuit, n: int, *, seed: int, pruned: bool) -> list[Circuit]:
    """Random circuits with as many edges as `circuit`, each set of edges equally likely.

    With the same seed, the i-th circuits of two sizes are nested: both begin one random ranking.
    With `pruned`, edges on no path from `embed` to `logits` are dropped afterwards.
    """
    drawn = [random_circuit(circuit.graph, circuit.size, seed + i) for i in range(n)]
    return _pruned(drawn) if pruned else drawn


def layer_matched_circuits(circuit: Circuit, n: int, *, seed: int, pruned: bool) -> list[Circuit]:
    """Random circuits with as many edges into every layer as `circuit` has.

    The layer of an edge is that of its reader; the logits are a layer of their own. Harder to beat
    than `uniform_circuits`, for a circuit gets no credit for the layers it is in. Nested like
    those.
    """
    drawn = [layer_matched(circuit, seed + i) for i in range(n)]
    return _pruned(drawn) if pruned else drawn


def layer_matched(circuit: Circuit, seed: int) -> Circuit:
    """Random edges, as many into every layer as `circuit` has.

    >>> graph = Graph(n_layers=1, n_heads=1, n_kv_heads=1)
    >>> circuit = Circuit.from_edges(graph, [("m0", "logits")])
    >>> layer_matched(circuit, seed=0).edges
    [('embed', 'logits')]
    """
    graph = circuit.graph
    shuffled = _shuffled(graph, seed)
    layers = edge_layers(graph).flatten()[shuffled]
    wanted = circuit.mask.flatten()
    mask = torch.zeros_like(graph.exists)
    for layer in range(graph.n_layers + 1):
        n = int((wanted & (edge_layers(graph).flatten() == layer)).sum())
        mask.view(-1)[shuffled[layers == layer][:n]] = True
    return Circuit(mask, graph, None, {"selection": {"selector": "layer-matched", "seed": seed}})


def uniform_nodes(circuit: Circuit, n: int, *, seed: int) -> list[Circuit]:
    """Circuits of as many random heads and MLPs as `circuit` has, each set equally likely."""
    return [_random_nodes(circuit, seed + i, by_layer=False) for i in range(n)]


def layer_matched_nodes(circuit: Circuit, n: int, *, seed: int) -> list[Circuit]:
    """Circuits of random heads and MLPs, as many of every layer and kind as `circuit` has."""
    return [_random_nodes(circuit, seed + i, by_layer=True) for i in range(n)]


def _random_nodes(circuit: Circuit, seed: int, *, by_layer: bool) -> Circuit:
    graph, wanted = circuit.graph, inner_nodes(circuit)
    names = graph.inner
    order = torch.randperm(len(names), generator=torch.Generator().manual_seed(seed)).tolist()
    shuffled = [names[i] for i in order]
    if not by_layer:
        return node_circuit(graph, shuffled[: len(wanted)])
    chosen: list[str] = []
    for group in dict.fromkeys(map(_layer_and_kind, names)):
        n = sum(_layer_and_kind(name) == group for name in wanted)
        chosen += [name for name in shuffled if _layer_and_kind(name) == group][:n]
    return node_circuit(graph, chosen)


def _layer_and_kind(name: str) -> str:
    """`a3` of the head `a3.h1`, `m3` of the MLP `m3`."""
    return name.split(".")[0]


def edge_layers(graph: Graph) -> Int[Tensor, "source dest"]:
    """The layer of every edge's reader; the number of layers for edges into the logits."""
    layers = torch.tensor([node.layer for node in graph.destinations])
    return layers.expand(len(graph.sources), -1)


def _shuffled(graph: Graph, seed: int) -> Int[Tensor, " edge"]:
    edges = graph.exists.flatten().nonzero().squeeze(1)
    return edges[torch.randperm(len(edges), generator=torch.Generator().manual_seed(seed))]


def _pruned(circuits: Sequence[Circuit]) -> list[Circuit]:
    return [prune(circuit) for circuit in circuits]
