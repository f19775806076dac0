"""One scorer for every backward rule, path and ablation."""

import torch

from circuits.scores import Scores
from circuits.scoring.batches import BatchScores, score_batches
from circuits.scoring.contract import edge_scores
from circuits.scoring.gather import Job, Recipe, prepare
from patching.memory import budget, current
from patching.metrics import Metric
from patching.model import Model
from patching.tasks.task import Batch, Task


def score(
    model: Model,
    task: Task,
    metric: Metric,
    recipe: Recipe,
    *,
    batch_size: int = 16,
    method: str | None = None,
) -> Scores:
    """Edge attribution: (clean write - its replacement) times the reader's gradient.

    The gradient is that of the recipe's backward rule, averaged over the runs of its path. The
    completeness delta of each example comes with the scores where the path has two known ends.
    `method` is the name to put into the provenance.

    Raises:
        ValueError: as `prepare`, and if the batch size is no number of examples or scores come
            out as NaN.
    """
    job = prepare(model, task, metric, recipe)
    with budget(current().limit) as ledger:
        found = score_batches(
            model, task, lambda batch: _score_batch(job, batch), batch_size=batch_size
        )
    provenance = {**job.describe(task, method), "memory": ledger.report()}
    return Scores(found.matrix, model.graph, provenance, found.completeness)


def _score_batch(job: Job, batch: Batch) -> BatchScores:
    gathered = job.gather(batch)
    total = torch.zeros(job.model.graph.exists.shape, dtype=torch.float64)
    for rows, gradients in gathered.gradients:
        total[rows] += edge_scores(job.model, gathered.difference, gradients)[rows]
    return BatchScores(total, gathered.completeness)
