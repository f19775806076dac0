"""Both runs of a batch, seen at chosen places, and the metric's gradients along a path.

What sweeps and repairs of them have in common; what is made of it is theirs.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from patching.ablations import Replacement
from patching.anatomy.blocks import widen
from patching.anatomy.devices import rows_at
from patching.anatomy.places import Place
from patching.capture import Recorder, Run, indices
from patching.files.brief import briefly
from patching.live import Live, Point, Start, differentiate
from patching.metrics import Metric, measure, require_slope
from patching.model import Hook, Model
from patching.paths import Ends, Path, Step
from patching.provenance import describe
from patching.rules import Rule
from patching.tasks.task import Batch, Task

Hooks = tuple[tuple[str, Hook], ...]


@dataclass(frozen=True)
class Job:
    """What is the same for all batches: which places, and which gradient of what.

    `beside` are places whose values are wanted, and no gradients.
    """

    model: Model
    metric: Metric
    rule: Rule
    path: Path
    places: Mapping[str, tuple[Place, ...]]
    beside: tuple[Place, ...] = ()

    @property
    def read(self) -> tuple[str, ...]:
        """Hook points whose activations make the places' values."""
        return tuple(dict.fromkeys(hook for place in self._all() for hook in place.hooks))

    @property
    def sloped(self) -> tuple[str, ...]:
        """Hook points where gradients are taken."""
        return tuple(dict.fromkeys(p.hook for kind in self.places.values() for p in kind))

    def pos_axis(self, hook: str) -> int:
        """Which axis of the tensor at a hook point counts positions."""
        return next((p.pos_axis for p in self._all() if p.hook == hook), 1)

    def check(self, task: Task) -> None:
        """Refuse what cannot be scored, before any run.

        Raises:
            ValueError: if the metric has no gradient where the path takes one, the path changes
                activations on its way, the model cannot read the task, or pairs do not differ.
        """
        require_slope(
            self.metric,
            "to score activations by",
            at_clean=self.path.clean != 0,
            elsewhere=", or direction='denoising', or the path along_inputs()",
        )
        if self.path.between is not None and not self.path.completes:
            raise ValueError(
                f"the path {self.path.name!r} replaces what writers write, and what lies before "
                "has no gradient then; take along_inputs(), or at_both"
            )
        self.model.check(task)
        task.require_contrast()

    def describe(self, task: Task, method: str, direction: str) -> dict[str, object]:
        """Provenance of what this job's scores will be."""
        facts = {
            "direction": direction,
            "sign": "positive: the clean activation helps the metric",
            "unruled": [str(part) for part in self.rule.start(self.model).unruled],
        }
        options = {**self.path.options, "rule": self.rule.name, "path": self.path.name}
        return describe(self.model, task, self.metric, method, options, facts=facts)

    def _all(self) -> list[Place]:
        return [place for kind in self.places.values() for place in kind] + list(self.beside)


@briefly
@dataclass(frozen=True)
class Seen:
    """One plain run: logits, and values by hook point at the tokens where the runs can differ."""

    logits: Float[Tensor, "batch vocab"]
    values: Mapping[str, Float[Tensor, "token ..."]]
    run: Run | None = None


@dataclass(frozen=True)
class Gathered:
    """Both runs of a batch, and gradients by hook point, added up along the path."""

    batch: Batch
    tokens: tuple[Int[Tensor, " token"], ...]
    clean: Seen
    corrupt: Seen
    gradients: Mapping[str, Float[Tensor, "token ..."]]

    def difference(self, place: Place) -> Float[Tensor, "token ..."]:
        """The place's value in the clean run minus that in the corrupt one."""
        total = self.clean.values[place.hook] - self.corrupt.values[place.hook]
        if place.offset is not None:
            hook, sign = place.offset
            total = total + sign * (self.clean.values[hook] - self.corrupt.values[hook])
        return total

    def metric(self, metric: Metric) -> tuple[Float[Tensor, " batch"], Float[Tensor, " batch"]]:
        """The metric of the clean and of the corrupt run, in float64."""
        clean, corrupt = (
            measure(metric, seen.logits, self.batch).double().cpu()
            for seen in (self.clean, self.corrupt)
        )
        return clean, corrupt


def gather(job: Job, batch: Batch) -> Gathered:
    """Run a batch clean, corrupt and along the path."""
    sums = Sums(job, batch)
    clean = sums.run(batch.clean, job.path.clean)
    sums.batch = replace(batch, clean_logits=clean.logits)
    corrupt = sums.run(batch.corrupt, job.path.corrupt)
    if job.path.between is not None:
        assert clean.run is not None and corrupt.run is not None, "recorded for the path"
        replaced = Replacement(corrupt.run.writes, corrupt.run.embedding)
        ends = Ends(job.model, sums.batch, batch.can_differ, clean.run, replaced)
        for step in job.path.between(ends):
            sums.step(step)
    return Gathered(sums.batch, sums.tokens, clean, corrupt, sums.gradients)


class Sums:
    """The runs of one batch, and the sum of their gradients."""

    def __init__(self, job: Job, batch: Batch) -> None:
        self.batch = batch
        self._differ = batch.can_differ
        self.tokens = indices(self._differ)
        self.gradients: dict[str, Tensor] = {}
        self._job = job

    def run(self, prompts: Int[Tensor, "batch pos"], weight: float) -> Seen:
        """A plain run, with gradients if they have weight."""
        job = self._job
        recorder = None
        if job.path.between is not None:
            recorder = Recorder(job.model, self._differ)
        hooks: Hooks = () if recorder is None else tuple(recorder.hooks)
        live = Live((*job.read, *job.sloped))
        if weight:
            logits = self._differentiate(live, Start(weight, prompts, hooks=hooks)).logits
        else:
            with torch.no_grad():
                logits = job.model.answer_logits(prompts, self.batch, [*live.hooks(), *hooks])
        values = {name: self._chosen(name, live.tensors[name].detach()) for name in job.read}
        return Seen(logits, values, None if recorder is None else recorder.finish(logits))

    def step(self, step: Step) -> None:
        """A run between the ends, always of the clean prompts."""
        live = Live(self._job.sloped, step.embedding)
        self._differentiate(live, Start(step.weight, self.batch.clean, hooks=step.hooks))

    def slope(self, prompts: Int[Tensor, "batch pos"], hooks: Hooks) -> None:
        """A plain run for its gradients alone; the hooks come last."""
        self._differentiate(Live(self._job.sloped), Start(1.0, prompts, hooks=hooks))

    def _differentiate(self, live: Live, start: Start) -> Point:
        job = self._job
        found = differentiate(job.model, self.batch, job.metric, job.rule, live, start)
        for name in job.sloped:
            part = start.weight * self._chosen(name, found.gradients[name])
            self.gradients[name] = self.gradients[name] + part if name in self.gradients else part
        return found

    def _chosen(self, name: str, tensor: Tensor) -> Float[Tensor, "token ..."]:
        """The tokens where runs can differ, in float32 or wider."""
        chosen = rows_at(tensor.movedim(self._job.pos_axis(name), 1), self.tokens)
        return widen(chosen.to(self._job.model.device))
