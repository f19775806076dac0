"""Scores of every prompt by itself, from passes over batches: one row a prompt.

The passes are those of `score`; only the last product, of writes and gradients, is made prompt by
prompt. What is kept makes resamples of the prompts free (`circuits.judging.resampling`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from circuits.scores import Scores
from circuits.scoring.batches import with_caution
from circuits.scoring.contract import edge_scores
from circuits.scoring.gather import prepare
from patching.gathering import Job, Recipe
from patching.gradients import ReaderGradients
from patching.graph import Graph
from patching.metrics import Metric
from patching.model import Model
from patching.runs.batches import Doing, Found, Keeping, added_up, in_batches, rows_joined
from patching.tasks.task import Batch, Task
from patching.work import Parts, Run


def score_each(
    model: Model,
    task: Task,
    metric: Metric,
    recipe: Recipe,
    *,
    batch_size: int = 16,
    method: str | None = None,
    run: Run | None = None,
) -> Scores:
    """As `score`, with what each prompt alone scores in `by_prompt`; memory is that many numbers.

    Raises:
        Interrupted: with the scores of the batches so far, if somebody interrupts.
        ValueError: as `score`.
    """
    task.require_whole("score_each")
    job = prepare(model, task, metric, recipe)
    described = {**job.describe(task, method), "prompts": "kept apart"}
    keeping = Keeping("scoring", described, job.functions, Doing(batch_size, run), "scores")
    measures = [partial(_rows_of, job)] * task.n_batches(batch_size)
    batches = in_batches(model, task, measures, keeping, join=rows_joined)
    finish = partial(_finish, model.graph, keeping)
    return added_up(batches, task, keeping.doing, _with_one, finish)


@dataclass(frozen=True)
class _Rows:
    """Of the first batches: scores of every prompt, and deltas."""

    edges: tuple[Float[Tensor, "_ edge"], ...]
    completeness: tuple[Float[Tensor, " _"], ...]


def _rows_of(job: Job[ReaderGradients], batch: Batch) -> Parts:
    """Scores of each prompt of a batch: of its tokens alone."""
    gathered, exists = job.gather(batch), job.model.graph.exists
    found = torch.zeros(len(batch), int(exists.sum()), dtype=torch.float64)
    for example, span in _spans(batch, gathered.ends.tokens):
        total = torch.zeros(exists.shape, dtype=torch.float64)
        for rows, gradients in gathered.gradients:
            part = edge_scores(job.model, gathered.difference, gradients, span=span)
            total[rows] += part[rows]
        found[example] += total[exists]
    deltas = job.completeness(gathered)
    more = {} if deltas is None else {"completeness": deltas.double().cpu()}
    return {"edges": found, **more}


def _spans(batch: Batch, tokens: Bool[Tensor, "row pos"]) -> list[tuple[int, slice]]:
    """Of each row: whose prompt's it is, and where its chosen tokens are among all."""
    ends = [0, *tokens.sum(dim=1).cumsum(dim=0).tolist()]
    of = range(len(tokens)) if batch.several is None else batch.several.example.tolist()
    return [(example, slice(ends[i], ends[i + 1])) for i, example in enumerate(of)]


def _with_one(before: _Rows | None, batch: Sequence[Parts]) -> _Rows:
    (parts,) = batch
    one = _Rows((parts["edges"],), (parts["completeness"],) if "completeness" in parts else ())
    if before is None:
        return one
    return _Rows(before.edges + one.edges, before.completeness + one.completeness)


def _finish(graph: Graph, keeping: Keeping, found: Found[_Rows]) -> Scores:
    rows = torch.cat(found.total.edges)
    matrix = torch.zeros(graph.exists.shape, dtype=torch.float64)
    matrix[graph.exists] = rows.mean(dim=0)
    deltas = torch.cat(found.total.completeness) if found.total.completeness else None
    return with_caution(Scores(matrix, graph, found.provenance(keeping.described), deltas, rows))
