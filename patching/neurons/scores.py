"""Neuron scores: what each MLP neuron is worth in each example, and how they are gathered."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from patching.grid import Grid
from patching.insides import neurons
from patching.memory import budget, current
from patching.metrics import Metric
from patching.model import Model
from patching.neurons.conflicts import ConflictTask
from patching.progress import track
from patching.provenance import describe
from patching.tasks.task import Batch


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
    """What a method says of itself to `gather`: its name, its options, and what it measures."""

    method: str
    quantity: str
    metric: Metric
    options: Mapping[str, object]


Scored = tuple[Float[Tensor, "batch layer neuron"], Float[Tensor, "batch layer"] | None]


def gather(
    model: Model,
    conflicts: ConflictTask,
    plan: Plan,
    work: Callable[[Batch, Batch], Scored],
    batch_size: int,
) -> NeuronScores:
    """Score conflicts batch by batch: `work` is given the prompts with and without context.

    Raises:
        ValueError: if the model cannot read the conflicts, its neurons cannot be seen, or a batch
            would be empty.
    """
    require_neurons(model)
    model.check(conflicts.with_context)
    model.check(conflicts.without_context)
    n_batches = conflicts.with_context.n_batches(batch_size)
    values: list[Tensor] = []
    deltas: list[Tensor] = []
    with budget(current().limit) as ledger:
        batches = conflicts.batches(batch_size, model.device)
        for pair in track(batches, plan.method, total=n_batches):
            found, delta = work(*pair)
            values.append(found.cpu())
            deltas += [] if delta is None else [delta.cpu()]
    facts = {"conflicts": conflicts.hash, "position": "last", "memory": ledger.report()}
    task, options = conflicts.with_context, plan.options
    provenance = describe(model, task, plan.metric, plan.method, options, facts=facts)
    _, n_layers, n_neurons = values[0].shape
    axes = {
        "layer": tuple(f"m{i}" for i in range(n_layers)),
        "neuron": tuple(f"n{i}" for i in range(n_neurons)),
    }
    grid = Grid(plan.quantity, torch.cat(values), axes, provenance=provenance)
    return NeuronScores(grid, torch.cat(deltas) if deltas else None)


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
    logits: Float[Tensor, "batch vocab"], batch: Batch
) -> Float[Tensor, " batch"]:
    """Probability of the first token of the context's answer."""
    return logits.softmax(dim=-1).gather(1, batch.answers[:, :1])[:, 0]


def memorised_probability(
    logits: Float[Tensor, "batch vocab"], batch: Batch
) -> Float[Tensor, " batch"]:
    """Probability of the first token of the memorised answer."""
    return logits.softmax(dim=-1).gather(1, batch.wrong_answers[:, :1])[:, 0]
