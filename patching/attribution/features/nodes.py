"""Names of features and errors: `r3.post.f17@5`, `m3.n17`, `r3.post.error@5`. Knows no model."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from patching.files.brief import briefly

ERROR = -1
"""In place of a feature's index: what of a place no feature writes."""

EVERYWHERE = -1
"""In place of a position: all of them together."""


@briefly
@dataclass(frozen=True, eq=False)
class FeatureNodes:
    """Features and errors of some places, sorted by place, position and index, errors first.

    `sites` number `places`, in the order in which a model passes these; `letters` say whether a
    place has features of a dictionary (f) or neurons (n).
    """

    places: tuple[str, ...]
    letters: tuple[str, ...]
    sites: Int[Tensor, " node"]
    positions: Int[Tensor, " node"]
    features: Int[Tensor, " node"]

    def __len__(self) -> int:
        return len(self.sites)

    def __getitem__(self, chosen: Bool[Tensor, " node"] | Int[Tensor, " some"]) -> "FeatureNodes":
        parts = (self.sites[chosen], self.positions[chosen], self.features[chosen])
        return replace(self, sites=parts[0], positions=parts[1], features=parts[2])

    @property
    def are_errors(self) -> Bool[Tensor, " node"]:
        """Which of them are errors."""
        return self.features == ERROR

    @property
    def by_position(self) -> bool:
        """Whether positions are kept apart."""
        return bool((self.positions != EVERYWHERE).any())

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Names of all nodes."""
        columns = (self.sites, self.positions, self.features)
        rows = zip(*(column.tolist() for column in columns), strict=True)
        return tuple(self._name(*row) for row in rows)

    @cached_property
    def keys(self) -> Int[Tensor, " node"]:
        """A number for each node, which is the same in every table of the same places."""
        return (self.sites << 48) + ((self.positions + 1) << 32) + self.features + 1

    def index(self, name: str) -> int:
        """The number of a node.

        Raises:
            ValueError: if there is none of this name.
        """
        if name not in self._numbers:
            near = ", ".join(self.names[:3])
            raise ValueError(f"no node named {name!r} among {len(self)}, such as {near}")
        return self._numbers[name]

    def named(self, names: Sequence[str]) -> "FeatureNodes":
        """The nodes of some names, in the order of this table.

        Raises:
            ValueError: if there is none of a name.
        """
        return self[torch.tensor(sorted({self.index(name) for name in names}), dtype=torch.long)]

    def within(self, other: "FeatureNodes") -> Bool[Tensor, " node"]:
        """Which of these nodes are in another table.

        Raises:
            ValueError: if that is of other places.
        """
        if (self.places, self.letters) != (other.places, other.letters):
            raise ValueError(
                f"nodes of {', '.join(self.places)} and of {', '.join(other.places)} are not of "
                "the same dictionaries"
            )
        return torch.isin(self.keys, other.keys)

    @cached_property
    def _numbers(self) -> dict[str, int]:
        return {name: i for i, name in enumerate(self.names)}

    def _name(self, site: int, position: int, feature: int) -> str:
        what = "error" if feature == ERROR else f"{self.letters[site]}{feature}"
        where = "" if position == EVERYWHERE else f"@{position}"
        return f"{self.places[site]}.{what}{where}"
