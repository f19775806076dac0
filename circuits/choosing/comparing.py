"""Ways to look for a circuit held against each other: found on some prompts, run on the others."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from circuits.circuit import Circuit
from circuits.judging.smallest import Goal, Selector, between
from circuits.running.evaluation import Evaluation
from circuits.running.trial import Trial, require_gap
from circuits.running.trial import run as run_circuits
from circuits.scores import Scores
from circuits.select import Z
from patching.intervals import Statistic, interval, ratio_of_means

Ways = Callable[[], Iterator[tuple[str, Scores]]]
"""Scores by name, one after another: all of them at once may be large."""


@dataclass(frozen=True)
class Fold:
    """Some prompts to run circuits on, and scores of all others."""

    trial: Trial
    ways: Ways


@dataclass(frozen=True)
class Compared:
    """Scores and a selector: how far their circuits are from the model, how much farther than best.

    `distance` is |1 - faithfulness|; the 95 % interval of `farther` is over prompts, paired.
    """

    name: str
    selector: str
    distance: float
    farther: float
    low: float
    high: float

    @property
    def is_near(self) -> bool:
        """Whether it is as near as the nearest, within a standard error of their difference."""
        return self.farther <= (self.high - self.low) / (2 * Z)


def near(folds: Sequence[Fold], select: Selector, goal: Goal) -> int:
    """About the size at which circuits reach the goal on prompts not seen, from one round."""
    _, first = next(folds[0].ways())
    sizes = [*between(0, first.graph.n_edges), first.graph.n_edges]

    def circuits(fold: Fold) -> list[Circuit]:
        _, scores = next(fold.ways())
        return [_choose(goal, select, scores, n) for n in sizes]

    kept = _run(folds, circuits, goal).faithfulness.tolist()
    i = next(i for i, share in enumerate(kept) if share >= goal.faithfulness or i == len(kept) - 1)
    if i == 0 or not kept[i] > kept[i - 1]:
        return sizes[i]
    way = (goal.faithfulness - kept[i - 1]) / (kept[i] - kept[i - 1])
    return round(sizes[i - 1] * (sizes[i] / sizes[i - 1]) ** min(max(way, 0.0), 1.0))


def compare(
    folds: Sequence[Fold], selectors: Mapping[str, Selector], size: int, goal: Goal
) -> tuple[Compared, ...]:
    """All ways by all selectors, the nearest first; of equals, means of more recipes."""

    def circuits(fold: Fold) -> list[Circuit]:
        return [
            _choose(goal, select, scores, size)
            for _, scores in fold.ways()
            for select in selectors.values()
        ]

    found = _run(folds, circuits, goal)
    far = _distances(found.values.numpy(), found.clean.numpy(), found.corrupt.numpy())
    best = int(far.argmin())
    farther: Statistic = partial(_farther, best=best)
    low, high = interval(farther, found.values, found.clean, found.corrupt, n=1000, seed=0)
    names = [(name, by) for name, _ in folds[0].ways() for by in selectors]
    rows = [
        Compared(name, by, float(far[i]), float(far[i] - far[best]), float(low[i]), float(high[i]))
        for i, (name, by) in enumerate(names)
    ]
    return tuple(sorted(rows, key=lambda row: row.distance))


def preferred(compared: Sequence[Compared], selectors: Sequence[str]) -> Compared:
    """Of those as near as the nearest, the nearest by the first selector that has any.

    The one-standard-error rule of Breiman et al. 1984.
    """
    ranks = {name: i for i, name in enumerate(selectors)}
    return min((row for row in compared if row.is_near), key=lambda row: ranks[row.selector])


def _distances(
    values: np.ndarray, clean: np.ndarray, corrupt: np.ndarray, axis: int = -1
) -> np.ndarray:
    return abs(1 - ratio_of_means(values, clean, corrupt, axis))


def _farther(
    values: np.ndarray, clean: np.ndarray, corrupt: np.ndarray, axis: int = -1, *, best: int
) -> np.ndarray:
    far = _distances(values, clean, corrupt, axis)
    return far - far[best]


def _run(
    folds: Sequence[Fold], circuits: Callable[[Fold], Sequence[Circuit]], goal: Goal
) -> Evaluation:
    """Circuits of all folds, each on the prompts that its scores have not seen, put together.

    Raises:
        ValueError: if clean and corrupt do not differ, or corrupt does better.
    """
    found = [run_circuits(fold.trial, circuits(fold)) for fold in folds]
    parts = zip(*((one.values, one.clean, one.corrupt) for one in found), strict=True)
    whole = Evaluation(*(torch.cat(part, dim=-1) for part in parts))
    require_gap(whole, folds[0].trial.metric, wrong_sign=goal.wrong_sign)
    return whole


def _choose(goal: Goal, select: Selector, scores: Scores, n: int) -> Circuit:
    return select(scores, n, ranking=goal.ranking, prune=goal.prune)
