"""Interventions as values: what is done to a named activation, and at which positions.

Values only; `running` puts them in place. Positions count from each prompt's first real token.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from patching.anatomy.kept import Activations

Change = Callable[[Tensor], Tensor]
"""Takes the activation at the chosen positions, `[batch pos ...]` (of all heads' patterns `[batch
head pos source]`), and returns another of the same shape. Differentiable, if it is to be."""

Positions = int | Sequence[int] | None


@dataclass(frozen=True, eq=False)
class Intervention:
    """A change of one named activation, at some positions or at all.

    With `positions`, exactly those tokens of the prompt are changed, and no token generated after
    it. Without, every token is, generated ones included.

    `brings` is the shape of what the change puts there or adds, to be checked before a run;
    `length` the length that prompts must have, where the change comes from a run of prompts.
    """

    place: str
    change: Change
    positions: Positions = None
    brings: tuple[int, ...] | None = None
    length: int | None = None

    def __post_init__(self) -> None:
        if self.positions is None:
            return
        chosen = positions_of(self.positions)
        if not chosen or min(chosen) < 0 or len(set(chosen)) < len(chosen):
            raise ValueError(
                f"positions of {self.place!r} are {list(chosen)}; give different numbers, counted "
                "from 0 at the first real token"
            )


def positions_of(positions: int | Sequence[int]) -> tuple[int, ...]:
    """One position or several, as several."""
    return (positions,) if isinstance(positions, int) else tuple(positions)


def patch(
    place: str, source: Activations | Float[Tensor, "..."], positions: Positions = None
) -> Intervention:
    """Put in the activation of another run, or given values.

    From a run (`model.run(tokens, cache=[place])`), each position gets what that run had there;
    without `positions` both prompts must be equally long. A run of one prompt serves all rows.
    Values are `[batch or 1, positions or 1, ...]`, one for each of `positions` in their order.

    Raises:
        ValueError: if the run did not keep the place, or is shorter than a position.
    """
    if isinstance(source, Tensor):
        return Intervention(place, _put(source), positions, tuple(source.shape))
    values, n = source[place], source.tokens.shape[1]
    if positions is None:
        return Intervention(place, _put(values), None, tuple(values.shape), n)
    chosen = positions_of(positions)
    if max(chosen, default=0) >= n:
        raise ValueError(
            f"{place!r} is to be patched at position {max(chosen)}, and the run it comes from has "
            f"{n} positions, 0 to {n - 1}"
        )
    at = torch.tensor(chosen, device=values.device)
    values = values.index_select(source.places[place].pos_axis, at)
    return Intervention(place, _put(values), positions, tuple(values.shape))


def resample(
    place: str, source: Activations, positions: Positions = None, *, seed: int = 0
) -> Intervention:
    """Put in the activation of another prompt for each row, drawn from those of a run.

    The resampling ablation of Chan et al. 2022 (causal scrubbing). Prompts must be as long as the
    run's, or reach up to `positions`.

    Raises:
        ValueError: as `patch`.
    """
    fixed = patch(place, source, positions)

    def draw(activation: Tensor) -> Tensor:
        values = fixed.change(activation.new_empty(len(source.tokens), *activation.shape[1:]))
        generator = torch.Generator().manual_seed(seed)
        rows = torch.randint(len(values), (len(activation),), generator=generator)
        return values[rows.to(values.device)]

    brings = (1, *(fixed.brings or ())[1:])
    return Intervention(place, draw, positions, brings, fixed.length)


def zero(place: str, positions: Positions = None) -> Intervention:
    """Put in zeros."""
    return Intervention(place, torch.zeros_like, positions)


def mean(place: str, value: Float[Tensor, "..."], positions: Positions = None) -> Intervention:
    """Put in one value, `[...]` without batch and positions: usually a mean over prompts."""
    return Intervention(place, _put(value), positions, (1, 1, *value.shape))


def scale(place: str, factor: float | int, positions: Positions = None) -> Intervention:
    """Multiply by a number."""
    return Intervention(place, lambda activation: activation * factor, positions)


def add(place: str, vector: Float[Tensor, "..."], positions: Positions = None) -> Intervention:
    """Add one vector, `[...]` without batch and positions: a steering vector, say."""
    return Intervention(
        place,
        lambda activation: activation + vector.to(activation),
        positions,
        (1, 1, *vector.shape),
    )


def noise(
    place: str, sigma: float | int, positions: int | Sequence[int], *, seed: int = 0
) -> Intervention:
    """Add Gaussian noise, the same in every run of equally many rows.

    ROME corrupts the subject's tokens at `embed` with three standard deviations of the token
    embeddings (`embedding_sigma`). Meng et al. 2022, arXiv:2202.05262.

    Raises:
        ValueError: if sigma is negative.
    """
    if sigma < 0:
        raise ValueError(f"noise at {place!r} has a standard deviation of at least 0, got {sigma}")

    def disturb(activation: Tensor) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        drawn = torch.randn(activation.shape, generator=generator, dtype=torch.float64)
        return activation + (sigma * drawn).to(activation)

    return Intervention(place, disturb, positions)


def _put(values: Tensor) -> Change:
    def change(activation: Tensor) -> Tensor:
        return values.to(activation).expand_as(activation)

    return change
