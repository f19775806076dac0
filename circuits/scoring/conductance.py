"""Conductance: what flows through an edge as the input goes from the corrupt to the clean prompt.

EAP-IG multiplies the mean gradient along the way by the whole difference of the ends. Here each
stretch of the way contributes its own change of the write times the gradient on that stretch, so
that a write that comes and goes counts where it moves:

    score[s, j] = sum over steps of (a_s(k + 1) - a_s(k)) . (g_j(k) + g_j(k + 1)) / 2

a line integral, which obeys Kirchhoff's laws as steps grow: what flows out of the embedding, what
flows into the logits and the clean-corrupt gap are one number, and what flows into a node (q, k
and v of the heads that share them together) is what flows out of it.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.scores import Scores
from circuits.scoring.batches import BatchScores, Portion, score_batches, to_scores
from circuits.scoring.contract import Apart, edge_scores
from circuits.scoring.gather import prepare
from patching.capture import Recorder, Run, capture
from patching.gathering import Job, Recipe
from patching.gradients import GradientSum, ReaderGradients
from patching.live import Point, Start
from patching.metrics import Metric
from patching.model import Model
from patching.paths import Path
from patching.progress import within
from patching.runs.batches import Doing, Keeping
from patching.span_graph import kept_apart
from patching.tasks.task import Batch, Task
from patching.work import Run as WorkRun


def conductance(
    model: Model,
    task: Task,
    metric: Metric,
    *,
    steps: int = 5,
    batch_size: int = 16,
    run: WorkRun | None = None,
) -> Scores:
    """EAP-IG with each writer's change along the path in place of its difference at the ends.

    Equal to `eap_ig` by the trapezoid rule with one more point for every writer whose write is
    linear in the embedding: the embedding itself, and all of them in a linear model. Only the
    input is ablated, and what it becomes is the corrupt prompt. Costs two forwards, then
    `steps + 1` forwards and backwards. Conductance: Dhamdhere et al. 2018, arXiv:1805.12233; for
    edges CEAP, Wu et al. 2026, arXiv:2606.16920: the same in what its abstract and summaries tell
    (the change of the write along the path for its fixed difference, at EAP-IG's cost); the paper's
    own rule for the integral was not to be had, and ours is the trapezoid.

    Raises:
        ValueError: if there are fewer than 1 steps, and as `score`.
    """
    if steps < 1:
        raise ValueError(f"conductance needs at least 1 step, got {steps}")
    options = {"steps": steps, "quadrature": "trapezoid"}
    path = Path("inputs", "2F + (steps + 1) (F + B)", completes=True, options=options)
    job = prepare(model, task, metric, Recipe(path))
    described = job.describe(task, "conductance")
    doing = Doing(batch_size, run)
    keeping = Keeping("scoring", described, job.functions, doing, "scores")
    return score_batches(model, task, [Portion(_ScoreBatch(job, steps))], keeping, to_scores)


@dataclass(frozen=True)
class _Stop:
    """One point of the path: what is written there, and the gradients."""

    run: Run
    point: Point
    gradients: ReaderGradients


@dataclass(frozen=True)
class _ScoreBatch:
    """Scores of one batch."""

    job: Job[ReaderGradients]
    steps: int

    def __call__(self, batch: Batch) -> BatchScores:
        apart = Apart.of(batch, self.job.prepared.tokens(batch))
        total = kept_apart(self.job.model.graph, batch.apart).exists.double() * 0
        scored: Float[Tensor, " batch"] | None = None
        gap: Float[Tensor, " batch"] | None = None
        for before, after in pairwise(self._stops(batch)):
            for stop in (before, after):
                moved = (after.run.writes - before.run.writes).map(lambda part: part / 2)
                total += edge_scores(self.job.model, moved, stop.gradients, apart)
            slope = before.point.embedding_gradient + after.point.embedding_gradient
            moved_in = (after.run.embedding - before.run.embedding) / 2
            part = batch.by_example((moved_in * slope).flatten(1).sum(dim=1))
            part = part.to(after.point.values.dtype)
            change = after.point.values - before.point.values
            scored = part if scored is None else scored + part
            gap = change if gap is None else gap + change
        assert scored is not None and gap is not None, "there is a step"
        return BatchScores(total, scored - gap)

    def _stops(self, batch: Batch) -> Iterator[_Stop]:
        """All points, from the corrupt embedding to the clean one."""
        model, tokens = self.job.model, self.job.prepared.tokens(batch)
        clean = capture(model, batch.clean, batch, at=tokens)
        corrupt = capture(model, batch.corrupt, batch, at=tokens)
        batch = replace(batch, clean_logits=clean.logits)
        for k in within(range(self.steps + 1)):
            here = torch.lerp(corrupt.embedding, clean.embedding, k / self.steps)
            recorder, total = Recorder(model, tokens), GradientSum(model, tokens)
            start = Start(1.0, batch.clean, here, hooks=tuple(recorder.hooks))
            point = total.add(batch, self.job.metric, start)
            yield _Stop(recorder.finish(point.logits), point, total.finish())
