"""Scores by prompt: each prompt is scored once, by itself.

What costs most is done then: resamples of the prompts, their lower bounds and their groups are sums
of what is kept.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.scores import Scores
from circuits.scoring.batches import with_caution
from patching.progress import within
from patching.span_graph import on_graph
from patching.tasks.task import Task
from patching.work import Parts, Run, do
from patching.work.fingerprint import fingerprint

EXAMPLES_A_CHUNK = 8  # scored before what they came to is kept

_MADE_BY = ("weights", "metric", "method", "options", "ablation", "dtype", "versions")


def by_prompt(task: Task, score: Callable[[Task], Scores], *, run: Run | None = None) -> Scores:
    """Scores of a task that keep what each of its prompts alone scores.

    Resamples of the prompts then cost nothing: intervals that contain the search, stability, edges
    by mean size, lower bound or inclusion (`resampled`, `by_mean_size`, `by_lower_bound`). Memory
    is a number for each prompt and edge. Costs and requirements as `uncertainty`.

    Raises:
        ValueError: if there are fewer than two prompts.
    """
    if len(task) < 2:
        raise ValueError(f"prompts are told apart where there are two or more, got {len(task)}")
    first = of_one(task, score, 0)
    found = list(one_by_one(task, score, first, run))
    rows = torch.stack([edges for edges, _ in found])
    deltas = [delta for _, delta in found if delta is not None]
    provenance = {
        **first.provenance,
        "task": task.name,
        "tokens": task.hash,
        "n_examples": len(task),
        "prompts": "scored one by one",
    }
    matrix = on_graph(rows.mean(dim=0), first.graph)
    whole = torch.cat(deltas) if deltas else None
    return with_caution(Scores(matrix, first.graph, provenance, whole, rows))


def one_by_one(
    task: Task, score: Callable[[Task], Scores], first: Scores, run: Run | None
) -> Iterator[tuple[Float[Tensor, " edge"], Float[Tensor, "1"] | None]]:
    """Scores and deltas of every prompt; a run is known by its first one's, as `score` is not."""
    settings = {
        "made_by": {name: first.provenance.get(name) for name in _MADE_BY},
        "first": fingerprint((first.matrix, task.padding)),
        "tokens": task.hash,
    }
    work, n = _Work(task, score, first), -(-len(task) // EXAMPLES_A_CHUNK)
    for done in do(run, work, n, what="examples", settings=settings, lengths=work.lengths):
        edges = done.parts["edges"]
        deltas = done.parts.get("completeness", [None] * len(edges))
        yield from zip(edges, deltas, strict=True)


@dataclass(frozen=True)
class _Work:
    """A chunk: some prompts scored one by one."""

    task: Task
    score: Callable[[Task], Scores]
    first: Scores

    def __call__(self, number: int) -> Parts:
        rows = self._rows(number)
        found = [of_one(self.task, self.score, row) if row else self.first for row in within(rows)]
        parts = {"edges": torch.stack([one.matrix[one.graph.exists] for one in found])}
        deltas = [one.completeness for one in found if one.completeness is not None]
        return parts | ({"completeness": torch.stack(deltas)} if deltas else {})

    def lengths(self, number: int, part: str) -> Mapping[int, int]:
        """Of each part of a chunk, a row for each prompt."""
        return {0: len(self._rows(number))}

    def _rows(self, number: int) -> range:
        start = number * EXAMPLES_A_CHUNK
        return range(len(self.task))[start : start + EXAMPLES_A_CHUNK]


def of_one(task: Task, score: Callable[[Task], Scores], row: int) -> Scores:
    """What one prompt of a task scores."""
    return score(replace(task, prompts=task.prompts[row : row + 1]))
