"""From a way to score one batch to the scores of a task: checks, progress, sums, provenance."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.progress import track
from circuits.provenance import describe
from circuits.scores import Scores
from patching.metrics import WITHOUT_GRADIENT, Metric
from patching.model import Model
from patching.tasks.task import Batch, Task


@dataclass(frozen=True)
class BatchScores:
    """Scores of one batch, summed over its examples, and the completeness delta of each."""

    matrix: Float[Tensor, "source dest"]
    completeness: Float[Tensor, " batch"]


ScoreBatch = Callable[[Batch], BatchScores]


def score_batches(
    model: Model,
    task: Task,
    metric: Metric,
    score_batch: ScoreBatch,
    *,
    method: str,
    options: Mapping[str, object],
    batch_size: int,
) -> Scores:
    """Mean scores over all examples, added up in float64 in the order of the prompts.

    Raises:
        ValueError: if the metric has no gradient, the model cannot read the task, pairs do not
            differ, the batch size is no number of examples, or scores come out as NaN.
    """
    if metric in WITHOUT_GRADIENT:
        raise ValueError(
            f"{metric.__name__} has no gradient, so {method} cannot use it; "
            "take logit_diff, prob_diff or kl"
        )
    if batch_size < 1:
        raise ValueError(f"a batch holds at least one example, got batch_size={batch_size}")
    model.check(task)
    task.require_contrast()
    total = torch.zeros(model.graph.exists.shape, dtype=torch.float64)
    completeness = []
    n_batches = -(-len(task) // batch_size)
    for batch in track(task.batches(batch_size, model.device), f"scoring ({method})", n_batches):
        scores = score_batch(batch)
        total += scores.matrix
        completeness.append(scores.completeness.double().cpu())
    provenance = describe(model, task, metric, method, options)
    return Scores(total / len(task), model.graph, provenance, torch.cat(completeness))
