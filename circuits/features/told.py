"""What units of a graph are about: values over the prompt, examples in a text, promoted tokens."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from circuits.features.graph import FEATURE, FeatureGraph
from circuits.features.linear import run_linear
from circuits.features.steering import Steering, matching, steer
from circuits.features.trace import Traced
from circuits.features.units import Features
from patching.dictionaries.examples import Examples, examples_of
from patching.files.brief import briefly
from patching.lens.prompts import Prompts, Source
from patching.model import Model


@briefly
@dataclass(frozen=True, eq=False)
class FeatureInsides:
    """What a model shows of a graph's units beside the graph.

    `units` are layers and indices, `[unit 2]`; `values` their activations at every position of the
    prompt. Of a neuron that the prompt made negative, examples are of its other sign.
    """

    units: Int[Tensor, "unit 2"]
    values: Float[Tensor, "unit pos"]
    examples: Examples
    steering: Steering | None


def look_at_features(
    model: Model,
    graph: FeatureGraph,
    features: Traced,
    *,
    text: Source | Prompts | None = None,
    contexts: int = 4,
    steered: int = 20,
    factors: Sequence[float | int] = (0.0, 2.0),
) -> FeatureInsides:
    """Read a model on a graph's prompt, for `explore_features(..., insides=...)`.

    >>> from circuits.features import trace
    >>> model = Model.load("toy-llama")
    >>> graph = trace(model, [1, 5, 6], "neurons", logits=1, validity=0)
    >>> seen = look_at_features(model, graph, "neurons", steered=0)
    >>> len(seen.values) == len(seen.examples)
    True

    Args:
        model: that the graph is of.
        graph: with the prompt.
        features: that the graph is of.
        text: where the largest activations are looked for; else the prompt itself.
        contexts: of each unit, and tokens that it promotes.
        steered: how many units are changed in the real model (`steer`).
        factors: by which.

    Raises:
        ValueError: if features do not fit the model or the graph, or text the model.
    """
    features = matching(model, graph, features)
    units, signs = _units(graph)
    asked = {}
    for layer in units[:, 0].unique().tolist():
        here = units[:, 0] == layer
        asked[f"m{layer}"] = features.asked(layer, units[here, 1].tolist(), signs[here].tolist())
    prompts = Prompts((tuple(graph.tokens.tolist()),), "the prompt") if text is None else text
    return FeatureInsides(
        units,
        _values(model, graph, features, units),
        examples_of(model, prompts, asked, k=contexts),
        steer(model, graph, features, n=steered, factors=factors) if steered else None,
    )


def _units(graph: FeatureGraph) -> tuple[Int[Tensor, "unit 2"], Int[Tensor, " unit"]]:
    """Every unit once, and the sign of its largest value in the graph."""
    nodes = graph.nodes[graph.nodes.of(FEATURE)]
    pairs = torch.stack([nodes.layers, nodes.indices], dim=1).long()
    units, number = pairs.unique(dim=0, return_inverse=True)
    most = torch.zeros(len(units), dtype=nodes.values.dtype)
    for sign in (1, -1):  # the largest of both signs; what is positive wins a tie
        largest = torch.zeros_like(most).scatter_reduce(0, number, sign * nodes.values, "amax")
        most = torch.where(largest > most.abs(), sign * largest, most)
    return units, torch.where(most < 0, -1, 1)


def _values(
    model: Model, graph: FeatureGraph, features: Features, units: Int[Tensor, "unit 2"]
) -> Float[Tensor, "unit pos"]:
    """Activations of units at every position of the prompt."""
    run = run_linear(
        model,
        graph.tokens.to(model.device),
        parts=features.parts(),
        points=features.points(model),
        passing=features.passing,
    )
    found = torch.zeros(len(units), len(graph.tokens))
    for layer in units[:, 0].unique().tolist():
        rows = (units[:, 0] == layer).nonzero()[:, 0]
        active = features.active(run, layer)
        ids, own = active.indices.cpu(), units[rows, 1].contiguous()
        at = torch.searchsorted(own, ids).clamp(max=len(own) - 1)
        known = own[at] == ids
        places = rows[at[known]], active.positions.cpu()[known]
        found = found.index_put(places, active.values.cpu()[known].to(found))
    return found
