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
    Where spans are kept apart, `span` is the number of each token's, ascending.
    """

    def __init__(
        self,
        plan: Plan,
        like: Float[Tensor, "token d_model"],
        span: Int[Tensor, " token"] | None = None,
    ) -> None:
        self.plan = plan
        self.missing = like.new_empty(STARTS + len(plan.used), *like.shape)
        self._terms = plan.terms.contiguous().to(like.device)
        self._span = span

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
        if self._span is not None:
            span = self._span if tokens is None else self._span[tokens]
            return self._by_span(readers, missing, span, out)
        x = torch.mm(self._terms[readers, :n], missing.flatten(1), out=out)
        return x.view(len(readers), *missing.shape[1:])

    def _by_span(
        self,
        readers: Int[Tensor, " reader"],
        missing: Float[Tensor, "row token d_model"],
        span: Int[Tensor, " token"],
        out: Float[Tensor, "reader _"] | None,
    ) -> Float[Tensor, "reader token d_model"]:
        """The same, each span's tokens by its own terms."""
        shape = len(readers), *missing.shape[1:]
        x = missing.new_empty(shape) if out is None else out.view(shape)
        for terms, part in zip(self._terms, cuts(span, len(self._terms)), strict=True):
            if part.start < part.stop:
                made = torch.mm(terms[readers, : len(missing)], missing[:, part].flatten(1))
                x[:, part] = made.view(len(readers), -1, missing.shape[2])
        return x


def cuts(span: Int[Tensor, " token"], n: int) -> list[slice]:
    """Where each of `n` spans stands among tokens that are in their order."""
    ends = span.bincount(minlength=n).cumsum(0).tolist()
    return [slice(*both) for both in pairwise([0, *ends])]
