"""Edge scores with positions kept: which token an edge matters at.

`[source, dest, pos]`, where a position is a token's number in its own prompt, counted from the
first real token. Summed over positions they are the scores that `score` gives.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.scores import Scores
from circuits.scoring.batches import BatchScores, Portion, TaskScores, score_batches
from circuits.scoring.contract import Apart, edge_scores
from circuits.scoring.gather import prepare
from patching.attribution import over_spans
from patching.files.brief import briefly
from patching.gathering import Job, Recipe
from patching.gradients import ReaderGradients
from patching.graph import Graph
from patching.metrics import Metric
from patching.model import Model
from patching.runs.batches import Doing, Keeping
from patching.tasks.task import Batch, Task
from patching.work import Run


@briefly
@dataclass(frozen=True, eq=False)
class PositionScores:
    """One score per edge and position, 0 where the graph has no edge."""

    tensor: Float[Tensor, "source dest pos"]
    graph: Graph
    provenance: Mapping[str, object]

    def of(self, source: str, dest: str) -> Float[Tensor, " pos"]:
        """The scores of the edge `source->dest`, one a position.

        Raises:
            ValueError: if the graph has no such edge.
        """
        return self.tensor[self.graph.edge_index(source, dest)]

    def total(self) -> Scores:
        """The scores summed over positions."""
        provenance = {**self.provenance, "positions": "summed over all tokens up to the answer"}
        return Scores(self.tensor.sum(dim=2), self.graph, provenance)

    def over_spans(self, spans: Mapping[str, range]) -> dict[str, Scores]:
        """The scores summed over each of some named spans of positions.

        For prompts of one template, whose positions mean the same.

        Raises:
            ValueError: if there are no spans, or one is empty or reaches beyond the positions.
        """
        parts = over_spans(self.tensor, spans).unbind(dim=2)
        return {
            name: Scores(
                part.contiguous(),
                self.graph,
                {**self.provenance, "positions": f"{name}: {list(spans[name])}"},
            )
            for name, part in zip(spans, parts, strict=True)
        }


def position_scores(
    model: Model,
    task: Task,
    metric: Metric,
    *,
    recipe: Recipe = Recipe(),  # noqa: B008 - a frozen value
    batch_size: int = 16,
    run: Run | None = None,
) -> PositionScores:
    """Edge attribution as by `score`, with positions kept; mean over prompts.

    A prompt without a position adds nothing there, so that sums over positions are `score`'s.
    Takes `sources * dests * positions` float64 values of memory on the CPU.

    Raises:
        Interrupted: as `score`, with a part of the prompts.
        ValueError: as `score`.
    """
    job = prepare(model, task, metric, recipe)
    positions = "kept, from the first real token"
    described = {**job.describe(task, None), "positions": positions, "n_positions": task.max_length}
    doing = Doing(batch_size, run)
    keeping = Keeping("scoring-positions", described, job.functions, doing, "scores")

    def finish(found: TaskScores) -> PositionScores:
        return PositionScores(found.mean, found.graph, found.provenance)

    portions = [Portion(_ScoreBatch(job, task.max_length))]
    return score_batches(model, task, portions, keeping, finish)


@dataclass(frozen=True)
class _ScoreBatch:
    """Scores of one batch by a job, position by position."""

    job: Job[ReaderGradients]
    n_positions: int

    def __call__(self, batch: Batch) -> BatchScores:
        model, job = self.job.model, self.job
        total = torch.zeros(*model.graph.exists.shape, self.n_positions, dtype=torch.float64)
        apart = Apart(batch.places[job.prepared.tokens(batch)], self.n_positions)
        gathered = job.gather(batch)
        for rows, gradients in gathered.gradients:
            found = edge_scores(model, gathered.difference, gradients, apart)
            total[rows] += found.view_as(total)[rows]
        return BatchScores(total, None)
