"""Gathering: all runs of one batch that a recipe asks for, before values and gradients are joined.

A recipe is three choices: a backward rule (what gradient), a path (where it is taken) and an
ablation (what removed writers become). At what gradients are taken is the caller's: readers of
edges (`patching.gradients`), or any hook points (`patching.attribution`).
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Generic, Protocol, TypeVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from patching.ablations import Ablation, Prepared, Replacement, resample
from patching.anatomy.blocks import EMBEDDING, widen
from patching.capture import Recorder, Run, Writes, capture
from patching.live import Point, Start
from patching.metrics import Metric, measure, require_slope
from patching.model import Model
from patching.modes import without_gradients
from patching.paths import Ends, Path, Step, at_clean
from patching.progress import within
from patching.provenance import describe
from patching.rules import Rule, plain
from patching.runs.narrowed import Hooks, Narrowed, differing
from patching.tasks.task import Batch, Task
from patching.values import refuse_names

G = TypeVar("G")
G_co = TypeVar("G_co", covariant=True)


@dataclass(frozen=True)
class Recipe:
    """What gradient (`rule`), where it is taken (`path`), and what removed writers become.

    Raises:
        ValueError: if one of them is a name of the shell.
    """

    path: Path = at_clean
    rule: Rule = plain
    ablation: Ablation = resample

    def __post_init__(self) -> None:
        refuse_names(path=self.path, rule=self.rule, ablation=self.ablation)

    @property
    def name(self) -> str:
        """The rule and the path, for people and provenance."""
        return f"{self.rule.name} x {self.path.name}"


class Sum(Protocol[G_co]):
    """What gradients of runs are added up in."""

    def add(self, batch: Batch, metric: Metric, start: Start) -> Point:
        """Run the prompts of `start` and add their gradients; hand back the embedding's."""
        ...

    def finish(self) -> G_co:
        """The sums so far."""
        ...


@dataclass(frozen=True)
class Gathered(Generic[G]):
    """One batch's ends, and gradient sums with the writers each is for.

    `ends.batch` knows the logits of the clean run. `at_embedding` is the sum at the embedding.
    """

    ends: Ends
    corrupt: Run | None
    gradients: list[tuple[slice, G]]
    at_embedding: Tensor

    @property
    def difference(self) -> Writes:
        """Clean writes minus their replacements, at the tokens where they can differ."""
        return self.ends.difference


@dataclass(frozen=True)
class Job(Generic[G]):
    """What is the same for all batches of a task.

    `new_sum` makes an empty sum at some tokens; `seen` names hook points whose values at both
    plain runs are wanted, with the axis that counts positions; `facts` are the method's own.
    `short` says that no one looks inside what layers make token by token.
    """

    model: Model
    metric: Metric
    recipe: Recipe
    prepared: Prepared
    new_sum: Callable[[Bool[Tensor, "batch pos"]], Sum[G]]
    seen: Mapping[str, int] = field(default_factory=dict)
    facts: Mapping[str, object] = field(default_factory=dict)
    short: bool = False

    def check(self, task: Task, purpose: str, *, elsewhere: str) -> None:
        """Check that everything fits together, before any expensive work.

        Raises:
            ValueError: if the metric has no gradient, or none at the clean run (kl) while the path
                goes there; if the path needs corrupt runs and the ablation has none; if the model
                cannot read the task, or pairs that should differ do not.
        """
        path, prepared = self.recipe.path, self.prepared
        require_slope(self.metric, purpose, at_clean=path.clean != 0, elsewhere=elsewhere)
        if path.corrupt and not prepared.paired:
            raise ValueError(
                f"the path {path.name!r} runs the corrupt prompts, which the ablation "
                f"{prepared.name!r} does not use; take the resample ablation, or another path"
            )
        self.model.check(task, self.metric)
        if prepared.paired:
            task.require_contrast()

    def describe(self, task: Task, method: str | None) -> dict[str, object]:
        """Provenance of what this job's scores will be."""
        rule, path = self.recipe.rule, self.recipe.path
        options = {**path.options, "rule": rule.name, "path": path.name}
        facts = {**self.facts, "unruled": [str(part) for part in rule.start(self.model).unruled]}
        name = method or self.recipe.name
        return describe(self.model, task, self.metric, name, options, facts=facts)

    @property
    def functions(self) -> object:
        """Those that a user may have written: with provenance, all that decides the scores."""
        return self.metric, self.recipe.path, self.recipe.rule, self.prepared

    def gather(self, batch: Batch) -> Gathered[G]:
        """Gradients at the plain runs, then at the steps between them."""
        path, runs = self.recipe.path, _Runs(self, batch)
        first = self.prepared.paired and path.corrupt == 0.0
        corrupt = runs.plain(batch.corrupt, 0.0) if first else None
        clean = runs.plain(batch.clean, path.clean)
        runs.batch = replace(batch, clean_logits=clean.logits)
        if self.prepared.paired and corrupt is None:
            corrupt = runs.plain(batch.corrupt, path.corrupt)
        replaced = self.prepared.replace(batch, clean, corrupt)
        ends = Ends(self.model, runs.batch, runs.tokens, clean, replaced)
        for step in within(path.between(ends) if path.between else ()):
            runs.step(step)
        return Gathered(ends, corrupt, runs.finish(), runs.at_embedding)

    def completeness(self, found: Gathered[G]) -> Float[Tensor, " example"] | None:
        """What the embedding's scores add up to beyond the gap between the ends, per example.

        The stream is a sum, so the scores of all edges out of the embedding are the difference of
        embeddings times the gradient at the embedding. None where one end is not known.
        """
        ends, corrupt = found.ends, found.corrupt
        if corrupt is None and not self.recipe.path.completes:
            return None
        end = self._run_from(ends.replaced, ends.batch) if corrupt is None else corrupt.logits
        moved = widen(ends.clean.embedding) - widen(ends.replaced.embedding)
        scored = ends.batch.by_example((moved * found.at_embedding).flatten(1).sum(dim=1))
        whole, without = (measure(self.metric, x, ends.batch) for x in (ends.clean.logits, end))
        return scored.to(whole.dtype) - (whole - without)

    @without_gradients
    def _run_from(self, replaced: Replacement, batch: Batch) -> Float[Tensor, "asked vocab"]:
        hook = (EMBEDDING, lambda _: replaced.embedding)
        return self.model.answer_logits(batch.clean, batch, [hook])


class _Runs(Generic[G]):
    """The runs of one batch, and gradient sums: one for all writers, or one for each group."""

    def __init__(self, job: Job[G], batch: Batch) -> None:
        self.batch = batch
        self.at_embedding: Tensor = torch.zeros((), device=job.model.device)
        self._job = job
        self._sums: dict[tuple[int, int], Sum[G]] = {}

    @cached_property
    def tokens(self) -> Bool[Tensor, "batch pos"]:
        """Where writes can differ from their replacements and still reach the answer."""
        return self._job.prepared.tokens(self.batch)

    @cached_property
    def _narrowed(self) -> Narrowed:
        job, path = self._job, self._job.recipe.path
        alike = job.prepared.paired and (path.between is None or path.keeps_rest)
        tokens = differing(self.batch, self.tokens) if alike else None
        return Narrowed(job.model, self.batch, tokens)

    @contextmanager
    def _running(self) -> Iterator[Hooks]:
        if not self._job.short:
            yield ()
            return
        with self._narrowed.running() as hooks:
            yield hooks

    def plain(self, prompts: Int[Tensor, "batch pos"], weight: float) -> Run:
        """A plain run, with gradients if they have weight."""
        job = self._job
        if weight == 0.0:
            with self._running() as last:
                return capture(
                    job.model, prompts, self.batch, at=self.tokens, seen=job.seen, hooks=last
                )
        recorder = Recorder(job.model, self.tokens, job.seen)
        return recorder.finish(self._add(Start(weight, prompts, hooks=tuple(recorder.hooks))))

    def step(self, step: Step) -> None:
        """A run between the ends, always of the clean prompts."""
        start = Start(step.weight, self.batch.clean, step.embedding, step.hooks)
        self._add(start, step.sources)

    def finish(self) -> list[tuple[slice, G]]:
        """The sums, each with the writers whose edges it scores."""
        return [(slice(*rows), gradients.finish()) for rows, gradients in self._sums.items()]

    def _add(self, start: Start, sources: slice | None = None) -> Float[Tensor, "asked vocab"]:
        job, rows = self._job, sources or slice(0, len(self._job.model.graph.sources))
        key = rows.start, rows.stop
        if key not in self._sums:
            self._sums[key] = job.new_sum(self.tokens)
        with self._running() as last:
            start = replace(start, hooks=(*start.hooks, *last))
            point = self._sums[key].add(self.batch, job.metric, start)
        if rows.start == 0:
            slope = widen(point.embedding_gradient)
            self.at_embedding = self.at_embedding + start.weight * slope
        return point.logits
