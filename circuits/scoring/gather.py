"""Gathering: all runs of one batch that a recipe asks for, before writes and gradients are joined.

A recipe is three choices: a backward rule (what gradient), a path (where it is taken) and an
ablation (what removed writers become).
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from circuits.provenance import describe
from patching.ablations import Ablation, Prepared, Replacement, resample
from patching.anatomy.blocks import EMBEDDING, widen
from patching.capture import Recorder, Run, Writes, capture
from patching.gradients import GradientSum, ReaderGradients
from patching.live import Start
from patching.metrics import Metric, measure, require_slope
from patching.model import Model
from patching.modes import without_gradients
from patching.paths import Ends, Path, Step, at_clean
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


@dataclass(frozen=True)
class Gathered:
    """One batch's differences of writes, and gradient sums with the writers each is for.

    `completeness` is what the embedding's scores add up to beyond the gap between the ends, per
    example, where both ends are known.
    """

    difference: Writes
    gradients: list[tuple[slice, ReaderGradients]]
    completeness: Float[Tensor, " example"] | None


def prepare(model: Model, task: Task, metric: Metric, recipe: Recipe) -> "Job":
    """Check that everything fits together, before any expensive work.

    Raises:
        ValueError: if the metric has no gradient, or none at the clean run (kl) while the path
            goes there; if the path needs corrupt runs and the ablation has none; if the model
            cannot read the task, or pairs that should differ do not.
    """
    prepared = recipe.ablation(model)
    _check(metric, recipe.path, prepared)
    model.check(task)
    if prepared.paired:
        task.require_contrast()
    return Job(model, metric, recipe, prepared)


@dataclass(frozen=True)
class Job:
    """What is the same for all batches of a task."""

    model: Model
    metric: Metric
    recipe: Recipe
    prepared: Prepared

    def describe(self, task: Task, method: str | None) -> dict[str, object]:
        """Provenance of what this job's scores will be."""
        rule, path = self.recipe.rule, self.recipe.path
        options: Mapping[str, object] = {**path.options, "rule": rule.name, "path": path.name}
        unruled = [str(part) for part in rule.start(self.model).unruled]
        name, ablation = method or self.recipe.name, self.prepared.name
        said = describe(self.model, task, self.metric, name, options, ablation=ablation)
        return {**said, "unruled": unruled}

    @property
    def functions(self) -> tuple[object, ...]:
        """Those that decide this job's scores and that a user may have written."""
        return self.metric, self.recipe.path, self.recipe.rule, self.prepared

    def gather(self, batch: Batch) -> Gathered:
        """Gradients at the plain runs, then at the steps between them."""
        path, tokens = self.recipe.path, self.prepared.tokens(batch)
        sums = _Sums(self, batch, tokens)
        clean = sums.run(batch.clean, path.clean)
        sums.batch = replace(batch, clean_logits=clean.logits)
        corrupt = sums.run(batch.corrupt, path.corrupt) if self.prepared.paired else None
        replaced = self.prepared.replace(batch, clean, corrupt)
        ends = Ends(self.model, batch, tokens, clean, replaced)
        for step in path.between(ends) if path.between else ():
            sums.step(step)
        return Gathered(ends.difference, sums.finish(), self._delta(sums, ends, corrupt))

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
        moved = widen(ends.clean.embedding) - widen(ends.replaced.embedding)
        scored = (moved * sums.at_embedding).flatten(1).sum(dim=1)
        gap = measure(self.metric, ends.clean.logits, batch) - measure(self.metric, end, batch)
        return scored.to(gap.dtype) - gap

    @without_gradients
    def _run_from(self, replaced: Replacement, batch: Batch) -> Float[Tensor, "batch vocab"]:
        hook = (EMBEDDING, lambda _: replaced.embedding)
        return self.model.answer_logits(batch.clean, batch, [hook])


class _Sums:
    """Gradient sums of one batch: one for all writers, or one for each group of them."""

    def __init__(self, job: Job, batch: Batch, tokens: Bool[Tensor, "batch pos"]) -> None:
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
        self.at_embedding = self.at_embedding + weight * widen(point.embedding_gradient)
        return recorder.finish(point.logits)

    def step(self, step: Step) -> None:
        """A run between the ends, always of the clean prompts."""
        start = Start(step.weight, self.batch.clean, step.embedding, step.hooks)
        point = self._of(step.sources).add(self.batch, self._job.metric, start)
        if step.sources is None or step.sources.start == 0:
            self.at_embedding = self.at_embedding + step.weight * widen(point.embedding_gradient)

    def finish(self) -> list[tuple[slice, ReaderGradients]]:
        """The sums, each with the writers whose edges it scores."""
        return [(slice(*rows), gradients.finish()) for rows, gradients in self._sums.items()]

    def _of(self, sources: slice | None) -> GradientSum:
        n = len(self._job.model.graph.sources)
        key = (0, n) if sources is None else (sources.start, sources.stop)
        if key not in self._sums:
            job = self._job
            self._sums[key] = GradientSum(job.model, self._tokens, job.recipe.rule)
        return self._sums[key]


def _check(metric: Metric, path: Path, prepared: Prepared) -> None:
    elsewhere = ", or integrate over inputs (eap_ig)"
    require_slope(metric, "to score edges by", at_clean=path.clean != 0, elsewhere=elsewhere)
    if path.corrupt and not prepared.paired:
        raise ValueError(
            f"the path {path.name!r} runs the corrupt prompts, which the ablation "
            f"{prepared.name!r} does not use; take the resample ablation, or another path"
        )
