"""Attention with its pattern held, as a linear map of values that many targets pull back at once.

Left to itself, differentiation copies the pattern, `[head dest source]`, once for each of many
targets. Here the gradients of all are columns of one matrix, and only what any of them reaches is
multiplied: in attention that looks back, nothing after the targets' own positions.
"""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import FunctionCtx

from patching.anatomy.blocks import Block
from patching.anatomy.insides import softmax
from patching.model import Hook
from patching.rules.parts import graft

_SAME = {torch.float64: 1e-5, torch.float32: 1e-4}
_SAME_HALF = 0.05
"""How far mixed values may be from the model's own, as a share of the largest: rounding."""


class Mixing:
    """Hooks that hang a layer's mixed values on its values alone, by the pattern of the run.

    The values stay the model's own. Where hooks do not reach the pattern, or mixed values are made
    of something else besides, the layer keeps the graph of operations that the model makes.
    """

    def __init__(self, block: Block) -> None:
        self._block = block
        self._values: Tensor | None = None
        self._pattern: Tensor | None = None

    @property
    def hooks(self) -> list[tuple[str, Hook]]:
        """To be in place after those of backward rules."""
        points = softmax(self._block)
        if points is None:
            return []
        ends = (self._block.qkv[2], self._keep_values), (points.pattern, self._keep_pattern)
        return [*ends, (self._block.z, self._mix)]

    def _keep_values(self, v: Tensor) -> None:
        self._values = v

    def _keep_pattern(self, pattern: Tensor) -> None:
        self._pattern = pattern.detach()

    def _mix(self, z: Tensor) -> Tensor | None:
        values, pattern = self._values, self._pattern
        self._values = self._pattern = None
        if values is None or pattern is None or not _fit(values, pattern, z):
            return None
        heads = values.repeat_interleave(z.shape[2] // values.shape[2], dim=2)
        pattern = pattern.to(z)[0]
        looks_back = not any(bool(head.triu(1).any()) for head in pattern)
        made = _Mix.apply(pattern, heads.squeeze(0), looks_back).unsqueeze(0)
        missed = (made.detach() - z.detach()).abs().max()
        near = missed <= _SAME.get(z.dtype, _SAME_HALF) * z.detach().abs().max()
        return graft(z, made) if bool(near) else None


def pull_back(
    pattern: Float[Tensor, "head dest source"],
    g: Float[Tensor, "target dest head d_head"],
    *,
    looks_back: bool,
) -> Float[Tensor, "target source head d_head"]:
    """Gradients at mixed values taken to the values: `sum over dest of pattern * g`.

    Positions that no target reaches are left out, and where the pattern sees nothing later
    (`looks_back`), so are sources after the last position reached.
    """
    out = torch.zeros_like(g)
    reached = g.abs().amax(dim=(0, 2, 3)).nonzero()[:, 0]
    if not len(reached):
        return out
    first, end = int(reached[0]), int(reached[-1]) + 1
    n_targets, _, n_heads, d_head = g.shape
    seen = end if looks_back else pattern.shape[2]
    columns = g[:, first:end].permute(2, 1, 0, 3).reshape(n_heads, end - first, -1)
    found = torch.bmm(pattern[:, first:end, :seen].transpose(1, 2), columns)
    out[:, :seen] = found.view(n_heads, seen, n_targets, d_head).permute(2, 1, 0, 3)
    return out


class _Mix(torch.autograd.Function):
    @staticmethod
    def forward(pattern: Tensor, values: Tensor, looks_back: bool) -> Tensor:
        return torch.einsum("hqk,khd->qhd", pattern, values)

    @staticmethod
    def setup_context(
        ctx: FunctionCtx, inputs: tuple[Tensor, Tensor, bool], output: Tensor
    ) -> None:
        ctx.save_for_backward(inputs[0])
        ctx.looks_back = inputs[2]  # pyright: ignore[reportAttributeAccessIssue]

    @staticmethod
    def backward(ctx: FunctionCtx, *gradients: Tensor) -> tuple[None, Tensor, None]:
        (pattern,) = ctx.saved_tensors  # pyright: ignore[reportAttributeAccessIssue]
        looks_back = ctx.looks_back  # pyright: ignore[reportAttributeAccessIssue]
        return None, _PullBack.apply(pattern, gradients[0], looks_back), None


class _PullBack(torch.autograd.Function):
    """`pull_back`, of one target or, where gradients are batched, of all of them together."""

    @staticmethod
    def forward(pattern: Tensor, g: Tensor, looks_back: bool) -> Tensor:
        return pull_back(pattern, g.unsqueeze(0), looks_back=looks_back).squeeze(0)

    @staticmethod
    def setup_context(
        ctx: FunctionCtx, inputs: tuple[Tensor, Tensor, bool], output: Tensor
    ) -> None:
        return None

    @staticmethod
    def vmap(
        info: object,
        in_dims: tuple[int | None, ...],
        *args: Tensor | bool,
    ) -> tuple[Tensor, int]:
        pattern, g, looks_back = args
        assert isinstance(pattern, Tensor) and isinstance(g, Tensor)
        assert in_dims[0] is None and in_dims[1] is not None, "targets differ in gradients alone"
        return pull_back(pattern, g.movedim(in_dims[1], 0), looks_back=bool(looks_back)), 0


def _fit(values: Tensor, pattern: Tensor, z: Tensor) -> bool:
    """Whether shapes are those of values that a pattern mixes, one row of a prompt."""
    if not (values.ndim == pattern.ndim == z.ndim == 4) or values.shape[2] == 0:
        return False
    n_rows, n_pos, n_heads, d_head = z.shape
    whole = n_heads % values.shape[2] == 0
    return (
        n_rows == 1
        and whole
        and tuple(pattern.shape) == (1, n_heads, n_pos, n_pos)
        and tuple(values.shape) == (1, n_pos, values.shape[2], d_head)
    )
