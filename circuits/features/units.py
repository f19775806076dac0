"""What writes in a traced run: features of dictionaries or neurons, as one protocol for both.

A unit reads its layer's MLP input by a vector and writes vectors to the output of that MLP, or of
later ones too. What they do not write is an error, or constant.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from circuits.features.linear import LinearRun
from patching.dictionaries.examples import Asked
from patching.intervene import Intervention
from patching.model import Model
from patching.rules.sites import Part


@dataclass(frozen=True, eq=False)
class Units:
    """The active units of one layer, sorted by position, then by index.

    `values` are their activations.
    """

    layer: int
    positions: Int[Tensor, " unit"]
    indices: Int[Tensor, " unit"]
    values: Float[Tensor, " unit"]

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, chosen: Bool[Tensor, " unit"] | slice) -> "Units":
        parts = (self.positions, self.indices, self.values)
        return Units(self.layer, *(part[chosen] for part in parts))

    def spans(self, n_pos: int) -> Iterator[tuple[int, slice]]:
        """Positions with units, and where these are."""
        counts = torch.bincount(self.positions, minlength=n_pos).tolist()
        start = 0
        for pos, count in enumerate(counts):
            if count:
                yield pos, slice(start, start + count)
            start += count


@runtime_checkable
class Features(Protocol):
    """A kind of units in every layer of a model."""

    @property
    def name(self) -> str:
        """What they are, for people."""
        ...

    @property
    def letter(self) -> str:
        """What stands before the index in names: `m3.f17`, `m3.n17`."""
        ...

    @property
    def complete(self) -> bool:
        """Whether all units together are all that MLPs write, constants aside."""
        ...

    @property
    def facts(self) -> dict[str, object]:
        """What provenance says of them."""
        ...

    def parts(self) -> Sequence[Part]:
        """Backward rules inside MLPs that say what a unit reads."""
        ...

    def points(self, model: Model) -> Sequence[str]:
        """Hook points that have to be kept in a run.

        Raises:
            ValueError: if they do not fit the model.
        """
        ...

    def passing(
        self, layer: int, inputs: Sequence[Tensor], y: Tensor, sigma: Tensor | None
    ) -> Tensor | None:
        """What passes an MLP besides its units: a tensor linear in its input, or nothing.

        `sigma` is the denominator of a norm that follows the MLP, where there is one.
        """
        ...

    def active(self, run: LinearRun, layer: int) -> Units:
        """All that are active."""
        ...

    def reads(self, run: LinearRun, units: Units) -> Float[Tensor, "unit d_model"]:
        """The vectors by which units read the MLP's input."""
        ...

    def reached(self, layer: int) -> Sequence[int]:
        """The layers whose MLP outputs units of a layer write to."""
        ...

    def writes(self, run: LinearRun, units: Units, to: int) -> Float[Tensor, "unit d_model"]:
        """What units bring to the stream at the MLP output of layer `to`."""
        ...

    def constant(self, run: LinearRun, layer: int) -> Float[Tensor, "pos d_model"]:
        """What is written at a layer whatever was read."""
        ...

    def answering(
        self, layer: int, inputs: Sequence[Tensor], y: Tensor, sigma: Tensor | None
    ) -> Tensor:
        """What MLPs let through where active units answer: its gradient is that of their sum."""
        ...

    def scaled(
        self, layer: int, index: int, position: int, factor: float | int
    ) -> tuple[Intervention, ...]:
        """What multiplies a unit of the real model, for `intervening`."""
        ...

    def asked(self, layer: int, indices: Sequence[int], signs: Sequence[int]) -> Asked:
        """How units of a layer are told of by examples; with the sign -1, where they are least."""
        ...
