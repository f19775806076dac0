"""Sums that readers see in one circuit, as matrix products. Knows no model."""

from itertools import pairwise

import torch
from jaxtyping import Float, Int
from torch import Tensor

from circuits.running.plan import STARTS, Plan

LIVE, REPLACED = 0, 1
"""The first rows of every circuit's writers: the streams that a reader's sum can start from."""


class Sums:
    """What one circuit's sums are made of, at the tokens where anything can differ.

    `missing` holds, after two rows to start from, replacement minus live write of each used writer.
    """

    def __init__(self, plan: Plan, like: Float[Tensor, "token d_model"]) -> None:
        self.plan = plan
        self.missing = like.new_empty(STARTS + len(plan.used), *like.shape)
        self._terms = plan.terms.contiguous().to(like.device)

    def rows(self, sources: slice) -> tuple[Float[Tensor, "some token d_model"], Tensor]:
        """Where the used writers of a layer are kept, and which of the layer they are."""
        rows, which = self.plan.used_in(sources)
        return self.missing[STARTS + rows.start : STARTS + rows.stop], which

    def computed(self, readers: slice) -> Int[Tensor, " some"]:
        """Which of some readers are put together."""
        return self.plan.computed[readers].nonzero().squeeze(1)

    def inputs(
        self,
        readers: Int[Tensor, " reader"],
        n_sources: int,
        tokens: Int[Tensor, " token"] | None = None,
        room: Float[Tensor, " room"] | None = None,
    ) -> Float[Tensor, "reader some d_model"]:
        """What some readers see, at all or only some of the tokens; starts must be set."""
        n = STARTS + self.plan.n_used(n_sources)
        missing = self.missing[:n] if tokens is None else self.missing[:n, tokens]
        seen = missing.flatten(1)
        shape = len(readers), seen.shape[1]
        out = None if room is None else room[: shape[0] * shape[1]].view(shape)
        x = torch.mm(self._terms[readers, :n], seen, out=out)
        return x.view(len(readers), *missing.shape[1:])


def cuts(span: Int[Tensor, " token"], n: int) -> list[slice]:
    """Where each of `n` spans stands among tokens that are in their order."""
    ends = span.bincount(minlength=n).cumsum(0).tolist()
    return [slice(*both) for both in pairwise([0, *ends])]
