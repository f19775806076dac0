"""Rows of a graph kept sparse: the largest weights, and one number for all the others."""

from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


@dataclass
class SparseRows:
    """Rows that come a few at a time, of which the largest weights are kept.

    Of each row as many as hold the share `keep` of its absolute weight; all that are not zero
    where `keep` is 1.
    """

    keep: float
    _parts: list[tuple[Tensor, Tensor, Tensor]] = field(default_factory=list)
    _rests: list[tuple[Tensor, Tensor]] = field(default_factory=list)

    def add(self, targets: Int[Tensor, " row"], weights: Float[Tensor, "row source"]) -> None:
        """Take some rows in."""
        chosen = self._largest(weights)
        rows, sources = chosen.nonzero(as_tuple=True)
        left = weights.where(~chosen, 0)
        kept = targets[rows], sources, weights[rows, sources]
        self._parts.append(tuple(x.cpu() for x in kept))  # pyright: ignore[reportArgumentType]
        rest = left.sum(dim=1), left.abs().sum(dim=1)
        self._rests.append(tuple(x.cpu() for x in rest))  # pyright: ignore[reportArgumentType]

    def edges(
        self,
    ) -> tuple[Int[Tensor, " edge"], Int[Tensor, " edge"], Float[Tensor, " edge"]]:
        """Targets, sources and weights of all that were kept, by target, then source."""
        targets, sources, weights = (torch.cat(part) for part in zip(*self._parts, strict=True))
        if bool((targets.diff() >= 0).all()):
            return targets, sources, weights
        order = targets.argsort(stable=True)
        return targets[order], sources[order], weights[order]

    def rests(self) -> tuple[Float[Tensor, " row"], Float[Tensor, " row"]]:
        """The sum of what was not kept, and that of its absolute values, for every row taken in."""
        sums, sizes = (torch.cat(part) for part in zip(*self._rests, strict=True))
        return sums, sizes

    def _largest(self, weights: Float[Tensor, "row source"]) -> Bool[Tensor, "row source"]:
        size = weights.abs()
        if self.keep >= 1:
            return size > 0
        ordered = size.sort(dim=1, descending=True).values
        enough = self.keep * ordered.sum(dim=1, keepdim=True)
        last = (ordered.cumsum(dim=1) < enough).sum(dim=1, keepdim=True)
        least = ordered.gather(1, last.clamp(max=ordered.shape[1] - 1))
        return (size >= least) & (size > 0)
