"""Conflicts that ask the same question: kept together when a task is split or resampled.

Several contexts may contradict one memory ("the capital of Chile is Rome", "... is Oslo"). What a
model does in one of those rows it tends to do in the others, so a held-out row must not ask what
was asked before, and an interval draws questions, not rows. Where every row asks something else,
this is the ordinary split and the ordinary bootstrap.
"""

import random
from dataclasses import replace

import numpy as np
from jaxtyping import Float, Int
from torch import Tensor

from patching.intervals import LEVEL, Estimate, check_draws
from patching.neurons.conflicts import ConflictTask


def questions(task: ConflictTask) -> Int[np.ndarray, " example"]:
    """A number for each row, equal where the prompts without context are equal."""
    numbers: dict[tuple[int, ...], int] = {}
    rows = [numbers.setdefault(c.without_context, len(numbers)) for c in task.conflicts]
    return np.array(rows)


def split_by_question(
    task: ConflictTask, share: float = 0.5, seed: int = 0
) -> tuple[ConflictTask, ConflictTask]:
    """Two tasks without a common question, the first with about `share` of the questions.

    Raises:
        ValueError: if one part would be empty.
    """
    numbers = questions(task)
    n_questions = int(numbers.max()) + 1
    n_first = round(share * n_questions)
    if not 0 < n_first < n_questions:
        raise ValueError(
            f"a split of {n_questions} questions at {share} leaves one part empty; give conflicts "
            "about more questions, or a share nearer 0.5"
        )
    order = list(range(n_questions))
    random.Random(seed).shuffle(order)
    first = set(order[:n_first])
    rows = list(zip(task.conflicts, numbers.tolist(), strict=True))
    return (
        replace(task, conflicts=tuple(c for c, number in rows if number in first)),
        replace(task, conflicts=tuple(c for c, number in rows if number not in first)),
    )


def estimate(
    values: Float[Tensor, " example"],
    groups: Int[np.ndarray, " example"] | None = None,
    *,
    n: int = 1000,
    seed: int = 0,
) -> Estimate:
    """The mean over rows with its 95 % interval, from n draws of whole groups of rows.

    Groups are `questions`; without them each row is drawn by itself. NaN rows are left out. The
    ends are NaN without draws (0) or with fewer than two groups. Percentile bootstrap of clusters:
    Field and Welsh 2007, J. R. Stat. Soc. B 69.

    Raises:
        ValueError: if n is negative.
    """
    check_draws(n, 2)
    rows = values.double().cpu().numpy()
    known = ~np.isnan(rows)
    if not known.any():
        return Estimate(np.nan, np.nan, np.nan)
    groups = np.arange(len(rows)) if groups is None else groups
    _, numbers = np.unique(groups[known], return_inverse=True)
    sums, counts = np.bincount(numbers, rows[known]), np.bincount(numbers)
    mean = float(sums.sum() / counts.sum())
    if n == 0 or len(sums) < 2:
        return Estimate(mean, np.nan, np.nan)
    drawn = np.random.default_rng(seed).integers(len(sums), size=(n, len(sums)))
    means = sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1)
    low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Estimate(mean, float(low), float(high))
