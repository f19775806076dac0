"""Neurons scored one at a time: what their write says in the vocabulary, and exact ablation."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from patching.anatomy.blocks import FINAL_STREAM, widen
from patching.lens.neurons import NeuronOutput, find_output
from patching.lens.vocabulary import Vocabulary, find_vocabulary
from patching.memory import in_tiles
from patching.metrics import Metric, measure, name_of
from patching.model import Hook, Model
from patching.modes import without_gradients
from patching.neurons.conflicts import ConflictTask
from patching.neurons.editing import check_neurons
from patching.neurons.runs import NeuronRun, bytes_each, record_neurons
from patching.neurons.scores import (
    NeuronScores,
    Plan,
    Scored,
    answer_probability,
    gather,
    require_neurons,
)
from patching.neurons.selection import Neurons
from patching.runs.batches import Doing
from patching.tasks.task import Batch
from patching.work import Run

SCALES = ("frozen", "recompute")
REPLACEMENTS = ("without context", "zero")


def log_probability_increase(
    model: Model,
    conflicts: ConflictTask,
    *,
    scale: str = "frozen",
    batch_size: int = 16,
    run: Run | None = None,
) -> NeuronScores:
    """Log-probability increase: `log p(answer | h + write_i) - log p(answer | h)`, in nats.

    h is the residual stream at the last token with context, all of the layer but its MLP in it,
    and p what the final norm and the unembedding make of it. The norm's denominator is that of h
    (`frozen`, as the published code does for speed) or is worked out anew with each write
    (`recompute`). A write lies behind the post-norm, where a family has one, whose denominator is
    the run's. What layers above would do with the write is not seen.

    Costs one forward, then a layer's neurons times the vocabulary, once a layer (`frozen`) or
    once a layer and example (`recompute`). Yu and Ananiadou 2024, arXiv:2312.12141.

    Raises:
        ValueError: if there is no such scale, or as `gather`.
    """
    if scale not in SCALES:
        raise ValueError(f"scale is 'frozen' or 'recompute', got {scale!r}")
    plan = Plan(
        "log-probability-increase",
        "log-probability increase (nats)",
        answer_probability,
        {"scale": scale},
    )

    def work(with_context: Batch, without_context: Batch) -> Scored:
        return _increases(model, with_context, frozen=scale == "frozen"), None

    return gather(model, conflicts, plan, work, Doing(batch_size, run))


def exact_ablation(
    model: Model,
    conflicts: ConflictTask,
    *,
    neurons: Neurons,
    replacement: str = "without context",
    metric: Metric = answer_probability,
    batch_size: int = 16,
    run: Run | None = None,
) -> NeuronScores:
    """What the metric really loses when one neuron is replaced at the last token with context.

    By its value without context, or by zero. Only the given neurons are scored, each alone; the
    others are NaN. Costs one or two forwards, then one forward a neuron of the layers from its
    own on, many to a batch.

    Raises:
        ValueError: if there is no such replacement, no neuron is given, the model has no such
            neuron, or as `gather`.
    """
    if replacement not in REPLACEMENTS:
        raise ValueError(f"the replacement is 'without context' or 'zero', got {replacement!r}")
    _check_shortlist(model, neurons)
    options = {"replacement": replacement, "neurons": list(neurons.names)}
    only, quantity = tuple(neurons), f"effect on {name_of(metric)}"
    plan = Plan("exact-ablation", quantity, metric, options, only=only)

    @without_gradients
    def work(with_context: Batch, without_context: Batch) -> Scored:
        base = record_neurons(model, with_context)
        if replacement == "zero":
            values = torch.zeros_like(base.stacked)
        else:
            values = record_neurons(model, without_context).stacked
        whole = measure(metric, base.run.logits, with_context)
        out = torch.full_like(values, torch.nan)
        for layer in sorted({layer for layer, _ in neurons}):
            chosen = torch.tensor([n for at, n in neurons if at == layer], device=values.device)
            left = _without_each(base, layer, chosen, values[:, layer], metric, batch_size)
            out[:, layer, chosen] = whole[:, None] - left
        return out, None

    return gather(model, conflicts, plan, work, Doing(batch_size, run))


def _without_each(
    base: NeuronRun,
    layer: int,
    chosen: Int[Tensor, " n"],
    values: Float[Tensor, "batch d_mlp"],
    metric: Metric,
    batch_size: int,
) -> Float[Tensor, "batch n"]:
    """The metric with each chosen neuron in turn at another value."""
    n = len(chosen)
    live = base.neurons[layer]
    out = live.new_empty(len(live) * n)

    def work(span: slice) -> None:
        rows = torch.arange(span.start, span.stop, device=live.device)
        examples, neuron = rows // n, chosen[rows % n]
        at = torch.arange(len(rows), device=live.device)
        changed = live[examples].index_put((at, neuron), values[examples, neuron])
        logits = base.go_on(layer, examples, changed)
        out[span] = measure(metric, logits, base.run.batch.at(examples)).to(out.dtype)

    in_tiles(len(out), bytes_each(base, layer, batch_size, kept_layers=False), live.device, work)
    return out.view(-1, n)


def _check_shortlist(model: Model, neurons: Neurons) -> None:
    if not len(neurons):
        raise ValueError(
            "exact ablation needs at least one neuron; give the best by another method"
        )
    require_neurons(model)
    check_neurons(model, neurons)


@without_gradients
def _increases(model: Model, batch: Batch, *, frozen: bool) -> Float[Tensor, "batch layer d_mlp"]:
    outputs = [find_output(model, block) for block in model.blocks]
    seen = _at_answer(model, batch, outputs)
    vocabulary = find_vocabulary(model)
    answers = batch.answers[:, 0]
    layers = []
    for block, output in zip(model.blocks, outputs, strict=True):
        after = model.blocks[block.index + 1].stream_in if _has_next(model, block.index) else None
        h = seen[after or FINAL_STREAM] - seen[block.mlp_out]
        total = None if output.total is None else seen[output.total]
        activations = seen[output.points] / output.sigma(total)
        score = _frozen if frozen else _recomputed
        layers.append(score(vocabulary, output, h, activations, answers))
    return torch.stack(layers, dim=1)


def _has_next(model: Model, layer: int) -> bool:
    return layer + 1 < len(model.blocks)


def _at_answer(
    model: Model, batch: Batch, outputs: list[NeuronOutput]
) -> dict[str, Float[Tensor, "batch d"]]:
    """Streams, MLP writes and neurons at the answer position, by hook point."""
    rows = torch.arange(len(batch), device=batch.clean.device)
    seen: dict[str, Tensor] = {}

    def keep(name: str) -> Hook:
        return lambda tensor: seen.update({name: widen(tensor[rows, batch.answer_pos])})

    names = [block.stream_in for block in model.blocks] + [FINAL_STREAM]
    names += [block.mlp_out for block in model.blocks]
    names += [name for output in outputs for name in output.hooks]
    model.answer_logits(batch.clean, batch, [(name, keep(name)) for name in names])
    return seen


def _frozen(
    vocabulary: Vocabulary,
    output: NeuronOutput,
    h: Float[Tensor, "batch d_model"],
    activations: Float[Tensor, "batch d_mlp"],
    answers: Int[Tensor, " batch"],
) -> Float[Tensor, "batch d_mlp"]:
    """With h's own denominator: what neurons add to all logits is worked out once a layer."""
    sigma = vocabulary.sigma(h)
    before = vocabulary.logits(h, sigma=sigma, softcap=False)
    out = torch.empty_like(activations)
    one, nothing = h.new_ones(1, 1), torch.zeros_like(h[:1])
    constant = vocabulary.logits(nothing, sigma=one, softcap=False)  # the biases alone

    def work(span: slice) -> None:
        chosen = torch.arange(span.start, span.stop, device=h.device)
        added = vocabulary.logits(output.rows(chosen), sigma=one, softcap=False) - constant
        for row in range(len(h)):
            strength = activations[row, chosen] / sigma[row]
            logits = _finish(vocabulary, before[row] + strength[:, None] * added)
            out[row, chosen] = _log_probability(logits, answers[row])

    in_tiles(len(output.weight), 4 * len(vocabulary) * h.element_size(), h.device, work)
    return out - _log_probability(_finish(vocabulary, before), answers)[:, None]


def _recomputed(
    vocabulary: Vocabulary,
    output: NeuronOutput,
    h: Float[Tensor, "batch d_model"],
    activations: Float[Tensor, "batch d_mlp"],
    answers: Int[Tensor, " batch"],
) -> Float[Tensor, "batch d_mlp"]:
    """With the denominator of each sum: every neuron of every example is unembedded."""
    out = torch.empty_like(activations)

    def work(span: slice) -> None:
        chosen = torch.arange(span.start, span.stop, device=h.device)
        rows = output.rows(chosen)
        for row in range(len(h)):
            logits = vocabulary.logits(h[row] + activations[row, chosen, None] * rows)
            out[row, chosen] = _log_probability(logits, answers[row])

    in_tiles(len(output.weight), 3 * len(vocabulary) * h.element_size(), h.device, work)
    return out - _log_probability(vocabulary.logits(h), answers)[:, None]


def _finish(
    vocabulary: Vocabulary, logits: Float[Tensor, "row vocab"]
) -> Float[Tensor, "row vocab"]:
    """The family's cap on logits that have none yet."""
    return widen(vocabulary.finish(logits / vocabulary.slope))


def _log_probability(
    logits: Float[Tensor, "row vocab"], answer: Int[Tensor, "*row"]
) -> Float[Tensor, " row"]:
    chosen = logits.log_softmax(dim=-1)
    return chosen.gather(1, answer.expand(len(logits))[:, None])[:, 0]
