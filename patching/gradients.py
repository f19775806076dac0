"""Gradients of a metric at every reader, from one backward pass a run.

The parameters are frozen and the graph of operations starts at the embedding. Gradients are taken
at the q, k and v *projections* (in d_head, one tensor a layer) rather than at a copy of the stream
per head, which is why this needs no more time and memory than the pass itself. Going from there
back through the norm to the stream is linear but for one rank-1 term:

    d metric / d x_j = centre(gamma * (W_j g_j / sigma))  -  x_hat * (that . x_hat) / d_model

so `W_j` can wait until gradients have been summed over the points of a path.
"""

from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from patching.anatomy.blocks import EMBEDDING, FINAL_STREAM, Block, widen
from patching.anatomy.devices import AtLayer, Hook, rows_at
from patching.anatomy.norms import Norm
from patching.capture import indices
from patching.metrics import Metric, measure_sloped
from patching.model import Model
from patching.modes import with_gradients
from patching.rules import Rule, plain
from patching.tasks.task import Batch


@dataclass(frozen=True)
class AttentionGradients:
    """Gradients at one layer's q, k and v readers, summed over the points of a path.

    `projected` is the weighted sum of `g / sigma`, readers in the graph's order. `x_hat` and
    `radial` (`g/sigma . projection of x_hat`, weighted) hold each point's rank-1 term; they are
    empty where the layer has no norm before its attention.
    """

    projected: Float[Tensor, "token reader d_head"]
    x_hat: Float[Tensor, "step token d_model"]
    radial: Float[Tensor, "step token reader"]


@dataclass(frozen=True)
class ReaderGradients:
    """Gradients at all readers' stream inputs, at the chosen tokens, in float32 or wider.

    Each layer's lie where the layer lies.
    """

    attention: tuple[AttentionGradients, ...]
    mlps: tuple[Float[Tensor, "token d_model"], ...]
    logits: Float[Tensor, "token d_model"]


@dataclass(frozen=True)
class Point:
    """One run on a path: its metric, its logits, and the gradient at the whole embedding."""

    values: Float[Tensor, " batch"]
    logits: Float[Tensor, "batch vocab"]
    embedding_gradient: Float[Tensor, "batch pos d_model"]


@dataclass(frozen=True)
class Start:
    """A run to differentiate: which prompts, from which embedding, with what changed."""

    weight: float
    prompts: Int[Tensor, "batch pos"]
    embedding: Float[Tensor, "batch pos d_model"] | None = None
    hooks: tuple[tuple[str, Hook], ...] = ()


class GradientSum:
    """Adds up reader gradients at some tokens over runs; `finish` hands the sum over."""

    def __init__(self, model: Model, tokens: Bool[Tensor, "batch pos"], rule: Rule = plain) -> None:
        self._model = model
        self._rule = rule
        self._tokens = indices(tokens)
        self._projected: list[Tensor] = [torch.zeros(())] * len(model.blocks)
        self._x_hat: list[list[Tensor]] = [[] for _ in model.blocks]
        self._radial: list[list[Tensor]] = [[] for _ in model.blocks]
        self._mlps: list[Tensor] = [torch.zeros(())] * len(model.blocks)
        self._logits: Tensor = torch.zeros(())

    def add(self, batch: Batch, metric: Metric, start: Start) -> Point:
        """Run the prompts and add their gradients, under the backward rule."""
        live = _Live(self._model, self._tokens, start.embedding)
        rule = self._rule.start(self._model)
        with with_gradients():
            logits = self._model.answer_logits(
                start.prompts, batch, [*live.hooks(), *start.hooks, *rule.hooks]
            )
            values = measure_sloped(metric, logits, batch)
            names = list(live.tensors)
            found = torch.autograd.grad(
                values.sum(),
                [live.tensors[name] for name in names],
                allow_unused=True,
                materialize_grads=True,
            )
        rule.check()
        gradients = dict(zip(names, found, strict=True))
        with torch.no_grad():
            for block in self._model.blocks:
                self._add_attention(block, gradients, live, start.weight)
                self._mlps[block.index] = self._mlps[block.index] + start.weight * self._at_mlp(
                    block, gradients, live
                )
            at_logits = widen(rows_at(gradients[FINAL_STREAM], self._tokens))
            self._logits = self._logits + start.weight * at_logits
        return Point(values.detach(), logits.detach(), gradients[EMBEDDING])

    def finish(self) -> ReaderGradients:
        """The sums so far."""
        attention = tuple(
            AttentionGradients(
                projected,
                _stack(x_hat, like=mlp),
                _stack(radial, like=projected[:, :, 0]),
            )
            for projected, x_hat, radial, mlp in zip(
                self._projected, self._x_hat, self._radial, self._mlps, strict=True
            )
        )
        return ReaderGradients(attention, tuple(self._mlps), self._logits)

    def _add_attention(
        self, block: Block, gradients: dict[str, Tensor], live: "_Live", weight: float
    ) -> None:
        g = torch.cat([widen(rows_at(gradients[name], self._tokens)) for name in block.qkv], dim=1)
        norm = block.attention_norm
        if norm is not None:
            x = live.norm_inputs[block.stream_in].to(g.device)
            g = g / norm.sigma(x)[..., None]
            if not self._rule.freezes_norms:
                self._x_hat[block.index].append(norm.x_hat(x))
                self._radial[block.index].append(weight * self._along_x_hat(block, g, live))
        self._projected[block.index] = self._projected[block.index] + weight * g

    def _along_x_hat(
        self, block: Block, g: Float[Tensor, "token reader d_head"], live: "_Live"
    ) -> Float[Tensor, "token reader"]:
        """`g . (W^T gamma x_hat)`: projections less what does not come from the stream."""
        made = [
            widen(rows_at(live.tensors[name].detach(), self._tokens)) - offset
            for name, offset in zip(block.qkv, block.qkv_offset, strict=True)
        ]
        return (g * torch.cat(made, dim=1)).sum(dim=-1)

    def _at_mlp(
        self, block: Block, gradients: dict[str, Tensor], live: "_Live"
    ) -> Float[Tensor, "token d_model"]:
        g = widen(rows_at(gradients[block.mlp_in], self._tokens))
        if block.mlp_norm is None:
            return g
        x = live.norm_inputs[block.mlp_stream].to(g.device)
        return through_norm(block.mlp_norm, g, x, frozen=self._rule.freezes_norms)


def through_norm(
    norm: Norm,
    g: Float[Tensor, "token d_model"],
    x: Float[Tensor, "token d_model"],
    *,
    frozen: bool = False,
) -> Float[Tensor, "token d_model"]:
    """The gradient before a norm, given the one after it and the norm's input.

    `frozen`: as if the norm's denominator were a constant.
    """
    u = norm.pull_back(g) / norm.sigma(x)
    if frozen:
        return u
    x_hat = norm.x_hat(x)
    return u - x_hat * (u * x_hat).mean(dim=-1, keepdim=True)


class _Live:
    """Hooks that root the graph of operations and keep the tensors to differentiate by.

    A hook point hands every consumer the same tensor; the view returned in its place makes the
    gradient that of this branch alone.
    """

    def __init__(self, model: Model, tokens: tuple[Tensor, ...], embedding: Tensor | None) -> None:
        self.tensors: dict[str, Tensor] = {}
        self.norm_inputs: dict[str, Tensor] = {}
        self._model = model
        self._tokens = tokens
        self._embedding = embedding

    def hooks(self) -> list[tuple[str, Hook]]:
        """To be in place during the run. Not kept: they and the graph would hold each other."""
        hooks: list[tuple[str, Hook]] = [(EMBEDDING, self._root)]
        for block in self._model.blocks:
            if block.attention_norm is not None:
                hooks.append((block.stream_in, self._keep_input(block.stream_in)))
            hooks += [(name, self._differentiate(name)) for name in block.qkv]
            if block.mlp_norm is not None and not block.parallel:
                hooks.append((block.mlp_stream, self._keep_input(block.mlp_stream)))
            hooks.append((block.mlp_in, self._differentiate(block.mlp_in)))
        return [*hooks, (FINAL_STREAM, self._differentiate(FINAL_STREAM))]

    def _root(self, embedding: Tensor) -> Tensor:
        start = embedding if self._embedding is None else self._embedding
        self.tensors[EMBEDDING] = start.detach().requires_grad_()
        return self.tensors[EMBEDDING]

    def _differentiate(self, name: str) -> Hook:
        return AtLayer(partial(self._keep_live, name))

    def _keep_live(self, name: str, tensor: Tensor) -> Tensor:
        self.tensors[name] = tensor.view_as(tensor)
        return self.tensors[name]

    def _keep_input(self, name: str) -> Hook:
        return AtLayer(partial(self._keep_stream, name))

    def _keep_stream(self, name: str, stream: Tensor) -> None:
        self.norm_inputs[name] = rows_at(stream.detach(), self._tokens)


def _stack(parts: list[Tensor], *, like: Float[Tensor, "token d"]) -> Float[Tensor, "step token d"]:
    return torch.stack(parts) if parts else like.new_zeros(0, *like.shape)
