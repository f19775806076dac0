"""One scorer for every backward rule, path and ablation."""

from dataclasses import dataclass

from circuits.scores import Scores
from circuits.scoring.batches import BatchScores, Portion, score_batches, to_scores
from circuits.scoring.contract import Apart, edge_scores
from circuits.scoring.gather import prepare
from patching.gathering import Job, Recipe
from patching.gradients import ReaderGradients
from patching.metrics import Metric
from patching.model import Model
from patching.runs.batches import Doing, Keeping
from patching.span_graph import kept_apart
from patching.tasks.task import Batch, Task
from patching.work import Run


def score(
    model: Model,
    task: Task,
    metric: Metric,
    recipe: Recipe,
    *,
    batch_size: int = 16,
    method: str | None = None,
    run: Run | None = None,
) -> Scores:
    """Edge attribution: (clean write - its replacement) times the reader's gradient.

    The gradient is that of the recipe's backward rule, averaged over the runs of its path. The
    completeness delta of each example comes with the scores where the path has two known ends.
    `method` is the name to put into the provenance. A task `by_span` gives scores by span: those of
    a `SpanGraph`, which sum to these. Batches are the chunks of a `run`, which keeps
    them and says who does them.

    Raises:
        Interrupted: with the scores of the batches so far, if somebody interrupts.
        ValueError: as `prepare`, and if the batch size is no number of examples, scores come out
            as NaN, or a run cannot tell the settings from others.
    """
    job = prepare(model, task, metric, recipe)
    described = job.describe(task, method)
    keeping = Keeping("scoring", described, job.functions, Doing(batch_size, run), "scores")
    return score_batches(model, task, [Portion(_ScoreBatch(job))], keeping, to_scores)


@dataclass(frozen=True)
class _ScoreBatch:
    """Scores of one batch by a job."""

    job: Job[ReaderGradients]

    def __call__(self, batch: Batch) -> BatchScores:
        gathered, model = self.job.gather(batch), self.job.model
        apart = Apart.of(batch, self.job.prepared.tokens(batch))
        total = kept_apart(model.graph, batch.apart).exists.double() * 0
        for rows, gradients in gathered.gradients:
            total[rows] += edge_scores(model, gathered.difference, gradients, apart)[rows]
        return BatchScores(total, self.job.completeness(gathered))
