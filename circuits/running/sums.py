"""Sums that readers see in one circuit, as matrix products. Knows no model."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from circuits.running.plan import Plan

LIVE, REPLACED = 0, 1
"""The first rows of every circuit's writers: the streams that a reader's sum can start from."""

STARTS = 2


class Sums:
    """What one circuit's sums are made of, at the tokens where anything can differ.

    `missing` holds, after two rows to start from, replacement minus live write of each used writer.
    """

    def __init__(self, plan: Plan, like: Float[Tensor, "token d_model"]) -> None:
        self.plan = plan
        self.missing = like.new_empty(STARTS + len(plan.used), *like.shape)
        starts = torch.stack([~plan.from_replaced, plan.from_replaced]).to(plan.coefficient)
        terms = torch.cat([starts, plan.coefficient[plan.used]])
        self._terms = terms.T.contiguous().to(like.device)

    def rows(self, sources: slice) -> tuple[Float[Tensor, "some token d_model"], Tensor]:
        """Where the used writers of a span are kept, and which of the span they are."""
        rows, which = self.plan.used_in(sources)
        return self.missing[STARTS + rows.start : STARTS + rows.stop], which

    def computed(self, readers: slice) -> Int[Tensor, " some"]:
        """Which readers of a span are put together."""
        return self.plan.computed[readers].nonzero().squeeze(1)

    def inputs(
        self,
        readers: Int[Tensor, " reader"],
        n_sources: int,
        tokens: Int[Tensor, " token"] | None = None,
        out: Float[Tensor, "room _"] | None = None,
    ) -> Float[Tensor, "reader some d_model"]:
        """What some readers see, at all or only some of the tokens; starts must be set."""
        n = STARTS + self.plan.n_used(n_sources)
        missing = self.missing[:n] if tokens is None else self.missing[:n, tokens]
        out = None if out is None else out[: len(readers)]
        x = torch.mm(self._terms[readers, :n], missing.flatten(1), out=out)
        return x.view(len(readers), *missing.shape[1:])
