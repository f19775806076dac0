"""Activations of one run by the names of their places, and the hooks that keep them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from jaxtyping import Float, Int
from torch import Tensor

from patching.anatomy.places import Place
from patching.files.brief import briefly


@briefly
@dataclass(frozen=True, eq=False)
class Activations:
    """What one run showed: the logits, and the activations that were asked for, by name.

    `values` are `[batch pos ...]` (patterns `[batch (head) pos pos]`, see
    `patching.anatomy.places`), detached, under the names they
    were asked by. Positions are columns of `tokens`.
    """

    tokens: Int[Tensor, "batch pos"]
    logits: Float[Tensor, "batch pos vocab"]
    places: Mapping[str, Place]
    values: Mapping[str, Tensor]

    def __getitem__(self, name: str) -> Tensor:
        """One activation.

        Raises:
            ValueError: if it was not asked for.
        """
        if name not in self.values:
            kept = ", ".join(self.values) or "none"
            raise ValueError(
                f"this run did not keep {name!r} (it kept: {kept}); ask for it with "
                f"`run(tokens, cache=[{name!r}])`"
            )
        return self.values[name]


class Keeper:
    """Hooks that keep the activations at some places, and no more than those; then `values`."""

    def __init__(self, places: Mapping[str, Place]) -> None:
        self.values: dict[str, Tensor] = {}
        self._places = places
        self._offsets: dict[str, Tensor] = {}

    @property
    def hooks(self) -> list[tuple[str, Callable[[Tensor], None]]]:
        """To be in place during the run, after whatever changes activations."""
        offsets = {place.offset[0] for place in self._places.values() if place.offset}
        return [
            *((name, self._keep_offset(name)) for name in sorted(offsets)),
            *((place.hook, self._keep(name)) for name, place in self._places.items()),
        ]

    def _keep_offset(self, name: str) -> Callable[[Tensor], None]:
        def hook(tensor: Tensor) -> None:
            self._offsets[name] = tensor.detach()

        return hook

    def _keep(self, name: str) -> Callable[[Tensor], None]:
        place = self._places[name]

        def hook(tensor: Tensor) -> None:
            offset = None if place.offset is None else self._offsets[place.offset[0]]
            value = place.value(tensor.detach(), offset)
            self.values[name] = value.clone() if place.index is not None else value

        return hook
