"""From a way to score one batch to the scores of a task: checks, progress, sums."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.progress import track
from patching.model import Model
from patching.tasks.task import Batch, Task


@dataclass(frozen=True)
class BatchScores:
    """Scores of some examples, summed or averaged, and the completeness delta of each."""

    matrix: Float[Tensor, "source dest"]
    completeness: Float[Tensor, " example"] | None


ScoreBatch = Callable[[Batch], BatchScores]


def score_batches(
    model: Model,
    task: Task,
    score_batch: ScoreBatch,
    *,
    batch_size: int,
) -> BatchScores:
    """Mean scores over all examples, added up in float64 in the order of the prompts.

    With them comes every example's completeness delta.

    Raises:
        ValueError: if the model cannot read the task, or the batch size is no number of examples.
    """
    model.check(task)
    total = torch.zeros(model.graph.exists.shape, dtype=torch.float64)
    completeness = []
    batches = task.batches(batch_size, model.device)
    for batch in track(batches, "scoring", task.n_batches(batch_size)):
        scores = score_batch(batch)
        total += scores.matrix
        if scores.completeness is not None:
            completeness.append(scores.completeness.double().cpu())
    return BatchScores(total / len(task), torch.cat(completeness) if completeness else None)
