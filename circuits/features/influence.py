"""How much of what a graph explains passes each node: influence, and two scores made of it.

`N[t, s] = |A[t, s]| / sum_s |A[t, s]|`, and with p at the logits the influence of all nodes is
`p (N + N^2 + ...)`: a path is worth the product of its shares. Ameisen et al. 2025.
"""

from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.features.graph import EMBEDDING, ERROR, FeatureGraph


def shares(graph: FeatureGraph) -> Float[Tensor, " edge"]:
    """Of every edge, its share of all absolute weights into its target, the rest included."""
    sizes = graph.weights.double().abs()
    total = graph.rest_sizes.double().index_add(0, graph.targets, sizes)
    return sizes / total[graph.targets].clamp(min=1e-12)


def influence(graph: FeatureGraph, share: Float[Tensor, " edge"]) -> Float[Tensor, " node"]:
    """Influence by the series, which ends: no node influences one that lies before it."""
    step = graph.nodes.weights.double()
    total = torch.zeros_like(step)
    while bool(step.any()):
        passed = step[graph.targets] * share
        step = torch.zeros_like(step).index_add(0, graph.sources, passed)
        total += step
    return total


def with_influence(graph: FeatureGraph) -> FeatureGraph:
    """The graph with the influence of its nodes, and its scores among the facts."""
    share = shares(graph)
    found = influence(graph, share)
    nodes = replace(graph.nodes, influences=found.to(graph.weights))
    scores = _scores(graph, share, found)
    return replace(graph, nodes=nodes, facts={**graph.facts, "scores": scores})


def _scores(
    graph: FeatureGraph, share: Float[Tensor, " edge"], found: Float[Tensor, " node"]
) -> dict[str, float]:
    """Replacement: the embeddings' part of the influence of all that reads nothing.

    Completeness: the part of incoming weight that comes from no error, in the mean over nodes
    weighted by influence (and p).
    """
    is_error = graph.nodes.kinds == ERROR
    errors = float(found[is_error].sum())
    embeddings = float(found[graph.nodes.kinds == EMBEDDING].sum())
    bad = share.where(is_error[graph.sources], 0)
    good = 1 - torch.zeros_like(found).index_add(0, graph.targets, bad)
    weight = found + graph.nodes.weights.double()
    return {
        "replacement": embeddings / max(embeddings + errors, 1e-12),
        "completeness": float((good * weight).sum() / weight.sum().clamp(min=1e-12)),
    }


def merits(graph: FeatureGraph) -> Float[Tensor, " edge"]:
    """By which edges are ranked: what passes each, `N[t, s] (influence_t + p_t)`."""
    reached = graph.nodes.influences.double() + graph.nodes.weights.double()
    return shares(graph) * reached[graph.targets]
