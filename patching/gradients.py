"""Gradients of a metric at every reader, from one backward pass a run.

The parameters are frozen and the graph of operations starts at the embedding. Gradients are taken
at the q, k and v *projections* (in d_head, one tensor a layer) rather than at a copy of the stream
per head, which is why this needs no more time and memory than the pass itself. Going from there
back through the norm to the stream is linear but for one rank-1 term:

    d metric / d x_j = centre(gamma * (W_j g_j / sigma))  -  x_hat * (that . x_hat) / d_model

so `W_j` can wait until gradients have been summed over the points of a path.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from patching.blocks import EMBEDDING, FINAL_STREAM, Block, Norm, widen
from patching.capture import indices
from patching.metrics import Metric, measure
from patching.model import Hook, Model
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
    """Gradients at all readers' stream inputs, at the chosen tokens, in float32 or wider."""

    attention: tuple[AttentionGradients, ...]
    mlps: tuple[Float[Tensor, "token d_model"], ...]
    logits: Float[Tensor, "token d_model"]


@dataclass(frozen=True)
class Point:
    """One run on a path: its metric, its logits, and the gradient at the whole embedding."""

    values: Float[Tensor, " batch"]
    logits: Float[Tensor, "batch vocab"]
    embedding_gradient: Float[Tensor, "batch pos d_model"]


class GradientSum:
    """Adds up reader gradients over runs of one batch; `finish` hands the sum over."""

    def __init__(self, model: Model, batch: Batch) -> None:
        self._model = model
        self._batch = batch
        self._tokens = indices(batch.can_differ)
        self._projected: list[Tensor] = [torch.zeros(())] * len(model.blocks)
        self._x_hat: list[list[Tensor]] = [[] for _ in model.blocks]
        self._radial: list[list[Tensor]] = [[] for _ in model.blocks]
        self._mlps: list[Tensor] = [torch.zeros(())] * len(model.blocks)
        self._logits: Tensor = torch.zeros(())

    def add(
        self,
        metric: Metric,
        *,
        weight: float = 1.0,
        embedding: Float[Tensor, "batch pos d_model"] | None = None,
        hooks: Iterable[tuple[str, Hook]] = (),
    ) -> Point:
        """Run the clean prompts, from `embedding` if one is given, and add their gradients."""
        live = _Live(self._model, self._tokens, embedding)
        with torch.enable_grad():
            logits = self._model.answer_logits(
                self._batch.clean, self._batch, [*live.hooks(), *hooks]
            )
            values = measure(metric, logits, self._batch)
            names = list(live.tensors)
            found = torch.autograd.grad(values.sum(), [live.tensors[name] for name in names])
        gradients = dict(zip(names, found, strict=True))
        with torch.no_grad():
            for block in self._model.blocks:
                self._add_attention(block, gradients, live, weight)
                self._mlps[block.index] = self._mlps[block.index] + weight * self._at_mlp(
                    block, gradients, live
                )
            self._logits = self._logits + weight * widen(gradients[FINAL_STREAM][self._tokens])
        return Point(values.detach(), logits.detach(), gradients[EMBEDDING])

    def finish(self) -> ReaderGradients:
        """The sums so far."""
        attention = tuple(
            AttentionGradients(
                projected,
                _stack(x_hat, like=self._logits),
                _stack(radial, like=projected[:, :, 0]),
            )
            for projected, x_hat, radial in zip(
                self._projected, self._x_hat, self._radial, strict=True
            )
        )
        return ReaderGradients(attention, tuple(self._mlps), self._logits)

    def _add_attention(
        self, block: Block, gradients: dict[str, Tensor], live: "_Live", weight: float
    ) -> None:
        at_tokens = [widen(gradients[name][self._tokens]) for name in block.qkv]
        g = torch.cat(at_tokens, dim=1)
        if block.attention_norm is not None:
            x = live.norm_inputs[block.stream_in]
            g = g / block.attention_norm.sigma(x)[..., None]
            made = [
                widen(live.tensors[name].detach()[self._tokens]) - offset
                for name, offset in zip(block.qkv, block.qkv_offset, strict=True)
            ]
            self._x_hat[block.index].append(block.attention_norm.x_hat(x))
            self._radial[block.index].append(weight * (g * torch.cat(made, dim=1)).sum(dim=-1))
        self._projected[block.index] = self._projected[block.index] + weight * g

    def _at_mlp(
        self, block: Block, gradients: dict[str, Tensor], live: "_Live"
    ) -> Float[Tensor, "token d_model"]:
        g = widen(gradients[block.mlp_in][self._tokens])
        if block.mlp_norm is None:
            return g
        return through_norm(block.mlp_norm, g, live.norm_inputs[block.mlp_stream])


def through_norm(
    norm: Norm, g: Float[Tensor, "token d_model"], x: Float[Tensor, "token d_model"]
) -> Float[Tensor, "token d_model"]:
    """The gradient before a norm, given the one after it and the norm's input."""
    u, x_hat = norm.pull_back(g) / norm.sigma(x), norm.x_hat(x)
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
        def hook(tensor: Tensor) -> Tensor:
            self.tensors[name] = tensor.view_as(tensor)
            return self.tensors[name]

        return hook

    def _keep_input(self, name: str) -> Hook:
        def hook(stream: Tensor) -> None:
            self.norm_inputs[name] = stream.detach()[self._tokens]

        return hook


def _stack(parts: list[Tensor], *, like: Float[Tensor, "token d"]) -> Float[Tensor, "step token d"]:
    return torch.stack(parts) if parts else like.new_zeros(0, *like.shape)
