"""Small changes to a set of edges. Knows no model."""

import math
from collections.abc import Sequence

from jaxtyping import Bool
from torch import Tensor

Mask = Bool[Tensor, "source dest"]
Edge = tuple[int, int]


def edges(mask: Mask) -> list[Edge]:
    """The edges of a mask, in row-major order."""
    return [(source, dest) for source, dest in mask.nonzero().tolist()]


def less(mask: Mask, some: Sequence[Edge]) -> Mask:
    """The mask without some edges."""
    return _with(mask, some, False)


def more(mask: Mask, some: Sequence[Edge]) -> Mask:
    """The mask with some edges beside its own."""
    return _with(mask, some, True)


def pairs(mask: Mask, out: Sequence[Edge], in_: Sequence[Edge], most: int) -> list[Mask]:
    """Masks in which one of the first few edges inside is swapped for one of those outside.

    All pairs of both, at most `most`: what one edge is worth may hang on another.
    """
    n = math.isqrt(most)
    return [more(less(mask, [one]), [other]) for one in out[:n] for other in in_[:n]]


def _with(mask: Mask, some: Sequence[Edge], value: bool) -> Mask:
    found = mask.clone()
    for edge in some:
        found[edge] = value
    return found
