"""At which positions sweeps patch: each one alone, named spans of them, or all."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Bool
from torch import Tensor

from patching.runs.patches import Spots
from patching.tasks.task import Batch


@dataclass(frozen=True)
class Where:
    """The axis of positions or spans, and the spots of a batch: example by example along it."""

    labels: tuple[str, ...]
    spots: Callable[[Batch, Bool[Tensor, "example pos"]], Spots]


def by_position(n: int) -> Where:
    """Each position alone, counted from the first real token."""

    def spots(batch: Batch, differs: Bool[Tensor, "example pos"]) -> Spots:
        example, column = differs.nonzero(as_tuple=True)
        columns = torch.arange(differs.shape[1], device=differs.device)
        return Spots(example, batch.places[example, column], column[:, None] == columns)

    return Where(tuple(map(str, range(n))), spots)


def by_span(spans: Mapping[str, range], n: int) -> Where:
    """All positions of a named span at once.

    Raises:
        ValueError: if there are no spans, or one is empty or reaches beyond the prompts.
    """
    if not spans:
        raise ValueError("got no spans; name at least one, such as {'subject': range(1, 3)}")
    for name, span in spans.items():
        if not len(span) or min(span) < 0 or max(span) >= n:
            raise ValueError(
                f"the span {name!r} is {span}; a span holds at least one of the positions 0 to "
                f"{n - 1} of the longest prompt"
            )

    def spots(batch: Batch, differs: Bool[Tensor, "example pos"]) -> Spots:
        inside = [
            torch.isin(batch.places, torch.tensor(list(span), device=differs.device)) & differs
            for span in spans.values()
        ]
        cells = torch.stack(inside, dim=1)
        example, where = cells.any(dim=2).nonzero(as_tuple=True)
        return Spots(example, where, cells[example, where])

    return Where(tuple(spans), spots)


def everywhere() -> Where:
    """All positions at once."""

    def spots(batch: Batch, differs: Bool[Tensor, "example pos"]) -> Spots:
        example = differs.any(dim=1).nonzero(as_tuple=True)[0]
        return Spots(example, torch.zeros_like(example), differs[example])

    return Where(("all",), spots)
