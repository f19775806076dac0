"""Gradients of a metric at every reader, from one backward pass a run.

Gradients are taken at the q, k and v *projections* (in d_head, one tensor a layer) rather than at
a copy of the stream per head, which is why this needs no more time and memory than the pass
itself. Going from there back through the norm to the stream is linear but for one rank-1 term:

    d metric / d x_j = centre(gamma * (W_j g_j / sigma))  -  x_hat * (that . x_hat) / d_model

so `W_j` can wait until gradients have been summed over the points of a path. What is done with the
gradients of layers that are alike and on one device is done for all of them at once.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain, groupby

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import pad

from patching.anatomy.blocks import EMBEDDING, FINAL_STREAM, Block, widen
from patching.anatomy.devices import AtLayer, Hook
from patching.anatomy.norms import Norm
from patching.capture import at_tokens, indices
from patching.live import Live, Point, Start, differentiate
from patching.metrics import Metric
from patching.model import Model
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

    def at(self, chosen: Int[Tensor, " chosen"]) -> "ReaderGradients":
        """Those at some of the tokens, in the given order."""
        attention = tuple(
            AttentionGradients(g.projected[at], g.x_hat[:, at], g.radial[:, at])
            for g in self.attention
            for at in (chosen.to(g.projected.device),)
        )
        mlps = tuple(mlp[chosen.to(mlp.device)] for mlp in self.mlps)
        return ReaderGradients(attention, mlps, self.logits[chosen.to(self.logits.device)])


class GradientSum:
    """Adds up reader gradients at some tokens over runs; `finish` hands the sum over."""

    def __init__(self, model: Model, tokens: Bool[Tensor, "batch pos"], rule: Rule = plain) -> None:
        self._model = model
        self._rule = rule
        self._tokens = indices(tokens)
        self._layers = [_Alike(blocks, self._tokens, rule) for blocks in _alike(model)]
        self._logits: Tensor = torch.zeros(())

    def add(self, batch: Batch, metric: Metric, start: Start) -> Point:
        """Run the prompts and add their gradients, under the backward rule.

        Of the gradients, only the embedding's are handed back.
        """
        names = chain.from_iterable(layers.names for layers in self._layers)
        live = Live([*names, FINAL_STREAM], start.embedding)
        hooks = chain.from_iterable(layers.hooks() for layers in self._layers)
        start = replace(start, hooks=(*start.hooks, *hooks))
        point = differentiate(self._model, batch, metric, self._rule, live, start)
        with torch.no_grad():
            for layers in self._layers:
                layers.add(live.tensors, point.gradients, start.weight)
            at_logits = widen(at_tokens(point.gradients[FINAL_STREAM], self._tokens))
            self._logits = self._logits + start.weight * at_logits
        return replace(point, gradients={EMBEDDING: point.gradients[EMBEDDING]})

    def finish(self) -> ReaderGradients:
        """The sums so far."""
        attention = chain.from_iterable(layers.attention() for layers in self._layers)
        mlps = chain.from_iterable(layers.mlps() for layers in self._layers)
        return ReaderGradients(tuple(attention), tuple(mlps), self._logits)


class _Alike:
    """The sums of consecutive layers that lie on one device and are of one make."""

    def __init__(self, blocks: tuple[Block, ...], tokens: tuple[Tensor, ...], rule: Rule) -> None:
        self._blocks = blocks
        self._tokens = tuple(index.to(blocks[0].device) for index in tokens)
        self._frozen = rule.freezes_norms
        self._streams: dict[str, Tensor] = {}
        self._projected: Tensor | None = None
        self._x_hat: list[Tensor] = []
        self._radial: list[Tensor] = []
        self._mlps: Tensor | None = None
        self._offsets: Tensor | None = None

    @property
    def names(self) -> Iterator[str]:
        """Hook points to differentiate by: projections, and what the MLPs read.

        That is the stream, where it is the MLP's own branch of it, so that the gradient is one
        before the norm.
        """
        for block in self._blocks:
            yield from (*block.projections, block.mlp_in if block.parallel else block.mlp_stream)

    def hooks(self) -> Iterator[tuple[str, Hook]]:
        """To be in place during the run: they keep what the norms read, at the tokens."""
        for block in self._blocks:
            if block.attention_norm is not None or (block.parallel and block.mlp_norm is not None):
                yield block.stream_in, AtLayer(partial(self._keep, block.stream_in))

    def add(
        self, tensors: Mapping[str, Tensor], gradients: Mapping[str, Tensor], weight: float
    ) -> None:
        """Add what a run has left behind."""
        g, norm = self._at_projections(gradients), self._blocks[0].attention_norm
        if norm is not None:
            x_hat, sigma = norm.parts(
                torch.stack([self._streams[b.stream_in] for b in self._blocks])
            )
            g = g.div_(sigma.transpose(0, 1)[..., None])  # g is a copy
            if not self._frozen:
                self._x_hat.append(x_hat)
                self._radial.append(weight * self._along_x_hat(g, tensors))
        self._projected = _plus(self._projected, g, weight)
        self._mlps = _plus(self._mlps, self._at_mlps(gradients), weight)

    def attention(self) -> Iterator[AttentionGradients]:
        """The sums at projections, layer by layer."""
        assert self._projected is not None, "a run has been added"
        tokens, _, readers, _ = self._projected.shape
        x_hat = _steps(self._x_hat) if self._x_hat else None
        radial = _steps(self._radial) if self._radial else None
        for i, block in enumerate(self._blocks):
            projected = self._projected[:, i]
            none = projected.new_zeros(0, tokens, block.w_o.shape[2])
            yield AttentionGradients(
                projected,
                none if x_hat is None else x_hat[:, i],
                projected.new_zeros(0, tokens, readers) if radial is None else radial[:, :, i],
            )

    def mlps(self) -> Iterator[Float[Tensor, "token d_model"]]:
        """The sums at what MLPs read of the stream, layer by layer."""
        assert self._mlps is not None, "a run has been added"
        return iter(self._mlps.unbind())

    def _keep(self, name: str, stream: Tensor) -> None:
        self._streams[name] = at_tokens(stream.detach(), self._tokens)

    def _at_projections(
        self, tensors: Mapping[str, Tensor]
    ) -> Float[Tensor, "token layer reader d_head"]:
        names = chain.from_iterable(block.projections for block in self._blocks)
        projections = _of_one_width([tensors[name] for name in names])
        chosen = widen(at_tokens(torch.cat(projections, dim=2), self._tokens))
        return chosen.unflatten(1, (len(self._blocks), -1))

    def _along_x_hat(
        self, g: Float[Tensor, "token layer reader d_head"], tensors: Mapping[str, Tensor]
    ) -> Float[Tensor, "token layer reader"]:
        """`g . (W^T gamma x_hat)`: projections less what does not come from the stream."""
        if self._offsets is None:
            offsets = chain.from_iterable(block.offsets for block in self._blocks)
            self._offsets = torch.cat(_of_one_width([*offsets])).view(g.shape[1:])
        made = self._at_projections(tensors).sub_(self._offsets)
        return made.mul_(g).sum(dim=-1)

    def _at_mlps(self, gradients: Mapping[str, Tensor]) -> Float[Tensor, "layer token d_model"]:
        if self._blocks[0].parallel:
            return torch.stack([self._before_norm(block, gradients) for block in self._blocks])
        whole = torch.stack([gradients[block.mlp_stream] for block in self._blocks], dim=2)
        return widen(at_tokens(whole, self._tokens)).transpose(0, 1)

    def _before_norm(
        self, block: Block, gradients: Mapping[str, Tensor]
    ) -> Float[Tensor, "token d_model"]:
        g = widen(at_tokens(gradients[block.mlp_in], self._tokens))
        if block.mlp_norm is None:
            return g
        x = self._streams[block.stream_in]
        return through_norm(block.mlp_norm, g, x, frozen=self._frozen)


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
    x_hat, sigma = norm.parts(x)
    u = norm.pull_back(g) / sigma
    return u if frozen else u - x_hat * (u * x_hat).mean(dim=-1, keepdim=True)


def _alike(model: Model) -> Iterator[tuple[Block, ...]]:
    for _, blocks in groupby(model.blocks, key=_make):
        yield tuple(blocks)


def _make(block: Block) -> tuple[object, ...]:
    """What layers have in common that are added up together."""
    norm = block.attention_norm
    form = None if norm is None else (norm.centred, norm.eps)
    shapes = tuple(w.shape for w in block.w_projections)
    return block.device, block.parallel, form, shapes


def _of_one_width(parts: list[Tensor]) -> list[Tensor]:
    """Projections as wide as the widest: a gate may be of one number."""
    width = max(part.shape[-1] for part in parts)
    return [
        part if part.shape[-1] == width else pad(part, (0, width - part.shape[-1]))
        for part in parts
    ]


def _plus(
    known: Float[Tensor, "*shape"] | None, more: Float[Tensor, "*shape"], weight: float
) -> Float[Tensor, "*shape"]:
    """A sum with one more, whose memory it may take over."""
    if known is not None:
        return known.add_(more, alpha=weight)
    return more if weight == 1.0 else more.mul_(weight)


def _steps(parts: list[Tensor]) -> Float[Tensor, "step ..."]:
    return torch.stack(parts) if len(parts) > 1 else parts[0][None]
