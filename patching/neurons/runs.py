"""Runs in which one layer's neurons have given values at the answer position.

A run starts at that layer, from what entered it. Only the answer position changes, so MLPs work
there alone and write what they wrote before everywhere else; attention runs whole, because the
answer position's keys, values and queries change in it.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from patching.anatomy.blocks import widen
from patching.anatomy.stack import skipping
from patching.memory import current, in_tiles
from patching.metrics import Metric, measure, measure_sloped
from patching.model import Hook, Model
from patching.modes import with_gradients, without_gradients
from patching.neurons.scores import require_neurons
from patching.quadrature import Rule as Points
from patching.tasks.task import Batch


@dataclass(frozen=True)
class Base:
    """A finished run of prompts: what enters each block, what MLPs write, neurons at the answer."""

    model: Model
    batch: Batch
    logits: Float[Tensor, "batch vocab"]
    streams: tuple[Float[Tensor, "batch pos d_model"], ...]
    mlps: tuple[Float[Tensor, "batch pos d_model"], ...]
    neurons: tuple[Float[Tensor, "batch d_mlp"], ...]

    @property
    def stacked(self) -> Float[Tensor, "batch layer d_mlp"]:
        """All neurons at the answer position, in float32 or wider."""
        return torch.stack(self.neurons, dim=1)


@without_gradients
def record(model: Model, batch: Batch) -> Base:
    """Run the prompts of a batch (its clean ones)."""
    streams: list[Tensor] = []
    mlps: list[Tensor] = []
    neurons: list[Tensor] = []
    rows = torch.arange(len(batch), device=batch.clean.device)

    def keep_at_answer(tensor: Tensor) -> None:
        neurons.append(widen(tensor[rows, batch.answer_pos]))

    hooks: list[tuple[str, Hook]] = []
    for block, post in zip(model.blocks, require_neurons(model), strict=True):
        hooks.append((block.stream_in, streams.append))
        hooks.append((post, keep_at_answer))
        hooks.append((block.mlp_out, mlps.append))
    logits = model.answer_logits(batch.clean, batch, hooks)
    return Base(model, batch, logits, tuple(streams), tuple(mlps), tuple(neurons))


def run_from(
    base: Base,
    layer: int,
    examples: Int[Tensor, " row"],
    neurons: Float[Tensor, "row d_mlp"],
) -> Float[Tensor, "row vocab"]:
    """Logits of some examples with the layer's neurons replaced at the answer position.

    Differentiable by `neurons`.
    """
    model, batch = base.model, base.batch.at(examples)
    at = torch.arange(len(examples), device=examples.device), batch.answer_pos
    blocks = model.blocks
    dtype = base.streams[layer].dtype
    hooks: list[tuple[str, Hook]] = [
        (blocks[layer].stream_in, lambda _: base.streams[layer][examples]),
        (require_neurons(model)[layer], lambda _: neurons.to(dtype)[None]),
    ]
    for block in blocks[layer:]:
        mlps = base.mlps[block.index]
        hooks.append((block.mlp_in, lambda x: x[at][None]))
        hooks.append((block.mlp_out, lambda y, mlps=mlps: mlps[examples].index_put(at, y[0])))
    with skipping(model.bridge, layer, as_tuple=model.blocks_return_tuples):
        return model.answer_logits(batch.clean, batch, hooks)


@dataclass(frozen=True)
class Segment:
    """A straight way of one layer's neurons, from `start` to `end`, and points on it."""

    base: Base
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
        logits = run_from(self.base, self.layer, examples, self.start)
        return measure(metric, logits, self.base.batch)

    def _gradient(
        self, metric: Metric, examples: Int[Tensor, " row"], alphas: Float[Tensor, " row"]
    ) -> Float[Tensor, "row d_mlp"]:
        start, end = self.start[examples], self.end[examples]
        with with_gradients():
            neurons = (start + alphas[:, None] * (end - start)).requires_grad_()
            logits = run_from(self.base, self.layer, examples, neurons)
            values = measure_sloped(metric, logits, self.base.batch.at(examples))
            (gradient,) = torch.autograd.grad(values.sum(), neurons)
        return gradient

    def _bytes_each(self, batch_size: int) -> int:
        return bytes_each(self.base, self.layer, batch_size, kept_layers=True)


def bytes_each(base: Base, layer: int, batch_size: int, *, kept_layers: bool) -> int:
    """About what one row needs at its peak, in bytes; never so much that a batch does not fit.

    What autograd keeps of a layer: some ten vectors of the stream and three patterns, MLPs being
    run at one token. `batch_size` rows at once are what the caller agreed to, unless the memory
    budget was set by hand.
    """
    model, (_, n_tokens, d_model) = base.model, base.streams[0].shape
    values = n_tokens * (10 * d_model + 3 * model.graph.n_heads * n_tokens)
    n_layers = len(model.blocks) - layer if kept_layers else 1
    vocab = 4 * base.logits.shape[1]
    needed = (n_layers * values + vocab) * base.logits.element_size()
    ledger = current()
    if ledger.limit is not None:
        return needed
    return min(needed, max(1, ledger.bytes_on(base.logits.device) // batch_size))
