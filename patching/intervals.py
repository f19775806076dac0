"""Confidence intervals over examples, by bootstrap. Knows no model.

Examples are drawn with replacement, each with its clean, corrupt and circuit values together: what
makes one prompt easy makes it easy in all runs, and independent draws would ignore that.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float
from scipy import stats
from torch import Tensor

LEVEL = 0.95

_MOST_NUMBERS = 2**24  # drawn at once: 128 MiB of float64


@dataclass(frozen=True)
class Estimate:
    """A number with its 95 % interval; `low` and `high` are NaN where none was asked for."""

    value: float
    low: float
    high: float


@runtime_checkable
class Statistic(Protocol):
    """What is estimated from values `[circuit, ..., example]`, clean and corrupt `[..., example]`.

    Examples are on the last axis; every other axis is left alone or, like circuits, summed up.
    """

    def __call__(
        self, values: np.ndarray, clean: np.ndarray, corrupt: np.ndarray, axis: int = -1
    ) -> np.ndarray:
        """The estimate, over the examples on `axis`."""
        ...


def ratio_of_means(
    values: np.ndarray, clean: np.ndarray, corrupt: np.ndarray, axis: int = -1
) -> np.ndarray:
    """Faithfulness: (circuit - corrupt) / (clean - corrupt), of means over examples.

    NaN or infinite where clean and corrupt do not differ.
    """
    base = corrupt.mean(axis)
    with np.errstate(divide="ignore", invalid="ignore"):
        return (values.mean(axis) - base) / (clean.mean(axis) - base)


def of_mean(
    values: Float[Tensor, "example ..."], *, n: int = 1000, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Lower and upper ends of the 95 % interval of the mean over examples, from n draws.

    Without draws (0), or with one example, every interval is NaN. Otherwise as `interval`.
    """
    numbers = values.double().cpu().numpy()
    if n == 0 or len(numbers) < 2:
        nothing = np.full(numbers.shape[1:], np.nan)
        return nothing, nothing
    return drawn(
        (numbers,), np.mean, n, seed, at_once=_MOST_NUMBERS // max(1, numbers.size), axis=0
    )


def interval(
    statistic: Statistic,
    values: Float[Tensor, "circuit example"],
    clean: Float[Tensor, " example"],
    corrupt: Float[Tensor, " example"],
    *,
    n: int,
    seed: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Lower and upper ends of the 95 % percentile interval of a statistic, from n draws.

    Without draws (0) every interval is NaN.

    The percentile interval, because it stays defined where a statistic has no spread (the full
    circuit keeps exactly 1 in every draw). It needs some 15 examples to hold what it promises. An
    end is NaN if a draw leaves the statistic undefined. Efron 1979, Annals of Statistics 7.

    Raises:
        ValueError: if there are fewer than two examples, or n is negative.
    """
    check_draws(n, len(clean))
    runs = values.numpy(), clean.numpy(), corrupt.numpy()
    if n == 0:
        nothing = np.full_like(statistic(*runs), np.nan)
        return nothing, nothing
    return drawn(runs, statistic, n, seed, at_once=_MOST_NUMBERS // values.numel())


def drawn(
    data: Sequence[np.ndarray],
    statistic: Callable[..., np.ndarray],
    n: int,
    seed: int,
    *,
    at_once: int,
    axis: int = -1,
) -> tuple[np.ndarray, np.ndarray]:
    """Ends of the 95 % percentile interval, from n draws of all data together along an axis."""
    ends = stats.bootstrap(
        data,
        statistic,
        n_resamples=n,
        batch=max(1, at_once),
        vectorized=True,
        paired=True,
        axis=axis,
        confidence_level=LEVEL,
        method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return np.asarray(ends.low), np.asarray(ends.high)


def counts(n_examples: int, n: int, seed: int) -> Float[np.ndarray, "draw example"]:
    """How often each example is in each of n bootstrap draws of as many examples."""
    rng = np.random.default_rng(seed)
    even = np.full(n_examples, 1 / n_examples)
    return rng.multinomial(n_examples, even, size=n).astype(np.float64)


def check_draws(n: int, n_examples: int) -> None:
    """Check that n bootstrap draws from so many examples are possible.

    Raises:
        ValueError: if there are fewer than two examples, or n is negative.
    """
    if n < 0:
        raise ValueError(f"cannot make {n} bootstrap draws; 0 leaves the intervals out")
    if n and n_examples < 2:
        raise ValueError(
            f"an interval over examples needs at least two, got {n_examples}; "
            "with no bootstrap draws (0) the intervals are left out"
        )
