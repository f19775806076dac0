"""Areas under faithfulness curves: one number per curve, as the MIB benchmark defines them.

On MIB's linear axis circuits of 20 % of the edges and more make up 85 % of the area, those up to
1 % only 1.4 %. The logarithmic axis gives every tenfold of the size the same weight; look at both.
Mueller et al. 2025, arXiv:2504.13151; code: hannamw/MIB-circuit-track.
"""

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float
from torch import Tensor

from circuits.judging.faithfulness import MIB_SHARES
from circuits.judging.points import Curve
from patching.intervals import Estimate, interval, ratio_of_means

Axis = Callable[[np.ndarray], np.ndarray]
"""Where a share of all edges lies on the axis that is integrated over."""


def linear(shares: np.ndarray) -> np.ndarray:
    """The share itself: MIB's axis."""
    return shares


def logarithmic(shares: np.ndarray) -> np.ndarray:
    """Its logarithm, over the axis' length: an area is a mean over tenfolds.

    MIB's own log-scale area is this one times log(1000), for its ten shares.
    """
    logs = np.log(shares)
    return logs / (logs[-1] - logs[0])


def cpr(curve: Curve, axis: Axis = linear) -> Estimate:
    """Circuit performance ratio: the area under the faithfulness of MIB's ten signed circuits.

    Trapezoids over the nominal shares, whatever pruning left, with none below 0.1 %: a model-like
    circuit at every size gets 0.999, one that keeps nothing below 100 % gets 0.25. Higher is
    better, without bound. On a graph with shared key-value heads MIB counts each of its edges once
    per query head; here shares are of the graph's own edges.

    Raises:
        ValueError: if the curve is not of pruned circuits of MIB's ten sizes by signed score.
    """
    _check(curve, "CPR", "signed")
    return _area(curve, axis, lambda kept: kept)


def cmd(curve: Curve, axis: Axis = linear) -> Estimate:
    """Circuit-model distance: the area of |1 - faithfulness| of MIB's ten absolute circuits.

    As `cpr`, with 0 for a model-like circuit at every size and 0.749 for one that keeps nothing
    below 100 %. Lower is better.

    Raises:
        ValueError: if the curve is not of pruned circuits of MIB's ten sizes by absolute score.
    """
    _check(curve, "CMD", "absolute")
    return _area(curve, axis, lambda kept: abs(1 - kept))


def area(shares: Sequence[float], heights: Float[Tensor, " circuit"], axis: Axis = linear) -> float:
    """Trapezoids under any points of a curve, from its first share to its last.

    >>> import torch
    >>> round(area(MIB_SHARES, torch.ones(10)), 9)
    0.999

    Raises:
        ValueError: if there are fewer than two points, or the shares do not grow from above 0.
    """
    return float(_weights(shares, axis) @ heights.double().numpy())


def _area(curve: Curve, axis: Axis, height: Callable[[np.ndarray], np.ndarray]) -> Estimate:
    weights = _weights(curve.shares, axis)

    def under(
        values: np.ndarray, clean: np.ndarray, corrupt: np.ndarray, axis: int = -1
    ) -> np.ndarray:
        return np.tensordot(weights, height(ratio_of_means(values, clean, corrupt, axis)), axes=1)

    runs = curve.values, curve.clean, curve.corrupt
    low, high = interval(under, *runs, n=curve.n_bootstrap, seed=curve.seed)
    value = under(curve.values.numpy(), curve.clean.numpy(), curve.corrupt.numpy())
    return Estimate(float(value), float(low), float(high))


def _weights(shares: Sequence[float], axis: Axis) -> np.ndarray:
    """How much every point counts: half of the steps on its two sides.

    Raises:
        ValueError: if there are fewer than two points, or the shares do not grow from above 0.
    """
    if len(shares) < 2 or shares[0] <= 0 or any(np.diff(shares) <= 0):
        raise ValueError(
            f"an area needs two or more shares that grow from above 0, got {list(shares)}"
        )
    steps = np.diff(axis(np.asarray(shares, dtype=np.float64)))
    return (np.append(steps, 0) + np.append(0, steps)) / 2


def _check(curve: Curve, name: str, ranking: str) -> None:
    made = f"{'' if curve.pruned else 'un'}pruned circuits by {curve.ranking} score"
    if curve.ranking != ranking or not curve.pruned:
        raise ValueError(
            f"{name} is defined for pruned circuits by {ranking} score; this curve is of {made}"
        )
    if curve.shares != MIB_SHARES:
        raise ValueError(
            f"{name} is defined for the ten shares {MIB_SHARES} of all edges; "
            f"this curve has {curve.shares}; `area` takes any"
        )
