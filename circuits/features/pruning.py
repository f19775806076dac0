"""Pruning a graph of features to what carries most of the influence. Ameisen et al. 2025."""

from dataclasses import replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from circuits.features.graph import EMBEDDING, ERROR, FEATURE, LOGIT, FeatureGraph
from circuits.features.influence import influence, shares


def prune(
    graph: FeatureGraph, *, nodes: float | int = 0.8, edges: float | int = 0.98
) -> FeatureGraph:
    """The nodes that hold a share of all influence, and the edges that hold one between them.

    Tokens and logits stay. On what is left, influence is found anew, and an edge counts
    `N[t, s] (influence_t + p_t)`. Then features and errors that influence nothing, and features
    that nothing influences, are taken away until none is left. What is lost goes to the rest of
    each row; influences and scores stay those of the whole graph.

    Raises:
        ValueError: if a share is not between 0 and 1.
    """
    for name, share in (("nodes", nodes), ("edges", edges)):
        if not 0 < share <= 1:
            raise ValueError(f"the share of influence to keep in {name} is in (0, 1], got {share}")
    chosen = prune_masks(graph, nodes=nodes, edges=edges)
    facts = {**graph.facts, "pruned": {"nodes": nodes, "edges": edges, "of": len(graph)}}
    return replace(graph.kept(*chosen), facts=facts)


def prune_masks(
    graph: FeatureGraph, *, nodes: float | int, edges: float | int
) -> tuple[Bool[Tensor, " node"], Bool[Tensor, " edge"]]:
    """Which nodes and edges `prune` keeps."""
    kinds, found = graph.nodes.kinds, graph.nodes.influences.double()
    ends = (kinds == EMBEDDING) | (kinds == LOGIT)
    left = (found >= _least(found, nodes)) | ends
    inside = left[graph.targets] & left[graph.sources]
    bare = replace(
        graph,
        weights=graph.weights.where(inside, 0),
        rest_sizes=torch.zeros_like(graph.rest_sizes),
    )
    share = shares(bare)
    reached = influence(bare, share) + graph.nodes.weights.double()
    merit = share * reached[graph.targets]
    chosen = merit >= _least(merit[merit > 0], edges)
    inner, features = (kinds == FEATURE) | (kinds == ERROR), kinds == FEATURE
    while True:
        chosen &= left[graph.targets] & left[graph.sources]
        passes = _ends_of(graph.sources[chosen], len(graph))
        reads = _ends_of(graph.targets[chosen], len(graph))
        fewer = left & (passes | ~inner) & (reads | ~features)
        if torch.equal(fewer, left):
            return left, chosen
        left = fewer


def _ends_of(some: Tensor, n: int) -> Bool[Tensor, " node"]:
    return torch.zeros(n, dtype=torch.bool).index_fill(0, some, True)


def _least(values: Float[Tensor, " n"], share: float | int) -> float:
    """The least of the largest values that add up to a share of all."""
    if not len(values) or float(values.sum()) == 0:
        return 0.0
    ordered = values.sort(descending=True).values
    enough = torch.searchsorted(ordered.cumsum(0) / ordered.sum(), share)
    return float(ordered[min(int(enough), len(ordered) - 1)])
