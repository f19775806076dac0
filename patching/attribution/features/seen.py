"""Both sides of a batch at all sites, and the metric's gradients there along a path."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, partial

import torch
from jaxtyping import Float, Int
from torch import Tensor

from patching import ablations
from patching.anatomy.blocks import widen
from patching.anatomy.devices import rows_at
from patching.attribution.dropping import NOWHERE
from patching.attribution.features.ablations import Baseline, brought_in, code_run, value_of
from patching.attribution.features.along import PlacePath
from patching.attribution.features.sites import Coded, Site, brought
from patching.attribution.runs import Job
from patching.capture import Run, indices
from patching.metrics import Metric, measure, measure_sloped
from patching.model import Model
from patching.modes import with_gradients
from patching.paths import Path
from patching.rules import Rule
from patching.tasks.task import Batch, Task


@dataclass(frozen=True, eq=False)
class Seen:
    """A batch's clean run and what replaces its nodes, at the tokens where they can differ.

    `batch` knows the logits of the clean run.
    """

    batch: Batch
    tokens: tuple[Int[Tensor, " token"], ...]
    clean: Run
    corrupt: Run | None
    baseline: Baseline
    sites: tuple[Site, ...]

    @property
    def places(self) -> Int[Tensor, " token"]:
        """Each token's number in its prompt."""
        return self.batch.places[self.tokens]

    def codes(self, site: Site) -> tuple[Coded, Coded]:
        """Features and error of a site in the clean run, and what replaces them."""
        clean = code_run(self.clean, site, self._brought[0])
        if self.corrupt is not None:
            return clean, code_run(self.corrupt, site, self._brought[1])
        return clean, self.baseline.at(site, self.places, clean)

    def replaced(self, site: Site) -> Float[Tensor, "token width"]:
        """What a site writes where all its nodes are replaced.

        Of a skip connection, that is its part in the clean run.
        """
        if self.corrupt is not None:
            return value_of(self.corrupt, site.writes)
        return site.rebuild(self.codes(site)[1], self._brought[1].get(site.name))

    @cached_property
    def _brought(self) -> tuple[Mapping[str, Tensor], Mapping[str, Tensor]]:
        """What features bring to other sites: in the clean run, and what replaces that."""
        clean = brought_in(self.clean, self.sites)
        if self.corrupt is not None:
            return clean, brought_in(self.corrupt, self.sites)
        return clean, brought(self.sites, self._constants)

    def _constants(self, site: Site) -> Float[Tensor, "token feature"]:
        f = site.encode(value_of(self.clean, site.reads))
        return self.baseline.at(site, self.places, Coded(f, f[..., :0])).features

    def metrics(self, metric: Metric) -> dict[str, Float[Tensor, " example"]]:
        """The metric of the clean run and, of pairs, of the corrupt one."""
        runs = {"clean": self.clean, "corrupt": self.corrupt}
        return {
            name: measure(metric, run.logits, self.batch).double().cpu()
            for name, run in runs.items()
            if run is not None
        }


@dataclass(frozen=True, eq=False)
class Looking:
    """What is the same for all batches: sites, which gradient of what, and what replaces nodes."""

    model: Model
    metric: Metric
    sites: tuple[Site, ...]
    baseline: Baseline
    rule: Rule
    path: Path

    def check(self, task: Task) -> None:
        """Refuse what cannot be scored, before any run.

        Raises:
            ValueError: as `attribution_patching`, and if the path goes to a run that the ablation
                does not have.
        """
        path = self.path
        if not self.baseline.paired and (path.corrupt or path.between is not None):
            raise ValueError(
                f"the path {path.name!r} goes to the corrupt run, which the ablation "
                f"{self.baseline.name!r} does not use; take the clean run, or along_places()"
            )
        self._job(path).check(task)

    def describe(self, task: Task, method: str, facts: Mapping[str, object]) -> dict[str, object]:
        """Provenance of what comes of it."""
        made = self._job(self.path).describe(task, method, "noising")
        return {**made, "ablation": self.baseline.name, "what": "features", **facts}

    def look(self, batch: Batch) -> tuple[Seen, dict[str, Float[Tensor, "token width"]]]:
        """Both sides of a batch, and gradients by site."""
        alone = isinstance(self.path, PlacePath)
        found = self._job(NOWHERE if alone else self.path).gathering().gather(batch)
        ends, corrupt = found.ends, found.corrupt
        paired = corrupt if self.baseline.paired else None
        seen = Seen(ends.batch, indices(ends.tokens), ends.clean, paired, self.baseline, self.sites)
        if isinstance(self.path, PlacePath):
            return seen, {site.name: self._along(seen, site, self.path) for site in self.sites}
        if not found.gradients:
            return seen, {}
        slopes = found.gradients[0][1]
        return seen, {site.name: slopes[site.writes.hook].flatten(1) for site in self.sites}

    def _job(self, path: Path) -> Job:
        ablation = ablations.resample if self.baseline.paired else ablations.zero
        writes = tuple(site.writes for site in self.sites)
        reads = tuple(site.reads for site in self.sites)
        places = {"features": writes}
        return Job(self.model, self.metric, self.rule, path, places, reads, ablation)

    def _along(self, seen: Seen, site: Site, path: PlacePath) -> Float[Tensor, "token width"]:
        """The mean gradient at a site on the way to what replaces it, all before it clean."""
        total = torch.zeros_like(value_of(seen.clean, site.writes))
        missing = seen.replaced(site) - value_of(seen.clean, site.writes)
        for distance, weight in path.points:
            total = total + weight * self._slope(seen, site, distance * missing)
        return total

    def _slope(
        self, seen: Seen, site: Site, change: Float[Tensor, "token width"]
    ) -> Float[Tensor, "token width"]:
        ruled, leaves = self.rule.start(self.model), list[Tensor]()
        moving = (site.writes.hook, partial(_move, leaves, seen.tokens, change))
        with with_gradients():
            logits = self.model.answer_logits(seen.batch.clean, seen.batch, [*ruled.hooks, moving])
            values = measure_sloped(self.metric, logits, seen.batch)
            (found,) = torch.autograd.grad(values.sum(), leaves)
        ruled.check()
        return widen(rows_at(found, seen.tokens).flatten(1))


def _move(
    leaves: list[Tensor],
    tokens: tuple[Tensor, ...],
    change: Float[Tensor, "token width"],
    x: Float[Tensor, "row pos ..."],
) -> Float[Tensor, "row pos ..."]:
    """The activation moved at some tokens, as the leaf that gradients are taken by."""
    moved = x.detach().clone()
    moved[tokens] += change.view(-1, *x.shape[2:]).to(moved)
    leaves.append(moved.requires_grad_())
    return moved
