"""Random dictionaries at any places of a small model."""

from collections.abc import Sequence

import torch

from patching.dictionaries import Dictionaries, Dictionary
from patching.model import Model


def random_dictionaries(
    model: Model,
    places: Sequence[str],
    n: int = 12,
    k: int | None = 4,
    *,
    skip: bool = False,
    across: bool = False,
) -> Dictionaries:
    """Autoencoders at streams and attention outputs, transcoders at MLPs; with or without TopK.

    With `across`, transcoders write to the MLPs after them too.
    """
    generator = torch.Generator().manual_seed(0)
    d = model.blocks[0].w_o.shape[-1]

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    mlps = [place for place in places if place.startswith("m")]

    def one(place: str) -> Dictionary:
        after = mlps[mlps.index(place) + 1 :] if across and place in mlps else []
        reads = f"{place}.in" if place.startswith("m") else place
        return Dictionary(
            f"random {place}",
            reads,
            place,
            draw(d, n),
            0.1 * draw(n),
            0.3 * draw(n, d),
            0.3 * draw(d),
            torch.zeros(n, dtype=torch.float64),
            k=k,
            skip=0.1 * draw(d, d) if skip and reads != place else None,
            later={later: 0.3 * draw(n, d) for later in after},
        )

    return Dictionaries("random", tuple(map(one, places)))
