"""Random circuits to compare with: what a circuit of that size keeps by chance. Knows no model."""

import random
from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from circuits.circuit import Circuit
from circuits.nodes import inner_nodes, node_circuit
from circuits.select import prune, random_circuit
from patching.graph import Graph
from patching.span_graph import readers_of, spans_of

_TRIES = 20


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


def connected_circuits(circuit: Circuit, n: int, *, seed: int) -> list[Circuit]:
    """Random circuits with as many edges as `circuit`, each on a path from `embed` to `logits`.

    The hardest to beat: random edges alone lead nowhere in a deep model, and keep nothing whatever
    they are. See `connected`.
    """
    return [connected(circuit.graph, circuit.size, seed + i) for i in range(n)]


def connected(graph: Graph, n: int, seed: int) -> Circuit:
    """The union of random paths from `embed` to `logits`, of n edges or the most that fit in n.

    A path goes back from the logits: from a reader to any writer before it, alike, and from there
    to any of the writer's own readers. Shi et al. 2024, "Hypothesis Testing the Circuit Hypothesis
    in LLMs", arXiv:2410.13032, draw the circuits they compare with so. Where no path fits any more,
    single edges between nodes that are on one fill up.

    >>> connected(Graph(n_layers=1, n_heads=1, n_kv_heads=1), 1, seed=0).edges
    [('embed', 'logits')]
    """
    draw, mask = random.Random(seed), torch.zeros_like(graph.exists)
    for _ in range(_TRIES):  # a start of short paths may leave room for none of the others
        found = _filled(_paths(graph, n, draw), graph, n, seed)
        mask = found if found.sum() > mask.sum() else mask
        if mask.sum() == n:
            break
    selection = {"selector": "random paths", "requested": n, "size": int(mask.sum()), "seed": seed}
    return Circuit(mask, graph, None, {"selection": selection})


def _paths(graph: Graph, n: int, draw: random.Random) -> Bool[Tensor, "source dest"]:
    """Random paths, until no other one fits into n edges."""
    into = [column.nonzero().flatten().tolist() for column in graph.exists.T]
    edges: set[tuple[int, int]] = set()
    missed = 0
    while len(edges) < n and missed < _TRIES:
        more = set(_path(graph, into, draw)) - edges
        fits = bool(more) and len(edges) + len(more) <= n
        edges |= more if fits else set()
        missed = 0 if fits else missed + 1
    mask = torch.zeros_like(graph.exists)
    for edge in edges:
        mask[edge] = True
    return mask


def _path(
    graph: Graph, into: Sequence[Sequence[int]], draw: random.Random
) -> Iterator[tuple[int, int]]:
    """The edges of one path, the last first; with spans apart, from the logits at any of them."""
    n_spans = max(len(spans_of(graph)), 1)
    dest, embed = len(into) - 1 - draw.randrange(n_spans), graph.source_index("embed")
    while True:
        source = draw.choice(into[dest])
        yield source, dest
        if source == embed:
            return
        dest = draw.choice(sorted(readers_of(graph, source, dest % n_spans)))


def _filled(
    mask: Bool[Tensor, "source dest"], graph: Graph, n: int, seed: int
) -> Bool[Tensor, "source dest"]:
    """With random edges between nodes that have edges, up to n."""
    between = graph.exists & mask.any(dim=1)[:, None] & mask.any(dim=0)[None, :] & ~mask
    free = between.flatten().nonzero().squeeze(1)
    order = torch.randperm(len(free), generator=torch.Generator().manual_seed(seed))
    filled = mask.clone()
    filled.view(-1)[free[order[: n - int(mask.sum())]]] = True
    return filled


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
