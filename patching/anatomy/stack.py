"""The list of blocks that a model's own forward walks through, and how to skip its beginning."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

import torch
from torch import Tensor, nn
from transformer_lens.model_bridge import TransformerBridge

from patching.anatomy.turns import turn


@contextmanager
def skipping(bridge: TransformerBridge, n_blocks: int, *, as_tuple: int) -> Iterator[None]:
    """Runs inside leave out the first blocks, which hand their input on.

    The stream that the next block is to start from must be given by a hook on its input. Hooks of
    skipped blocks do not fire. `as_tuple` is `returns_tuples(bridge)`.
    """
    with turn(bridge):
        blocks = _stack(bridge)
        skipped = list(blocks[:n_blocks])
        try:
            for i, block in enumerate(skipped):
                blocks[i] = _Skip(block, as_tuple)
            yield
        finally:
            for i, block in enumerate(skipped):
                blocks[i] = block


def returns_tuples(bridge: TransformerBridge) -> int:
    """How long the tuple is that the family's blocks return, by one small run; 0 if it is none."""
    seen: list[int] = []
    device = next(bridge.parameters()).device
    with turn(bridge), torch.no_grad():
        blocks = _stack(bridge)
        first = blocks[0]
        try:
            blocks[0] = _Watch(first, seen)
            bridge(torch.zeros(1, 2, dtype=torch.long, device=device))
        finally:
            blocks[0] = first
    return seen[0]


def _stack(bridge: TransformerBridge) -> nn.ModuleList:
    for module in cast(nn.Module, bridge.original_model).modules():
        if isinstance(module, nn.ModuleList) and len(module) and module[0] is bridge.blocks[0]:
            return module
    raise AssertionError("a proven model walks through one list of blocks")


class _StandIn(nn.Module):
    """Stands in for a block, whose attributes it shows; the block is no submodule of it."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        object.__setattr__(self, "block", block)

    def __getattr__(self, name: str) -> object:  # pyright: ignore[reportIncompatibleMethodOverride]
        return getattr(object.__getattribute__(self, "block"), name)


class _Skip(_StandIn):
    def __init__(self, block: nn.Module, as_tuple: int) -> None:
        super().__init__(block)
        object.__setattr__(self, "as_tuple", as_tuple)

    def forward(
        self, hidden_states: Tensor, *args: object, **kwargs: object
    ) -> Tensor | tuple[Tensor | None, ...]:
        length = object.__getattribute__(self, "as_tuple")
        return (hidden_states, *[None] * (length - 1)) if length else hidden_states


class _Watch(_StandIn):
    def __init__(self, block: nn.Module, seen: list[int]) -> None:
        super().__init__(block)
        object.__setattr__(self, "seen", seen)

    def forward(self, *args: object, **kwargs: object) -> object:
        out = object.__getattribute__(self, "block")(*args, **kwargs)
        object.__getattribute__(self, "seen").append(len(out) if isinstance(out, tuple) else 0)
        return out
