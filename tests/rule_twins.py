"""Backward rules written straight into a plain Hugging Face model, and what asks for gradients."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor, nn

from patching.anatomy.blocks import EMBEDDING
from patching.model import Hook, Model
from patching.tasks import Batch


def rooted(model: Model, batch: Batch, hooks: list[tuple[str, Hook]]) -> tuple[Tensor, Tensor]:
    """The embedding as a leaf, and the logits that came of it with hooks in place."""
    roots: list[Tensor] = []

    def root(embedding: Tensor) -> Tensor:
        roots.append(embedding.detach().requires_grad_())
        return roots[0]

    logits = model.answer_logits(batch.clean, batch, [(EMBEDDING, root), *hooks])
    return roots[0], logits


def contrast(logits: Tensor) -> Tensor:
    """A metric linear in the logits, and far from zero: largest minus smallest, summed."""
    top, bottom = logits.detach().argmax(dim=-1), logits.detach().argmin(dim=-1)
    rows = torch.arange(len(logits))
    return (logits[rows, top] - logits[rows, bottom]).sum()


def assert_same(found: Tensor, expected: Tensor, tolerance: float) -> None:
    size = expected.abs().max()
    assert size > 0
    assert (found - expected).abs().max() / size < tolerance


@contextmanager
def rules_written_into(module: nn.Module, parts: set[str]) -> Iterator[nn.Module]:
    for name, part in module.named_modules():
        if "norm" in parts and (isinstance(part, nn.LayerNorm) or "RMSNorm" in type(part).__name__):
            part.forward = frozen_norm(part)
        if name.endswith("mlp"):
            part.forward = (
                gpt2_mlp(part, parts) if hasattr(part, "c_fc") else gated_mlp(part, parts)
            )
        shares = {"c_attn": "qkv", "q_proj": "q", "k_proj": "k", "v_proj": "v"}
        letters = shares.get(name.split(".")[-1])
        if letters is not None:
            part.register_forward_hook(attention_twin(letters, parts))
    with pytest.MonkeyPatch.context() as patch:
        if "softmax" in parts:
            patch.setattr(nn.functional, "softmax", lambda x, **_: Tempered.apply(x.double()))
        yield module


def frozen_norm(norm: nn.Module) -> Callable[[Tensor], Tensor]:
    def forward(x: Tensor) -> Tensor:
        if isinstance(norm, nn.LayerNorm):
            x = x - x.mean(dim=-1, keepdim=True)
            sigma = (x.pow(2).mean(dim=-1, keepdim=True) + norm.eps).sqrt().detach()
            return norm.weight * x / sigma + norm.bias
        sigma = (x.pow(2).mean(dim=-1, keepdim=True) + norm.variance_epsilon).sqrt().detach()
        return norm.weight * x / sigma

    return forward


def activation(act: nn.Module, x: Tensor, parts: set[str]) -> Tensor:
    return x * (act(x) / x).detach() if "identity" in parts else act(x)


def gpt2_mlp(mlp: nn.Module, parts: set[str]) -> Callable[[Tensor], Tensor]:
    return lambda x: mlp.c_proj(activation(mlp.act, mlp.c_fc(x), parts))


def gated_mlp(mlp: nn.Module, parts: set[str]) -> Callable[[Tensor], Tensor]:
    def forward(x: Tensor) -> Tensor:
        product = activation(mlp.act_fn, mlp.gate_proj(x), parts) * mlp.up_proj(x)
        if "half" in parts:
            product = product / 2 + (product / 2).detach()
        return mlp.down_proj(product)

    return forward


def attention_twin(letters: str, parts: set[str]) -> Callable[..., Tensor]:
    share = {letter: 1.0 for letter in "qkv"}
    if "shares" in parts:
        share = {"q": 0.25, "k": 0.25, "v": 0.5}
    if "attention" in parts:
        share = {"q": 0.0, "k": 0.0, "v": 1.0}

    def hook(module: nn.Module, inputs: tuple[Tensor, ...], out: Tensor) -> Tensor:
        pieces = zip(letters, out.chunk(len(letters), dim=-1), strict=True)
        return torch.cat([share[x] * p + ((1 - share[x]) * p).detach() for x, p in pieces], dim=-1)

    return hook


class Tempered(torch.autograd.Function):
    """Softmax with the backward pass of GIM (temperature 2), by its formula."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return torch.softmax(x, dim=-1)

    @staticmethod
    def backward(ctx, g):
        s = torch.softmax(ctx.saved_tensors[0] / 2, dim=-1)
        return s * (g - (g * s).sum(dim=-1, keepdim=True))
