"""How far a graph predicts the real model: units are removed there, and logits looked at.

The graph's own prediction is a total effect: the unit's edge to the logit and all paths through
units that answer linearly, `-f out (I - W)^-1`.
"""

from collections.abc import Sequence
from functools import partial

import torch
from jaxtyping import Float, Int
from torch import Tensor

from circuits.features.aims import Targets
from circuits.features.graph import FEATURE, LOGIT, FeatureGraph
from circuits.features.linear import LinearRun
from circuits.features.rows import Tracing
from circuits.features.writers import Writers
from patching.anatomy.blocks import UNEMBED_IN
from patching.memory import current
from patching.model import Hook
from patching.modes import without_gradients

_ROWS = 8  # prompts a run at most: fewer where they are long


def total_effects(graph: FeatureGraph) -> Float[Tensor, "logit node"]:
    """What every unit does to each logit over all paths, if units answer linearly: its part of it.

    Removing the unit changes the logit by as much, with the sign turned.
    """
    ends = (graph.nodes.kinds == LOGIT).nonzero()[:, 0]
    units = graph.nodes.kinds == FEATURE
    values = graph.nodes.values.double()
    slopes = torch.where(units & (values != 0), 1 / values, 0)
    weights = graph.weights.double()
    return torch.stack([_over_paths(graph, weights, slopes, int(end)) for end in ends])


def _over_paths(
    graph: FeatureGraph,
    weights: Float[Tensor, " edge"],
    slopes: Float[Tensor, " node"],
    end: int,
) -> Float[Tensor, " node"]:
    total = torch.zeros(len(graph), dtype=torch.float64)
    step = torch.zeros_like(total)
    step[end] = 1
    while bool(step.any()):
        passed = step[graph.targets] * weights
        step = torch.zeros_like(total).index_add(0, graph.sources, passed)
        total += step
        step = step * slopes
    return total


@without_gradients
def validity(tracing: Tracing, graph: FeatureGraph, *, n: int) -> dict[str, float | int | None]:
    """Correlation of predicted with real changes of logits, where the strongest units are removed.

    Each of the `n` units of most influence is taken from what the real MLP writes: with attention
    and norms held, with attention alone held, and with nothing held. All MLPs run as they are.
    None where there are fewer than two numbers, or all are the same.
    """
    run, writers, targets = tracing.run, tracing.writers, tracing.targets
    influences = graph.nodes.influences[: writers.n_units]
    chosen = influences.topk(min(n, len(influences))).indices
    expected = -total_effects(graph)[:, chosen].T
    holds: dict[str, list[tuple[str, Hook]]] = {
        "attention and norms": [*run.frozen.hold_attention(), *run.frozen.hold_norms()],
        "attention": run.frozen.hold_attention(),
        "nothing": [],
    }
    found = {name: _removed(run, writers, targets, chosen, held) for name, held in holds.items()}
    correlations = {name: _pearson(expected, real.to(expected)) for name, real in found.items()}
    return {"n": len(chosen), **correlations}


def _removed(
    run: LinearRun,
    writers: Writers,
    targets: Targets,
    chosen: Int[Tensor, " unit"],
    held: Sequence[tuple[str, Hook]],
) -> Float[Tensor, "unit logit"]:
    """The change of every logit where a unit is removed, one row a unit."""
    base = _logits(run, targets, [None], writers, held)
    n_heads, n_pos = run.model.graph.n_heads, len(run.tokens)
    pattern = n_heads * n_pos**2 * run.embedding.element_size()
    rows = max(1, min(_ROWS, current().bytes_on(run.model.device) // pattern))
    if not len(chosen):
        return base[:0]
    changes = [_logits(run, targets, some.tolist(), writers, held) for some in chosen.split(rows)]
    return torch.cat(changes) - base


def _logits(
    run: LinearRun,
    targets: Targets,
    rows: Sequence[int | None],
    writers: Writers,
    held: Sequence[tuple[str, Hook]],
) -> Float[Tensor, "row logit"]:
    final: list[Tensor] = []
    less = [
        (block.mlp_out, partial(_without, writers, block.index, rows)) for block in run.model.blocks
    ]
    keep = (UNEMBED_IN, partial(_last, final))
    with run.model.hooked([*held, *less, keep]):
        run.model.bridge(run.tokens.expand(len(rows), -1))
    directions = targets.directions.double()
    return final[0].double() @ directions.T


def _without(writers: Writers, layer: int, rows: Sequence[int | None], y: Tensor) -> Tensor:
    """What an MLP writes, less one unit in each row."""
    out = y.clone()
    for wrote in writers.rows[layer]:
        for row, unit in enumerate(rows):
            if unit is not None and 0 <= unit - wrote.first < len(wrote.units):
                at = unit - wrote.first
                out[row, int(wrote.units.positions[at])] -= wrote.vectors[at].to(out)
    return out


def _last(kept: list[Tensor], x: Tensor) -> None:
    kept.append(x[:, -1].detach())


def _pearson(a: Float[Tensor, "unit logit"], b: Float[Tensor, "unit logit"]) -> float | None:
    a, b = a.flatten() - a.mean(), b.flatten() - b.mean()
    size = float(a.norm() * b.norm())
    return round(float(a @ b) / size, 4) if a.numel() > 1 and size > 0 else None
