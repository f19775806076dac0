"""Neurons scored by gradients integrated along a path: IRCAN, knowledge neurons, conductance."""

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from patching.ablations import Constants, mean
from patching.capture import capture
from patching.metrics import Metric, measure
from patching.model import Model
from patching.neurons.conflicts import ConflictTask
from patching.neurons.first_order import neurons_and_gradients
from patching.neurons.runs import NeuronRun, Segment, record_neurons
from patching.neurons.scores import (
    NeuronScores,
    Plan,
    Scored,
    answer_probability,
    gather,
    memorised_probability,
    require_neurons,
)
from patching.quadrature import Points, Quadrature, left, name_of, right
from patching.rules import plain
from patching.runs.batches import Doing
from patching.tasks.task import Batch
from patching.work import Run

VARIANTS = ("paper", "released")


def ircan(
    model: Model,
    conflicts: ConflictTask,
    *,
    steps: int = 20,
    variant: str = "paper",
    quadrature: Quadrature = right,
    batch_size: int = 16,
    run: Run | None = None,
) -> NeuronScores:
    """IRCAN: integrated gradients of P(context's answer) between no context and context.

    `(v_with - v_without)_i * mean_k dP/dv_i` at `v_without + k/m (v_with - v_without)`, one layer
    at a time, at the last token of the prompt with context; P is that of the answer's first
    token. Units: probability. `completeness` is a layer's sum less `P(with) - P(v_without)`, and
    goes to 0 with more steps. k runs over 1..m (`right`: the paper, and the code for multiple
    choice), 0..m-1 (`left`: the code for completions) or between (`midpoint`, the most exact).

    `variant="released"` weights each gradient by k/m, as the published code does by
    differentiating with respect to the end of the path; it does not complete.

    Costs two forwards, then `steps` forwards and backwards and one forward of the layers from
    each layer on. Shi et al. 2024, arXiv:2406.18406.

    >>> from patching.neurons import toy_conflicts
    >>> model = Model.load("toy")
    >>> scores = ircan(model, toy_conflicts(model.tokenizer, n=2), steps=2)
    >>> scores.values.shape[:2], scores.completeness.shape
    (torch.Size([2, 4]), torch.Size([2, 4]))

    Raises:
        ValueError: if there are fewer than 1 steps, there is no such variant, or as `gather`.
    """
    _check_steps(steps)
    if variant not in VARIANTS:
        raise ValueError(f"the variant is 'paper' or 'released', got {variant!r}")
    points = quadrature(steps)
    if variant == "released":
        points = points[0], [a * w for a, w in zip(*points, strict=True)]
    options = {"steps": steps, "variant": variant, "quadrature": name_of(quadrature)}
    quantity, functions = "attribution (probability)", (quadrature,)
    plan = Plan("ircan", quantity, answer_probability, options, functions)

    def work(with_context: Batch, without_context: Batch) -> Scored:
        base = record_neurons(model, with_context)
        without = record_neurons(model, without_context)
        return _integrate(base, without.neurons, answer_probability, points, batch_size)

    return gather(model, conflicts, plan, work, Doing(batch_size, run))


def knowledge_neurons(
    model: Model,
    conflicts: ConflictTask,
    *,
    steps: int = 20,
    quadrature: Quadrature = left,
    batch_size: int = 16,
    run: Run | None = None,
) -> NeuronScores:
    """Knowledge neurons: integrated gradients of P(memorised answer) from silent neurons.

    `v_i * mean_k dP/dv_i` at `k/m v`, one layer at a time, at the last token of the question
    alone: what expresses the fact that the context contradicts. Units: probability.
    `completeness` is a layer's sum less `P - P(silent layer)`. `shared_neurons` then chooses as
    the paper does. Costs as `ircan`. Dai et al. 2022, arXiv:2104.08696.

    Raises:
        ValueError: if a conflict has no memorised answer, there are fewer than 1 steps, or as
            `gather`.
    """
    _check_steps(steps)
    _require_memorised(conflicts)
    options = {"steps": steps, "quadrature": name_of(quadrature), "prompt": "without context"}
    quantity, functions = "attribution (probability)", (quadrature,)
    plan = Plan("knowledge-neurons", quantity, memorised_probability, options, functions)

    def work(with_context: Batch, without_context: Batch) -> Scored:
        base = record_neurons(model, without_context)
        silent = tuple(map(torch.zeros_like, base.neurons))
        return _integrate(base, silent, memorised_probability, quadrature(steps), batch_size)

    return gather(model, conflicts, plan, work, Doing(batch_size, run))


def conductance(
    model: Model,
    conflicts: ConflictTask,
    *,
    steps: int = 20,
    batch_size: int = 16,
    run: Run | None = None,
) -> NeuronScores:
    """Neuron conductance: how much of P(context's answer) flows through a neuron as context grows.

    `sum_k dP/dv_i(k) * (v_i(k+1) - v_i(k))` at the last token while the embedding of the context
    goes from a baseline to what it is in `steps` equal parts. With and without context have
    different lengths, so the path stays in the prompt with context: its tokens that are not the
    question's (nor a common start) begin as the mean token embedding of all these prompts. (Zero
    would be no baseline: an RMSNorm takes any multiple of an embedding for the same.) Neurons of
    one layer are not all that carries the answer, so a layer need not add up to the change of P.

    Costs three forwards, then `steps` forwards and backwards for all layers together. Dhamdhere
    et al. 2019, arXiv:1805.12233.

    Raises:
        ValueError: if there are fewer than 1 steps, or as `gather`.
    """
    _check_steps(steps)
    require_neurons(model)
    plan = Plan("conductance", "conductance (probability)", answer_probability, {"steps": steps})
    model.check(conflicts.with_context)
    work = _Conductance(model, conflicts, steps, batch_size)
    return gather(model, conflicts, plan, work, Doing(batch_size, run))


@dataclass(frozen=True)
class _Conductance:
    """The conductance in a batch; the mean embedding of all prompts is only taken when needed."""

    model: Model
    conflicts: ConflictTask
    steps: int
    batch_size: int

    def __call__(self, with_context: Batch, without_context: Batch) -> Scored:
        at = context_tokens(with_context, without_context)
        run = capture(self.model, with_context.clean, with_context)
        baseline = run.embedding.clone()
        average = self._constants.writes.embed[0].to(run.positions.dtype)
        baseline[at] = (run.positions[at] + average).to(baseline.dtype)
        ends = baseline, run.embedding
        return _along_embeddings(self.model, with_context, *ends, self.steps), None

    @cached_property
    def _constants(self) -> Constants:
        constants = mean(self.conflicts.with_context, batch_size=self.batch_size)(self.model)
        assert isinstance(constants, Constants), "a mean is one"
        return constants


def context_tokens(with_context: Batch, without_context: Batch) -> Bool[Tensor, "batch pos"]:
    """Tokens of the prompts with context that are not in the longest common start or end."""
    chosen = torch.zeros_like(with_context.is_token)
    for row in range(len(with_context)):
        long, short = (
            b.clean[row][b.is_token[row]].tolist() for b in (with_context, without_context)
        )
        end = _common(long[::-1], short[::-1])
        start = min(_common(long, short), len(short) - end)
        where = with_context.is_token[row].nonzero()[:, 0]
        chosen[row, where[start : len(long) - end]] = True
    return chosen


def _common(a: list[int], b: list[int]) -> int:
    n = 0
    while n < min(len(a), len(b)) and a[n] == b[n]:
        n += 1
    return n


def _integrate(
    base: NeuronRun,
    start: tuple[Float[Tensor, "batch d_mlp"], ...],
    metric: Metric,
    points: Points,
    batch_size: int,
) -> Scored:
    whole = measure(metric, base.run.logits, base.run.batch).double()
    scores, deltas = [], []
    for layer, (first, last) in enumerate(zip(start, base.neurons, strict=True)):
        segment = Segment(base, layer, first, last)
        gradient = segment.mean_gradient(metric, points, batch_size)
        score = (last - first).double() * gradient
        scores.append(score.to(last.dtype))
        deltas.append(score.sum(dim=1) - (whole - segment.at_start(metric).double()))
    return torch.stack(scores, dim=1), torch.stack(deltas, dim=1)


def _along_embeddings(
    model: Model,
    batch: Batch,
    first: Float[Tensor, "batch pos d_model"],
    last: Float[Tensor, "batch pos d_model"],
    steps: int,
) -> Float[Tensor, "batch layer d_mlp"]:
    """The sum over steps of the gradient before a step times the neurons' change in it."""
    points = [first + (last - first) * (k / steps) for k in range(steps)]
    neurons, gradient = neurons_and_gradients(model, batch, answer_probability, plain, points[0])
    total = torch.zeros_like(neurons, dtype=torch.float64)
    for point in points[1:]:
        seen = neurons_and_gradients(model, batch, answer_probability, plain, point)
        total += (gradient * (seen[0] - neurons)).double()
        neurons, gradient = seen
    total += (gradient * (record_neurons(model, batch).stacked - neurons)).double()
    return total.to(neurons.dtype)


def _check_steps(steps: int) -> None:
    if steps < 1:
        raise ValueError(f"a path has at least 1 step, got steps={steps}")


def _require_memorised(conflicts: ConflictTask) -> None:
    rows = [i for i, conflict in enumerate(conflicts.conflicts) if not conflict.memorised]
    if rows:
        raise ValueError(
            f"knowledge neurons express the memorised answer, and conflict task "
            f"{conflicts.name!r} has none in row {', '.join(map(str, rows[:10]))}"
        )
