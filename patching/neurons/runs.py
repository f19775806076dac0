"""Runs in which one layer's neurons have given values at the answer position.

A run starts at that layer, from what entered it. Only the answer position changes, so MLPs work
there alone and write what they wrote before everywhere else; attention runs whole, because the
answer position's keys, values and queries change in it.
"""

from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Float, Int
from torch import Tensor

from patching.anatomy.blocks import widen
from patching.files.brief import briefly
from patching.memory import current, in_tiles
from patching.metrics import Metric, measure, measure_sloped
from patching.model import Model
from patching.modes import with_gradients, without_gradients
from patching.neurons.scores import require_neurons
from patching.quadrature import Points
from patching.runs.recorded import Recorded, record
from patching.tasks.task import Batch


@briefly
@dataclass(frozen=True, eq=False)
class NeuronRun:
    """A finished run of prompts, and its neurons at the answer, layer by layer."""

    run: Recorded
    neurons: tuple[Float[Tensor, "batch d_mlp"], ...]

    @property
    def stacked(self) -> Float[Tensor, "batch layer d_mlp"]:
        """All neurons at the answer position, in float32 or wider."""
        return torch.stack(self.neurons, dim=1)

    def go_on(
        self, layer: int, examples: Int[Tensor, " row"], neurons: Float[Tensor, "row d_mlp"]
    ) -> Float[Tensor, "row vocab"]:
        """Logits of some examples with the layer's neurons replaced at the answer position.

        Differentiable by `neurons`.
        """
        model = self.run.model
        rows = torch.arange(len(examples), device=examples.device)
        at_answer = rows, self.run.batch.answer_pos[examples]
        given = neurons.to(self.run.streams[layer].dtype)[None]
        hook = (require_neurons(model)[layer], partial(_instead, given))
        mlps_at = dict.fromkeys(range(layer, len(model.blocks)), at_answer)
        return self.run.go_on(layer, examples, [hook], mlps_at)


@without_gradients
def record_neurons(model: Model, batch: Batch) -> NeuronRun:
    """Run the prompts of a batch (its clean ones)."""
    neurons: list[Tensor] = []
    rows = torch.arange(len(batch), device=batch.clean.device)
    keep = partial(_keep, neurons, (rows, batch.answer_pos))
    run = record(model, batch.clean, batch, [(name, keep) for name in require_neurons(model)])
    return NeuronRun(run, tuple(neurons))


def _keep(kept: list[Tensor], at_answer: tuple[Tensor, Tensor], neurons: Tensor) -> None:
    kept.append(widen(neurons[at_answer]))


def _instead(given: Tensor, _: Tensor) -> Tensor:
    return given


@dataclass(frozen=True, eq=False)
class Segment:
    """A straight way of one layer's neurons, from `start` to `end`, and points on it."""

    base: NeuronRun
    layer: int
    start: Float[Tensor, "batch d_mlp"]
    end: Float[Tensor, "batch d_mlp"]

    def mean_gradient(
        self, metric: Metric, points: Points, batch_size: int
    ) -> Float[Tensor, "batch d_mlp"]:
        """The weighted sum over the points of the metric's gradient by the neurons."""
        alphas, weights = points
        n, device = len(self.start), self.start.device
        total = torch.zeros(self.start.shape, dtype=torch.float64, device=device)
        steps = torch.tensor(alphas, dtype=self.start.dtype, device=device).repeat_interleave(n)
        shares = torch.tensor(weights, dtype=torch.float64, device=device).repeat_interleave(n)
        examples = torch.arange(n, device=device).repeat(len(alphas))

        def work(span: slice) -> None:
            gradient = self._gradient(metric, examples[span], steps[span])
            total.index_add_(0, examples[span], gradient.double() * shares[span, None])

        in_tiles(len(examples), self._bytes_each(batch_size), device, work)
        return total

    @without_gradients
    def at_start(self, metric: Metric) -> Float[Tensor, " batch"]:
        """The metric with the layer's neurons at the start."""
        examples = torch.arange(len(self.start), device=self.start.device)
        logits = self.base.go_on(self.layer, examples, self.start)
        return measure(metric, logits, self.base.run.batch)

    def _gradient(
        self, metric: Metric, examples: Int[Tensor, " row"], alphas: Float[Tensor, " row"]
    ) -> Float[Tensor, "row d_mlp"]:
        start, end = self.start[examples], self.end[examples]
        with with_gradients():
            neurons = (start + alphas[:, None] * (end - start)).requires_grad_()
            logits = self.base.go_on(self.layer, examples, neurons)
            values = measure_sloped(metric, logits, self.base.run.batch.at(examples))
            (gradient,) = torch.autograd.grad(values.sum(), neurons)
        return gradient

    def _bytes_each(self, batch_size: int) -> int:
        return bytes_each(self.base, self.layer, batch_size, kept_layers=True)


def bytes_each(base: NeuronRun, layer: int, batch_size: int, *, kept_layers: bool) -> int:
    """About what one row needs at its peak, in bytes; never so much that a batch does not fit.

    What autograd keeps of a layer: some ten vectors of the stream and three patterns, MLPs being
    run at one token. `batch_size` rows at once are what the caller agreed to, unless the memory
    budget was set by hand.
    """
    model, logits, (_, n_tokens, d_model) = (
        base.run.model,
        base.run.logits,
        base.run.streams[0].shape,
    )
    values = n_tokens * (10 * d_model + 3 * model.graph.n_heads * n_tokens)
    n_layers = len(model.blocks) - layer if kept_layers else 1
    vocab = 4 * logits.shape[1]
    needed = (n_layers * values + vocab) * logits.element_size()
    ledger = current()
    if ledger.limit is not None:
        return needed
    return min(needed, max(1, ledger.bytes_on(logits.device) // batch_size))
