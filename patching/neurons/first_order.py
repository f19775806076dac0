"""Neurons scored by one gradient for all layers: gradient times activation, RelP."""

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from patching.anatomy.blocks import widen
from patching.anatomy.devices import rows_at
from patching.live import Live, Start, differentiate
from patching.metrics import Metric, name_of, require_slope
from patching.model import Model
from patching.neurons.conflicts import ConflictTask
from patching.neurons.runs import record_neurons
from patching.neurons.scores import (
    NeuronScores,
    Plan,
    Scored,
    answer_probability,
    gather,
    require_neurons,
)
from patching.rules import Rule, plain
from patching.rules import relp as relp_rule
from patching.runs.batches import Doing
from patching.tasks.task import Batch
from patching.work import Run


def gradient_activation(
    model: Model,
    conflicts: ConflictTask,
    *,
    metric: Metric = answer_probability,
    batch_size: int = 16,
    run: Run | None = None,
) -> NeuronScores:
    """Gradient times activation: `v_i * dP/dv_i` at the last token of the prompt with context.

    A first-order estimate of what the metric (P of the context's answer, if none is given) loses
    without the neuron. Costs one forward and one backward. Shrikumar et al. 2016,
    arXiv:1605.01713.

    Raises:
        ValueError: if the metric has no slope, or as `gather`.
    """

    def work(with_context: Batch, without_context: Batch) -> Scored:
        neurons, gradient = neurons_and_gradients(model, with_context, metric, plain)
        return neurons * gradient, None

    require_slope(metric, "to score neurons by", at_clean=True)
    plan = Plan("gradient-activation", f"effect on {name_of(metric)}", metric, {"rule": "plain"})
    return gather(model, conflicts, plan, work, Doing(batch_size, run))


def relp_neurons(
    model: Model,
    conflicts: ConflictTask,
    *,
    metric: Metric = answer_probability,
    rule: Rule = relp_rule,
    batch_size: int = 16,
    run: Run | None = None,
) -> NeuronScores:
    """RelP: the neuron's change by context times its relevance, at the last token with context.

    `(v_with - v_without)_i * R_i`, where R is the gradient under a backward rule. With the rule
    `plain` this is attribution patching, and IRCAN with its one point at the end. Costs two
    forwards and one backward. Rezaei Jafari et al. 2025, arXiv:2508.21258.

    Raises:
        ValueError: if the metric has no slope, the model cannot be ruled so, or as `gather`.
    """

    def work(with_context: Batch, without_context: Batch) -> Scored:
        neurons, relevance = neurons_and_gradients(model, with_context, metric, rule)
        return (neurons - record_neurons(model, without_context).stacked) * relevance, None

    require_slope(metric, "to score neurons by", at_clean=True)
    plan = Plan("relp", f"effect on {name_of(metric)}", metric, {"rule": rule.name}, (rule,))
    return gather(model, conflicts, plan, work, Doing(batch_size, run))


def neurons_and_gradients(
    model: Model,
    batch: Batch,
    metric: Metric,
    rule: Rule,
    embedding: Float[Tensor, "batch pos d_model"] | None = None,
) -> tuple[Float[Tensor, "batch layer d_mlp"], Float[Tensor, "batch layer d_mlp"]]:
    """All neurons at the answer position, and the metric's gradient there, from one run."""
    names = require_neurons(model)
    live = Live(names, embedding)
    found = differentiate(model, batch, metric, rule, live, Start(1.0, batch.clean))
    rows = torch.arange(len(batch), device=batch.clean.device)

    def at_answer(tensors: Mapping[str, Tensor]) -> Tensor:
        chosen = [rows_at(tensors[name].detach(), (rows, batch.answer_pos)) for name in names]
        return torch.stack([widen(part).to(rows.device) for part in chosen], dim=1)

    return at_answer(live.tensors), at_answer(found.gradients)
