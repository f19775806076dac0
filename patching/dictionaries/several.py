"""Dictionaries that belong together: one a layer, as they are published, or across layers.

In a cross-layer transcoder, features of layer l write to the MLPs of layers l, l + 1, ..., so that
what is rebuilt at a layer is a sum over the dictionaries below it:
`y_hat_l = b_dec_l + sum over l' <= l of f_l' W_dec_l'->l (+ x_l W_skip_l)`. Knows no model.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from jaxtyping import Float
from torch import Tensor

from patching.dictionaries.dictionary import Dictionary
from patching.files.brief import briefly


@briefly
@dataclass(frozen=True, eq=False)
class Dictionaries:
    """Dictionaries in the order of the places they read; no two have the same places.

    `facts` are what was published with all of them, such as the name of the model.
    """

    name: str
    members: tuple[Dictionary, ...]
    facts: Mapping[str, object] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        if not self.members:
            raise ValueError(f"{self.name!r} holds no dictionary; at least one would be right")
        own = [member.writes for member in self.members]
        twice = next((place for place in own if own.count(place) > 1), None)
        if twice is not None:
            raise ValueError(
                f"two dictionaries of {self.name!r} rebuild {twice}: one a place would be right"
            )
        for member in self.members:
            lost = next((place for place in member.later if place not in own), None)
            if lost is not None:
                raise ValueError(
                    f"{member.name!r} writes at {lost} too, and {self.name!r} holds no dictionary "
                    f"that rebuilds it, only those of {', '.join(own)}"
                )

    def __len__(self) -> int:
        return len(self.members)

    def __iter__(self) -> Iterator[Dictionary]:
        return iter(self.members)

    def __getitem__(self, place: str) -> Dictionary:
        """The dictionary that rebuilds a place.

        Raises:
            ValueError: if there is none.
        """
        for member in self.members:
            if member.writes == place:
                return member
        own = ", ".join(member.writes for member in self.members)
        raise ValueError(f"{self.name!r} has no dictionary for {place!r}, only for {own}")

    @property
    def crosses_layers(self) -> bool:
        """Whether features write to places of other dictionaries too."""
        return any(member.later for member in self.members)

    def decode(
        self,
        features: Sequence[Float[Tensor, "*rows _feature"]],
        inputs: Sequence[Float[Tensor, "*rows _d_in"]],
    ) -> dict[str, Float[Tensor, "*rows _d_out"]]:
        """What is rebuilt at every place, from values of the features and inputs of all members."""
        rebuilt = {
            member.writes: member.decode(f, x)
            for member, f, x in zip(self.members, features, inputs, strict=True)
        }
        for member, f in zip(self.members, features, strict=True):
            for place in member.later:
                rebuilt[place] = rebuilt[place] + member.write(f, place)
        return rebuilt
