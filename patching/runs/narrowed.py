"""Runs that work on some tokens alone, where the rest is known or nothing asked sees it.

Projections and MLPs make of each token what they make of it whatever stands beside it. Two prompts
are alike up to where they first differ, and no gradient is wanted there: what the first run made of
those tokens, those after it take over. Of the last layer, only answers are ever read.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from jaxtyping import Bool, Float, Int
from torch import Tensor

from patching.anatomy.devices import AtLayer
from patching.capture import indices
from patching.model import Hook, Model
from patching.tasks.task import Batch

Hooks = tuple[tuple[str, Hook], ...]

MOST = 0.75
"""The share of tokens up to which it is worth to pick them out."""


class Narrowed:
    """Runs of one batch: the first in full, those after it at some `tokens`.

    Inside `running`, whatever keeps activations sees all of them; the hooks that it hands out come
    after all others. Without tokens, and where most are chosen, all runs are in full, but for what
    is read `at_answers` alone.
    """

    def __init__(
        self,
        model: Model,
        batch: Batch,
        tokens: Bool[Tensor, "row pos"] | None = None,
        *,
        at_answers: bool = True,
    ) -> None:
        self._model = model
        chosen = None if tokens is None else _few(indices(tokens), batch)
        answers = _few(batch.asked, batch) if at_answers else None
        self._stations = tuple(_stations(model, batch, chosen, answers))

    @contextmanager
    def running(self) -> Iterator[Hooks]:
        """One run inside, whose last hooks are those handed out.

        Raises:
            ValueError: as `Model.hooked`.
        """
        with self._model.hooked([hook for station in self._stations for hook in station.leaving()]):
            yield tuple(hook for station in self._stations for hook in station.entering())


def differing(batch: Batch, replaced: Bool[Tensor, "row pos"]) -> Bool[Tensor, "row pos"]:
    """Where two runs differ: an ablation of one's own may leave some of those tokens alone."""
    same = batch.can_differ  # which the product's ablations hand on, so that it is known already
    return replaced if replaced is same else replaced | same


@dataclass
class _Station:
    """What of a layer works at some tokens, counted over all rows; what it made of the others.

    With `unread`, that is nothing, and no run has to be in full.
    """

    enter: str
    leave: str
    at: Int[Tensor, " token"]
    shape: tuple[int, int]
    unread: bool
    kept: list[Tensor] = field(default_factory=list)

    def entering(self) -> list[tuple[str, Hook]]:
        return [(self.enter, AtLayer(self._take))] if self.unread or self.kept else []

    def leaving(self) -> list[tuple[str, Hook]]:
        put = self._alone if self.unread else self._join if self.kept else self._keep
        return [(self.leave, AtLayer(put))]

    def _take(self, x: Float[Tensor, "row pos *width"]) -> Float[Tensor, "one token *width"]:
        return x.flatten(0, 1).index_select(0, self.at)[None]

    def _keep(self, made: Tensor) -> None:
        self.kept.append(made.detach())

    def _join(self, made: Float[Tensor, "one token *width"]) -> Float[Tensor, "row pos *width"]:
        (before,) = self.kept
        return before.flatten(0, 1).index_copy(0, self.at, made[0]).view(before.shape)

    def _alone(self, made: Float[Tensor, "one token *width"]) -> Float[Tensor, "row pos *width"]:
        rows, positions = self.shape
        out = made.new_zeros(rows * positions, *made.shape[2:])
        return out.index_copy(0, self.at, made[0]).unflatten(0, (rows, positions))


def _stations(
    model: Model,
    batch: Batch,
    chosen: Int[Tensor, " token"] | None,
    answers: Int[Tensor, " asked"] | None,
) -> Iterator[_Station]:
    rows, positions = batch.clean.shape
    for block in model.blocks:
        last = block is model.blocks[-1]
        for number, (enter, leave) in enumerate(block.tokenwise):
            unread = last and answers is not None and number not in (1, 2)
            at = answers if unread else chosen
            if at is not None:
                yield _Station(enter, leave, at.to(block.device), (rows, positions), unread)


def _few(tokens: tuple[Tensor, ...], batch: Batch) -> Int[Tensor, " token"] | None:
    rows, positions = tokens
    few = 0 < len(rows) <= MOST * batch.clean.numel()
    return rows * batch.clean.shape[1] + positions if few else None
