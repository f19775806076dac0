"""Neuron scores: what each MLP neuron is worth in each example, and how they are gathered."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from patching.anatomy.insides import neurons
from patching.anatomy.places import units
from patching.files.brief import briefly
from patching.grid import Grid
from patching.memory import in_halves
from patching.metrics import Metric
from patching.model import Model
from patching.neurons.conflicts import ConflictTask
from patching.neurons.selection import Neuron
from patching.provenance import describe
from patching.runs.batches import Doing, Found, Keeping, Measure, all_rows, rows_joined
from patching.tasks.task import Batch
from patching.work import Parts


@briefly
@dataclass(frozen=True, eq=False)
class NeuronScores:
    """What each neuron does for the metric at the last token; positive: it helps.

    `grid` has the axes `layer` (`m0`, ...) and `neuron` (`n0`, ...) and one value per example; NaN
    where a neuron was not scored. `completeness` is, for methods that promise it, how far a
    layer's scores are from adding up to what they should: 0 is right.
    """

    grid: Grid
    completeness: Float[Tensor, "example layer"] | None = None

    @property
    def values(self) -> Float[Tensor, "example layer neuron"]:
        """The numbers, in float32 or wider."""
        return self.grid.values

    def at(self, name: str) -> float:
        """The mean over examples of one neuron, such as `m3.n17`.

        Raises:
            ValueError: if there is no such neuron.
        """
        layer, _, neuron = name.partition(".")
        return self.grid.at(layer=layer, neuron=neuron)


@dataclass(frozen=True)
class Plan:
    """What a method says of itself to `gather`: its name, its options, and what it measures.

    `functions` are of its options those that a user may have written. With `only`, no other
    neurons are scored.
    """

    method: str
    quantity: str
    metric: Metric
    options: Mapping[str, object]
    functions: tuple[object, ...] = ()
    only: Sequence[Neuron] | None = None


Scored = tuple[Float[Tensor, "batch layer neuron"], Float[Tensor, "batch layer"] | None]
Score = Callable[[Batch, Batch], Scored]


def gather(
    model: Model, conflicts: ConflictTask, plan: Plan, score: Score, doing: Doing
) -> NeuronScores:
    """Score conflicts batch by batch: `score` is given the prompts with and without context.

    Raises:
        Interrupted: with the scores in the conflicts so far, if somebody interrupts.
        ValueError: if the model cannot read the conflicts, its neurons cannot be seen, or a batch
            would be empty.
    """
    require_neurons(model)
    model.check(conflicts.with_context)
    model.check(conflicts.without_context)
    task, facts = conflicts.with_context, {"conflicts": conflicts.hash, "position": "last"}
    described = describe(model, task, plan.metric, plan.method, plan.options, facts=facts)
    functions = (plan.metric, *plan.functions)
    keeping = Keeping("scoring-neurons", described, functions, doing)
    pairs = Pairs(model, conflicts, doing.batch_size)
    measures = pairs.measures([partial(_scored, score, plan.only)])

    def finish(rows: Found[Parts]) -> NeuronScores:
        values = _whole(model, rows.total["scores"], plan.only)
        axes = {
            "layer": tuple(f"m{i}" for i in range(values.shape[1])),
            "neuron": tuple(f"n{i}" for i in range(values.shape[2])),
        }
        grid = Grid(plan.quantity, values, axes, provenance=rows.provenance(described))
        return NeuronScores(grid, rows.total.get("completeness"))

    return all_rows(model, task, measures, keeping, finish)


MeasurePair = Callable[[Batch, Batch], Parts]
"""Named numbers of a batch of conflicts, of the prompts with and without context."""


@dataclass(frozen=True)
class Pairs:
    """Batches of conflicts; where memory runs out, both of their sides are halved."""

    model: Model
    conflicts: ConflictTask
    batch_size: int

    def measures(self, each: Sequence[MeasurePair]) -> list[Measure]:
        """Of every batch, in order, each of these."""
        numbers = range(self.conflicts.with_context.n_batches(self.batch_size))
        return [partial(self._measure, number, one) for number in numbers for one in each]

    def _measure(self, number: int, measure: MeasurePair, with_context: Batch) -> Parts:
        without = self.conflicts.without_context
        alone = without.batch(number, self.batch_size, self.model.device)
        work = partial(self._on_rows, measure, with_context, alone)
        return in_halves(range(len(with_context)), work, rows_joined)

    def _on_rows(
        self, measure: MeasurePair, with_context: Batch, alone: Batch, rows: range
    ) -> Parts:
        at = torch.tensor(rows, device=self.model.device)
        return measure(with_context.at(at), alone.at(at))


def _scored(
    score: Score, only: Sequence[Neuron] | None, with_context: Batch, alone: Batch
) -> Parts:
    scores, completeness = score(with_context, alone)
    if only is not None:
        layers, neurons = zip(*only, strict=True)
        scores = scores[:, list(layers), list(neurons)]
    known = {} if completeness is None else {"completeness": completeness}
    return {"scores": scores, **known}


def _whole(
    model: Model, scores: Float[Tensor, "example ..."], only: Sequence[Neuron] | None
) -> Float[Tensor, "example layer neuron"]:
    """All neurons, with NaN for those that were not scored."""
    if only is None:
        return scores
    layers, neurons = zip(*only, strict=True)
    shape = (len(scores), len(model.blocks), len(units(model, "neurons")))
    whole = scores.new_full(shape, torch.nan)
    whole[:, list(layers), list(neurons)] = scores
    return whole


def require_neurons(model: Model) -> tuple[str, ...]:
    """The hook point of every layer's neurons.

    Raises:
        ValueError: if a layer has none (mixtures of experts).
    """
    points = [neurons(block) for block in model.blocks]
    hidden = [f"m{i}" for i, point in enumerate(points) if point is None]
    if hidden:
        raise ValueError(
            f"{model.name} shows no neurons in {', '.join(hidden)}: no hook point reaches inside "
            "its MLPs (mixtures of experts), so they cannot be scored"
        )
    return tuple(point.post for point in points if point is not None)


def answer_probability(
    logits: Float[Tensor, "asked vocab"], batch: Batch
) -> Float[Tensor, " batch"]:
    """Probability of the first token of the context's answer."""
    return logits.softmax(dim=-1).gather(1, batch.answers[:, :1])[:, 0]


def memorised_probability(
    logits: Float[Tensor, "asked vocab"], batch: Batch
) -> Float[Tensor, " batch"]:
    """Probability of the first token of the memorised answer."""
    return logits.softmax(dim=-1).gather(1, batch.wrong_answers[:, :1])[:, 0]
