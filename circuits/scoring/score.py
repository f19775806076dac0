"""One scorer for every backward rule, path and ablation."""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from circuits.provenance import describe
from circuits.scores import Scores
from circuits.scoring.batches import BatchScores, score_batches
from circuits.scoring.contract import edge_scores
from circuits.scoring.paths import Ends, Path, Step, at_clean
from patching.ablations import Ablation, Prepared, Replacement, resample
from patching.blocks import EMBEDDING
from patching.capture import Recorder, Run, Writes, capture
from patching.gradients import GradientSum, Start
from patching.metrics import FLAT_AT_THE_CLEAN_RUN, Metric, measure
from patching.model import Model
from patching.rules import Rule, plain
from patching.tasks.task import Batch, Task


@dataclass(frozen=True)
class Recipe:
    """What gradient (`rule`), where it is taken (`path`), and what removed writers become."""

    path: Path = at_clean
    rule: Rule = plain
    ablation: Ablation = resample

    @property
    def name(self) -> str:
        """The rule and the path, for people and provenance."""
        return f"{self.rule.name} x {self.path.name}"


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
        ValueError: if the metric is flat at the clean run (kl) and the path goes there, if the
            path needs a corrupt run and the ablation has none, and as `score_batches`.
    """
    prepared = recipe.ablation(model)
    _check(metric, recipe.path, prepared)

    if prepared.paired:
        task.require_contrast()

    def score_batch(batch: Batch) -> BatchScores:
        return _Job(model, metric, recipe, prepared).score(batch)

    found = score_batches(model, task, metric, score_batch, batch_size=batch_size)
    options = {**recipe.path.options, "rule": recipe.rule.name, "path": recipe.path.name}
    provenance = describe(model, task, metric, method or recipe.name, options)
    provenance["ablation"] = prepared.name
    provenance["unruled"] = [str(part) for part in recipe.rule.start(model).unruled]
    return Scores(found.matrix, model.graph, provenance, found.completeness)


@dataclass(frozen=True)
class _Job:
    """What is the same for all batches."""

    model: Model
    metric: Metric
    recipe: Recipe
    prepared: Prepared

    def score(self, batch: Batch) -> BatchScores:
        """Gradients at the plain runs, then between them, then one product with the writes."""
        path, tokens = self.recipe.path, self.prepared.tokens(batch)
        sums = _Sums(self, batch, tokens)
        clean = sums.run(batch.clean, path.clean)
        sums.batch = replace(batch, clean_logits=clean.logits)
        paired = self.prepared.paired
        corrupt = sums.run(batch.corrupt, path.corrupt) if paired else None
        replaced = self.prepared.replace(batch, clean, corrupt)
        ends = Ends(self.model, batch, tokens, clean, replaced)
        for step in path.between(ends) if path.between else ():
            sums.step(step)
        difference = ends.difference
        completeness = self._delta(sums, ends, corrupt)
        del clean, corrupt, replaced, ends  # memory: only the difference is needed from here
        return BatchScores(sums.scores(difference), completeness)

    def _delta(
        self, sums: "_Sums", ends: Ends, corrupt: Run | None
    ) -> Float[Tensor, " example"] | None:
        """What the embedding's scores add up to beyond the gap between the ends, per example.

        The stream is a sum, so the scores of all edges out of the embedding are the difference of
        embeddings times the gradient at the embedding.
        """
        if corrupt is None and not self.recipe.path.completes:
            return None
        batch = sums.batch
        end = self._run_from(ends.replaced, batch) if corrupt is None else corrupt.logits
        moved = ends.clean.embedding - ends.replaced.embedding
        scored = (moved * sums.at_embedding).flatten(1).sum(dim=1)
        gap = measure(self.metric, ends.clean.logits, batch) - measure(self.metric, end, batch)
        return scored.to(gap.dtype) - gap

    @torch.no_grad()
    def _run_from(self, replaced: Replacement, batch: Batch) -> Float[Tensor, "batch vocab"]:
        hook = (EMBEDDING, lambda _: replaced.embedding)
        return self.model.answer_logits(batch.clean, batch, [hook])


class _Sums:
    """Gradient sums of one batch: one for all writers, or one for each group of them."""

    def __init__(self, job: _Job, batch: Batch, tokens: Bool[Tensor, "batch pos"]) -> None:
        self.batch = batch
        self.at_embedding: Tensor = torch.zeros((), device=job.model.device)
        self._job, self._tokens = job, tokens
        self._sums: dict[tuple[int, int], GradientSum] = {}

    def run(self, prompts: Int[Tensor, "batch pos"], weight: float) -> Run:
        """A plain run, with gradients if they have weight."""
        job = self._job
        if weight == 0.0:
            return capture(job.model, prompts, self.batch, at=self._tokens)
        recorder = Recorder(job.model, self._tokens)
        point = self._of(None).add(
            self.batch, job.metric, Start(weight, prompts, hooks=tuple(recorder.hooks))
        )
        self.at_embedding = self.at_embedding + weight * point.embedding_gradient
        return recorder.finish(point.logits)

    def step(self, step: Step) -> None:
        """A run between the ends, always of the clean prompts."""
        start = Start(step.weight, self.batch.clean, step.embedding, step.hooks)
        point = self._of(step.sources).add(self.batch, self._job.metric, start)
        if step.sources is None or step.sources.start == 0:
            self.at_embedding = self.at_embedding + step.weight * point.embedding_gradient

    def scores(self, difference: Writes) -> Float[Tensor, "source dest"]:
        """Scores of all edges; a group's gradients score its own writers' edges only."""
        model = self._job.model
        total = torch.zeros(model.graph.exists.shape, dtype=torch.float64)
        for (first, last), gradients in self._sums.items():
            scores = edge_scores(model, difference, gradients.finish())
            total[first:last] += scores[first:last]
        return total

    def _of(self, sources: slice | None) -> GradientSum:
        n = len(self._job.model.graph.sources)
        key = (0, n) if sources is None else (sources.start, sources.stop)
        if key not in self._sums:
            job = self._job
            self._sums[key] = GradientSum(job.model, self._tokens, job.recipe.rule)
        return self._sums[key]


def _check(metric: Metric, path: Path, prepared: Prepared) -> None:
    if path.clean and metric in FLAT_AT_THE_CLEAN_RUN:
        raise ValueError(
            f"{metric.__name__} has no slope at the clean run, where the path {path.name!r} takes "
            "gradients; integrate over inputs (eap_ig), or take another metric"
        )
    if path.corrupt and not prepared.paired:
        raise ValueError(
            f"the path {path.name!r} runs the corrupt prompts, which the ablation "
            f"{prepared.name!r} does not use; take the resample ablation, or another path"
        )
