"""The tokens of a run that masks bear on, in the order in which sums over writers are made.

Either all positions between the first and the last where anything can differ, or, where spans are
kept apart, those where it can, span by span. Knows no writers.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from patching.capture import indices


@runtime_checkable
class Window(Protocol):
    """Tokens of every row, in one or more parts: as many of each row in a part.

    `sizes` are the tokens of a part. Those that can differ stand at `at`, in the order of
    `patching.capture.indices`.
    """

    @property
    def sizes(self) -> Sequence[int]:
        """How many tokens a part has."""
        ...

    @property
    def at(self) -> Int[Tensor, " token"]:
        """Where tokens that can differ stand."""
        ...

    def chosen(self, x: Float[Tensor, "row pos ..."]) -> Float[Tensor, "window_token ..."]:
        """Activations at these tokens."""
        ...

    def put(
        self, live: Float[Tensor, "row pos ..."], made: Float[Tensor, "window_token ..."]
    ) -> Float[Tensor, "row pos ..."]:
        """Live activations with others in place of them."""
        ...


def spread(window: Window, x: Shaped[Tensor, "token ..."]) -> Shaped[Tensor, "window_token ..."]:
    """Values at tokens as values of the whole window: 0 where nothing can differ."""
    empty = x.new_zeros(sum(window.sizes), *x.shape[1:])
    return empty.index_put((window.at,), x)


@dataclass(frozen=True, eq=False)
class Whole:
    """All positions between two."""

    n_rows: int
    first: int
    stop: int
    at: Int[Tensor, " token"]

    @staticmethod
    def of(tokens: Bool[Tensor, "row pos"]) -> "Whole":
        """Between the first and the last where anything can differ."""
        rows, places = indices(tokens)
        first, stop = int(places.min()), int(places.max()) + 1
        return Whole(len(tokens), first, stop, rows * (stop - first) + places - first)

    @property
    def sizes(self) -> tuple[int]:
        """All of it is one part."""
        return (self.n_rows * (self.stop - self.first),)

    def chosen(self, x: Float[Tensor, "row pos ..."]) -> Float[Tensor, "window_token ..."]:
        """Activations at these positions."""
        return x[:, self.first : self.stop].flatten(0, 1)

    def put(
        self, live: Float[Tensor, "row pos ..."], made: Float[Tensor, "window_token ..."]
    ) -> Float[Tensor, "row pos ..."]:
        """Live activations with others in place of them."""
        made = made.unflatten(0, (self.n_rows, -1))
        return torch.cat([live[:, : self.first], made, live[:, self.stop :]], dim=1)


@dataclass(frozen=True, eq=False)
class Apart:
    """The tokens of one span after those of another, rows filled up to one length in each.

    `tokens` count through the rows. Only those at `real` are put back; where a row has fewer of a
    span than others, some other token stands in, and what is made of it is thrown away. `spans` are
    the numbers of those that have tokens.
    """

    tokens: Int[Tensor, " window_token"]
    real: Int[Tensor, " token"]
    at: Int[Tensor, " token"]
    sizes: tuple[int, ...]
    spans: tuple[int, ...]

    @staticmethod
    def of(tokens: Bool[Tensor, "row pos"], span: Int[Tensor, "row pos"]) -> "Apart":
        """The tokens where anything can differ, by their spans' numbers."""
        first = tokens.shape[1] * torch.arange(len(tokens), device=tokens.device)[:, None]
        spans = span[tokens].unique().tolist()
        columns, is_real = [], []
        for number in spans:
            mine = tokens & (span == number)
            n = int(mine.sum(dim=1).max())
            chosen = mine.int().argsort(dim=1, descending=True, stable=True)[:, :n]
            columns.append((first + chosen).flatten())
            is_real.append(mine.gather(1, chosen).flatten())
        where, real = torch.cat(columns), torch.cat(is_real).nonzero().squeeze(1)
        place = torch.empty_like(tokens, dtype=torch.long).flatten()
        place[where[real]] = real
        sizes = tuple(map(len, columns))
        return Apart(where, real, place.view_as(tokens)[tokens], sizes, tuple(spans))

    def chosen(self, x: Float[Tensor, "row pos ..."]) -> Float[Tensor, "window_token ..."]:
        """Activations at these tokens."""
        return x.flatten(0, 1).index_select(0, self.tokens.to(x.device))

    def put(
        self, live: Float[Tensor, "row pos ..."], made: Float[Tensor, "window_token ..."]
    ) -> Float[Tensor, "row pos ..."]:
        """Live activations with others in place of them."""
        made, tokens = made.index_select(0, self.real), self.tokens[self.real].to(live.device)
        return live.flatten(0, 1).index_copy(0, tokens, made).view_as(live)
