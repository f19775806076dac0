"""Both runs of a batch, seen at chosen places, and the metric's gradients along a path.

What sweeps and repairs of them have in common; what is made of it is theirs.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial

from jaxtyping import Bool, Float, Int
from torch import Tensor

from patching.ablations import Ablation, resample
from patching.anatomy.blocks import EMBEDDING, widen
from patching.anatomy.devices import rows_at
from patching.anatomy.places import Place
from patching.capture import Run, indices
from patching.gathering import Job as Gathering
from patching.gathering import Recipe
from patching.live import Live, Point, Start, differentiate
from patching.metrics import Metric, measure
from patching.model import Model
from patching.paths import Path
from patching.rules import Rule
from patching.tasks.task import Batch, Task


@dataclass(frozen=True)
class Job:
    """What is the same for all batches: which places, and which gradient of what.

    `beside` are places whose values are wanted, and no gradients; `ablation` says what activations
    are replaced by.
    """

    model: Model
    metric: Metric
    rule: Rule
    path: Path
    places: Mapping[str, tuple[Place, ...]]
    beside: tuple[Place, ...] = ()
    ablation: Ablation = resample

    @property
    def axes(self) -> dict[str, int]:
        """Hook points whose activations make the places' values, with the axis of positions."""
        places = [place for kind in self.places.values() for place in kind]
        named = {hook: 1 for place in (*places, *self.beside) for hook in place.hooks}
        return {**named, **{place.hook: place.pos_axis for place in (*places, *self.beside)}}

    def gathering(self, **facts: str) -> Gathering[Mapping[str, Tensor]]:
        """The runs of each batch, and sums of gradients at the places."""
        recipe, prepared, axes = Recipe(self.path, self.rule), self.ablation(self.model), self.axes
        sloped = {p.hook: axes[p.hook] for kind in self.places.values() for p in kind}
        sums = partial(PlaceSum, self.model, self.rule, sloped)
        return Gathering(self.model, self.metric, recipe, prepared, sums, axes, facts)

    def check(self, task: Task) -> None:
        """Refuse what cannot be scored, before any run.

        Raises:
            ValueError: as `patching.gathering.Job.check`, and if the path changes activations on
                its way.
        """
        if self.path.between is not None and not self.path.completes:
            raise ValueError(
                f"the path {self.path.name!r} replaces what writers write, and what lies before "
                "has no gradient then; take along_inputs(), or at_both"
            )
        elsewhere = ", or direction='denoising', or the path along_inputs()"
        self.gathering().check(task, "to score activations by", elsewhere=elsewhere)

    def describe(self, task: Task, method: str, direction: str) -> dict[str, object]:
        """Provenance of what this job's scores will be."""
        sign = "positive: the clean activation helps the metric"
        return self.gathering(direction=direction, sign=sign).describe(task, method)


@dataclass(frozen=True)
class Gathered:
    """Both runs of a batch, and gradients by hook point, added up along the path."""

    batch: Batch
    tokens: tuple[Int[Tensor, " token"], ...]
    clean: Run
    corrupt: Run
    gradients: Mapping[str, Float[Tensor, "token ..."]]

    def difference(self, place: Place) -> Float[Tensor, "token ..."]:
        """The place's value in the clean run minus that in the corrupt one."""
        total = self.clean.seen[place.hook] - self.corrupt.seen[place.hook]
        if place.offset is not None:
            hook, sign = place.offset
            total = total + sign * (self.clean.seen[hook] - self.corrupt.seen[hook])
        return total

    def metric(self, metric: Metric) -> tuple[Float[Tensor, " batch"], Float[Tensor, " batch"]]:
        """The metric of the clean and of the corrupt run, in float64."""
        clean, corrupt = (
            measure(metric, run.logits, self.batch).double().cpu()
            for run in (self.clean, self.corrupt)
        )
        return clean, corrupt


def gather(job: Job, batch: Batch) -> Gathered:
    """Run a batch clean, corrupt and along the path."""
    found = job.gathering().gather(batch)
    ends, gradients = found.ends, found.gradients[0][1] if found.gradients else {}
    assert found.corrupt is not None, "pairs have a corrupt run"
    return Gathered(ends.batch, indices(ends.tokens), ends.clean, found.corrupt, gradients)


class PlaceSum:
    """Adds up gradients at hook points, given with their axes of positions, at some tokens."""

    def __init__(
        self, model: Model, rule: Rule, axes: Mapping[str, int], tokens: Bool[Tensor, "batch pos"]
    ) -> None:
        self._model, self._rule, self._axes = model, rule, axes
        self._tokens = indices(tokens)
        self._sums: dict[str, Tensor] = {}

    def add(self, batch: Batch, metric: Metric, start: Start) -> Point:
        """Run the prompts and add their gradients; only the embedding's are handed back."""
        live = Live(self._axes, start.embedding)
        point = differentiate(self._model, batch, metric, self._rule, live, start)
        for name, axis in self._axes.items():
            chosen = rows_at(point.gradients[name].movedim(axis, 1), self._tokens)
            part = start.weight * widen(chosen.to(self._model.device))
            self._sums[name] = self._sums[name] + part if name in self._sums else part
        return replace(point, gradients={EMBEDDING: point.gradients[EMBEDDING]})

    def finish(self) -> Mapping[str, Float[Tensor, "token ..."]]:
        """The sums so far."""
        return self._sums
