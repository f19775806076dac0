"""How to put together each reader's input in a pass over several circuits. Knows no model.

A reader's input is the stream with each removed edge's writer replaced by its corrupt write:

    x_j = live stream + sum_s removed[s, j] * missing_s        missing_s = corrupt_s - live_s
        = corrupt stream + sum_s (removed[s, j] - 1) * missing_s

Each circuit and reader starts from the end with fewer terms.
"""

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


@dataclass(frozen=True)
class Plan:
    """Terms of every reader's input, for circuits run together.

    `coefficient` multiplies `missing_s`; the sum starts from the corrupt stream where
    `from_corrupt`, else from the live one. A reader is `untouched` where no circuit removes
    anything, `replaced` where every circuit removes everything; all others are `computed`.
    """

    coefficient: Float[Tensor, "circuit source dest"]
    from_corrupt: Bool[Tensor, "circuit dest"]
    untouched: Bool[Tensor, " dest"]
    replaced: Bool[Tensor, " dest"]

    @cached_property
    def computed(self) -> Bool[Tensor, " dest"]:
        """Readers whose input is put together."""
        return ~self.untouched & ~self.replaced

    @cached_property
    def used(self) -> Int[Tensor, " used"]:
        """Writers that some reader's sum needs, ascending."""
        needs_sum = self.coefficient[:, :, ~self.untouched]
        return (needs_sum != 0).any(dim=2).any(dim=0).nonzero().squeeze(1)

    def used_in(self, sources: slice) -> tuple[slice, Int[Tensor, " some"]]:
        """Where the used writers of a span stand among the used ones, and which they are."""
        first, last = (int((self.used < end).sum()) for end in (sources.start, sources.stop))
        return slice(first, last), self.used[first:last] - sources.start


def make_plan(
    removed: Float[Tensor, "circuit source dest"], exists: Bool[Tensor, "source dest"]
) -> Plan:
    """Choose for each circuit and reader where to start, and find what need not be computed."""
    kept = torch.where(exists, 1 - removed, torch.zeros_like(removed))
    from_corrupt = (kept != 0).sum(dim=1) < (removed != 0).sum(dim=1)
    return Plan(
        coefficient=torch.where(from_corrupt[:, None], -kept, removed),
        from_corrupt=from_corrupt,
        untouched=(removed == 0).all(dim=1).all(dim=0),
        replaced=(kept == 0).all(dim=1).all(dim=0),
    )
