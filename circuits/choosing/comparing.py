"""Ways to score held against each other: circuits of one half of the prompts, run on the other."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from circuits.circuit import Circuit
from circuits.judging.smallest import Goal, between
from circuits.running.evaluation import Evaluation
from circuits.running.trial import Trial, require_gap
from circuits.running.trial import run as run_circuits
from circuits.scores import Scores
from patching.intervals import Statistic, interval, ratio_of_means

AROUND = (0.5, 1.0, 2.0)
"""Sizes that circuits are compared at, in shares of the one asked for."""


@dataclass(frozen=True)
class Compared:
    """A way to score: how far its circuits are from the model, how much farther than the best's.

    `distance` is |1 - faithfulness|, the mean over circuits of half, once and twice the size; the
    95 % interval of `farther` is over prompts, paired.
    """

    name: str
    distance: float
    farther: float
    low: float
    high: float


def near(trials: Sequence[Trial], scores: Sequence[Scores], goal: Goal) -> int:
    """About the size at which circuits of one half reach the goal on the other, from one round."""
    n_edges = scores[0].graph.n_edges
    sizes = [*between(0, n_edges), n_edges]
    found = _run(trials, [[_choose(goal, one, n) for n in sizes] for one in scores])
    require_gap(found, trials[0].metric, wrong_sign=goal.wrong_sign)
    kept = found.faithfulness.tolist()
    i = next(i for i, share in enumerate(kept) if share >= goal.faithfulness or i == len(kept) - 1)
    if i == 0 or not kept[i] > kept[i - 1]:
        return sizes[i]
    way = (goal.faithfulness - kept[i - 1]) / (kept[i] - kept[i - 1])
    return round(sizes[i - 1] * (sizes[i] / sizes[i - 1]) ** min(max(way, 0.0), 1.0))


def compare(
    trials: Sequence[Trial], ways: Sequence[Mapping[str, Scores]], size: int, goal: Goal
) -> tuple[Compared, ...]:
    """All ways, the nearest first; of equals, means of more recipes."""
    n_edges = trials[0].model.graph.n_edges
    sizes = [min(max(1, round(size * share)), n_edges) for share in AROUND]
    found = _run(trials, [[_choose(goal, s, n) for s in w.values() for n in sizes] for w in ways])
    require_gap(found, trials[0].metric, wrong_sign=goal.wrong_sign)
    distances = partial(_distances, n_sizes=len(sizes))
    far = distances(found.values.numpy(), found.clean.numpy(), found.corrupt.numpy())
    best = int(far.argmin())
    farther = partial(_farther, distances=distances, best=best)
    low, high = interval(farther, found.values, found.clean, found.corrupt, n=1000, seed=0)
    rows = [
        Compared(name, float(far[i]), float(far[i] - far[best]), float(low[i]), float(high[i]))
        for i, name in enumerate(ways[0])
    ]
    return tuple(sorted(rows, key=lambda row: row.distance))


def _distances(
    values: np.ndarray, clean: np.ndarray, corrupt: np.ndarray, axis: int = -1, *, n_sizes: int
) -> np.ndarray:
    """|1 - faithfulness|, the mean over the sizes of each way."""
    off = abs(1 - ratio_of_means(values, clean, corrupt, axis))
    return off.reshape(-1, n_sizes, *off.shape[1:]).mean(axis=1)


def _farther(
    values: np.ndarray,
    clean: np.ndarray,
    corrupt: np.ndarray,
    axis: int = -1,
    *,
    distances: Statistic,
    best: int,
) -> np.ndarray:
    far = distances(values, clean, corrupt, axis)
    return far - far[best]


def _run(trials: Sequence[Trial], circuits: Sequence[Sequence[Circuit]]) -> Evaluation:
    """Each half's circuits on the other half's prompts, all prompts together."""
    found = [run_circuits(trial, some) for trial, some in zip(trials, circuits, strict=True)]
    parts = zip(*((one.values, one.clean, one.corrupt) for one in found), strict=True)
    return Evaluation(*(torch.cat(part, dim=-1) for part in parts))


def _choose(goal: Goal, scores: Scores, n: int) -> Circuit:
    return goal.select(scores, n, ranking=goal.ranking, prune=goal.prune)
