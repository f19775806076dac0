"""Gemma 4, written so that its layers are what this workbench understands; it computes what it did.

- Heads are wider in layers that see all tokens than in those that see a window, and fewer of them
  share keys and values. All get the size of the widest, filled up with zeros, and copies of their
  keys and values: as many key-value heads in every layer.
- Where values are the keys' projection before its norm, values read by a copy of it.
- A layer multiplies its whole stream by a number at its end. The stream is counted without these
  numbers: a layer's writes are divided by all that came before, and its norms' epsilon, to which a
  norm's result is blind otherwise, by their square.
- Experts and router read the stream by norms of their own, which differ in their weights alone:
  they read by one without weights, and multiply by theirs.

What a layer's own embedding of each token adds to its stream (per-layer inputs), and keys and
values of another layer, are refused: no edge carries them.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, cast, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedModel

from patching.anatomy.latent import Given, reader, writer
from patching.anatomy.norms import widen

_STACKS = ("Gemma4TextModel", "Gemma4UnifiedTextModel")
_UNCARRIED = ("hidden_size_per_layer_input", "num_kv_shared_layers")


@runtime_checkable
class _RMSNorm(Protocol):
    eps: float
    weight: nn.Parameter


@runtime_checkable
class _Attention(Protocol):
    layer_idx: int
    head_dim: int
    num_key_value_groups: int
    q_proj: nn.Module
    k_proj: nn.Module
    v_proj: nn.Module | None
    o_proj: nn.Module


@runtime_checkable
class _Router(Protocol):
    norm: nn.Module


@runtime_checkable
class _Layer(Protocol):
    self_attn: nn.Module
    mlp: nn.Module
    input_layernorm: _RMSNorm
    post_attention_layernorm: _RMSNorm
    pre_feedforward_layernorm: _RMSNorm
    post_feedforward_layernorm: _RMSNorm
    layer_scalar: Tensor


@runtime_checkable
class _LayerOfExperts(_Layer, Protocol):
    enable_moe_block: bool
    router: nn.Module
    experts: nn.Module
    pre_feedforward_layernorm_2: _RMSNorm
    post_feedforward_layernorm_1: nn.Module
    post_feedforward_layernorm_2: nn.Module


class EvenAttention(nn.Module):
    """A layer's own attention behind readers `q`, `k`, `v` of one width, before `o` as wide."""

    def __init__(self, attention: nn.Module, n_heads: int, width: int, n_shared: int) -> None:
        super().__init__()
        inner = cast(_Attention, attention)
        self.layer_idx, self.n_heads, self.width = inner.layer_idx, n_heads, width
        self.d_head, keys = inner.head_dim, cast(nn.Linear, inner.k_proj)
        n_own = keys.out_features // self.d_head
        copies = n_shared // n_own
        self.q = reader(cast(nn.Linear, inner.q_proj), width, n_heads)
        self.k = reader(keys, width, n_own, copies=copies)
        self.v = reader(cast(nn.Linear, inner.v_proj or keys), width, n_own, copies=copies)
        self.o = writer(cast(nn.Linear, inner.o_proj), width, n_heads)
        self.inner = attention
        inner.q_proj, inner.k_proj, inner.v_proj = Given(), Given(), Given()
        inner.o_proj, inner.num_key_value_groups = nn.Identity(), n_heads // n_shared

    def forward(
        self, hidden_states: Float[Tensor, "batch pos d_model"], *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor | None]:
        """What the family's attention gives for the same input, by way of the readers."""
        for letter in "qkv":
            made = getattr(self, letter)(hidden_states).unflatten(-1, (-1, self.width))
            given = cast(Given, getattr(self.inner, f"{letter}_proj"))
            given.put(made[..., : self.d_head].flatten(2))
        z, pattern, *_ = self.inner(hidden_states, *args, **kwargs)
        z = z.unflatten(-1, (self.n_heads, self.d_head))
        z = nn.functional.pad(z, (0, self.width - self.d_head))
        return self.o(z.flatten(2)), pattern


class DenseAndExperts(nn.Module):
    """All that a layer of experts makes of its normed stream, before its last norm."""

    def __init__(self, layer: _LayerOfExperts) -> None:
        super().__init__()
        self.dense, self.router, self.experts = layer.mlp, layer.router, layer.experts
        cast(_Router, self.router).norm = nn.Identity()
        self.to_dense = layer.pre_feedforward_layernorm.weight
        self.to_experts = layer.pre_feedforward_layernorm_2.weight
        self.after_dense = layer.post_feedforward_layernorm_1
        self.after_experts = layer.post_feedforward_layernorm_2

    def forward(self, x_hat: Float[Tensor, "*rows d_model"]) -> Float[Tensor, "*rows d_model"]:
        """The dense part's output and the experts', each normed, together."""
        dense = self.after_dense(self.dense(self._times(x_hat, self.to_dense)))
        rows = x_hat.flatten(0, -2)
        _, shares, chosen = self.router(rows)
        mixed = self.experts(self._times(rows, self.to_experts), chosen, shares)
        return dense + self.after_experts(mixed.view_as(x_hat))

    @staticmethod
    def _times(x_hat: Tensor, weight: Tensor) -> Tensor:
        return (widen(x_hat) * widen(weight)).type_as(x_hat)


@dataclass(frozen=True)
class Sizes:
    """What all layers have in common once they are written so."""

    width: int
    n_shared: int
    has_experts: bool


def is_gemma4(module: nn.Module) -> bool:
    """Whether a model has such layers."""
    return any(type(part).__name__ in _STACKS for part in module.modules())


def show_readers(module: PreTrainedModel, *, ungrouped: bool = False) -> Sizes:
    """Write the layers of a Gemma 4 in place; `ungrouped` gives every head its keys and values.

    Raises:
        ValueError: if layers read what no edge carries, or scale their stream by no positive
            number.
    """
    stack = next(part for part in module.modules() if type(part).__name__ in _STACKS)
    config = module.config.get_text_config()
    layers = cast(list[_Layer], list(cast(nn.ModuleList, stack.layers)))
    _refuse(*(getattr(config, name, None) or 0 for name in _UNCARRIED))
    n_heads = config.num_attention_heads
    attentions = [cast(_Attention, layer.self_attn) for layer in layers]
    owned = {cast(nn.Linear, a.k_proj).out_features // a.head_dim for a in attentions}
    n_shared = n_heads if ungrouped else math.lcm(*owned)
    has_experts = hasattr(layers[0], "experts")
    width = max(attention.head_dim for attention in attentions)
    scales = [_scale(i, layer) for i, layer in enumerate(layers)]
    with torch.no_grad():
        for layer in layers:
            even = EvenAttention(layer.self_attn, n_heads, width, n_shared)
            layer.self_attn = even.requires_grad_(False)
            if has_experts:
                _join_experts(cast(_LayerOfExperts, layer))
        _count_without_scales(layers, scales, cast(_RMSNorm, stack.norm))
    return Sizes(width, n_shared, has_experts)


def _refuse(d_inputs: int, n_shared: int) -> None:
    if d_inputs:
        raise ValueError(
            "its layers have an embedding of their own for every token (per-layer inputs), which "
            "they add to the stream by a gate that reads it: no edge of the graph carries that"
        )
    if n_shared:
        raise ValueError(
            f"its last {n_shared} layers attend to keys and values of an earlier layer, and have "
            "no readers of their own for them"
        )


def _join_experts(layer: _LayerOfExperts) -> None:
    """Experts, router and dense MLP as one module behind a norm without weights."""
    norms = (layer.pre_feedforward_layernorm, layer.pre_feedforward_layernorm_2)
    norms = (*norms, cast(_RMSNorm, cast(_Router, layer.router).norm))
    assert len({norm.eps for norm in norms}) == 1, "the configuration has one for all"
    layer.mlp = DenseAndExperts(layer)
    bare = cast(Callable[..., _RMSNorm], type(norms[0]))
    size = norms[0].weight.numel()
    layer.pre_feedforward_layernorm = bare(size, eps=norms[0].eps, with_scale=False)
    layer.enable_moe_block = False
    del layer.router, layer.experts, layer.pre_feedforward_layernorm_2
    del layer.post_feedforward_layernorm_1, layer.post_feedforward_layernorm_2


def _scale(i: int, layer: _Layer) -> float:
    """What a layer multiplies its stream by.

    Raises:
        ValueError: if it is no positive number.
    """
    scale = float(layer.layer_scalar)
    if not 0 < scale < float("inf"):
        raise ValueError(f"layer {i} multiplies its stream by {scale:g}; a positive number is one")
    return scale


def _count_without_scales(layers: list[_Layer], scales: list[float], last: _RMSNorm) -> None:
    """A layer's writes over all scales before it, and every norm's epsilon over their square."""
    before = 1.0
    for layer, scale in zip(layers, scales, strict=True):
        if before != 1.0:
            for norm in (layer.input_layernorm, layer.pre_feedforward_layernorm):
                norm.eps /= before**2
            for norm in (layer.post_attention_layernorm, layer.post_feedforward_layernorm):
                norm.weight = nn.Parameter(widen(norm.weight) / before, requires_grad=False)
        layer.layer_scalar.fill_(1.0)
        before *= scale
    last.eps /= before**2
