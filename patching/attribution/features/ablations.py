"""What features and errors become when they are taken out: another prompt's, a mean, nothing."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from patching.anatomy.blocks import widen
from patching.anatomy.places import Place
from patching.attribution.features.sites import Coded, Site, brought
from patching.capture import Run, capture, indices
from patching.model import Model
from patching.modes import without_gradients
from patching.tasks.task import Batch, Task


@dataclass(frozen=True, eq=False)
class Baseline:
    """An ablation made ready: the corrupt run's (`paired`), or values by site.

    `values` have one row for all positions, or one for each.
    """

    name: str
    paired: bool
    values: Mapping[str, Coded]

    def tokens(self, batch: Batch) -> Bool[Tensor, "row pos"]:
        """Where a node can differ from its replacement and still reach the answer."""
        return batch.can_differ if self.paired else batch.up_to_answer

    def at(self, site: Site, places: Int[Tensor, " token"], like: Coded) -> Coded:
        """Constants at some tokens, given by their places in their prompts.

        Raises:
            ValueError: if a prompt is longer than all that the means were taken over.
        """
        if not self.values:
            return Coded(torch.zeros_like(like.features), torch.zeros_like(like.error))
        known = self.values[site.name]
        n = len(known.features)
        if n > 1 and int(places.max()) >= n:
            raise ValueError(
                f"a prompt has {int(places.max()) + 1} tokens, and the means know only {n}; take "
                "them over prompts at least as long"
            )
        rows = places if n > 1 else torch.zeros_like(places)
        return Coded(known.features[rows].to(like.features), known.error[rows].to(like.error))


FeatureAblation = Callable[[Model, Sequence[Site]], Baseline]


def resample(model: Model, sites: Sequence[Site]) -> Baseline:
    """What they are on the paired corrupt prompt."""
    return Baseline("resample (the paired corrupt prompt)", True, {})


def zero(model: Model, sites: Sequence[Site]) -> Baseline:
    """Nothing: what a decoder always adds is left."""
    return Baseline("zero", False, {})


def mean(task: Task, *, by_position: bool = False, batch_size: int = 16) -> FeatureAblation:
    """Means over the clean prompts of a task: over all real tokens, or at each position."""

    def prepare(model: Model, sites: Sequence[Site]) -> Baseline:
        n = task.max_length if by_position else 1
        name = f"{'positional ' * by_position}mean over {task.name} ({task.hash})"
        return Baseline(name, False, _means(model, sites, task, n, batch_size))

    return prepare


def value_of(run: Run, place: Place) -> Tensor:
    """A place's value at the tokens of a run that has seen it, `[token width]`."""
    total = run.seen[place.hook]
    if place.offset is not None:
        hook, sign = place.offset
        total = total + sign * run.seen[hook]
    return widen(total.flatten(1))


def code_run(
    run: Run, site: Site, others: Mapping[str, Float[Tensor, "token _width"]] | None = None
) -> Coded:
    """Features and error of a site in a run; `others` is what `brought_in` says of all sites."""
    here = None if others is None else others.get(site.name)
    return site.code(value_of(run, site.reads), value_of(run, site.writes), here)


def brought_in(run: Run, sites: Sequence[Site]) -> dict[str, Float[Tensor, "token _width"]]:
    """What features that write across layers bring to other sites in a run."""
    return brought(sites, lambda site: site.encode(value_of(run, site.reads)))


def hooks_of(sites: Sequence[Site]) -> dict[str, int]:
    """Hook points that show all sites, with the axis that counts positions."""
    places = [place for site in sites for place in (site.reads, site.writes)]
    return {hook: 1 for place in places for hook in place.hooks}


@without_gradients
def _means(
    model: Model, sites: Sequence[Site], task: Task, n_places: int, batch_size: int
) -> dict[str, Coded]:
    model.check(task)
    sums: dict[str, Coded] = {}
    counts = torch.zeros(n_places, dtype=torch.float64)
    for batch in task.batches(batch_size, model.device):
        run = capture(model, batch.clean, batch, at=batch.distinct, seen=hooks_of(sites))
        places = batch.places[indices(batch.distinct)].clamp(max=n_places - 1)
        counts += torch.bincount(places.cpu(), minlength=n_places)
        others = brought_in(run, sites)
        for site in sites:
            coded = code_run(run, site, others)
            more = Coded(
                _sum_at(coded.features, places, n_places), _sum_at(coded.error, places, n_places)
            )
            if site.name in sums:
                so_far = sums[site.name]
                more = Coded(so_far.features + more.features, so_far.error + more.error)
            sums[site.name] = more
    over = counts.clamp(min=1)[:, None].to(model.device)
    return {name: Coded(one.features / over, one.error / over) for name, one in sums.items()}


def _sum_at(part: Tensor, places: Tensor, n_places: int) -> Tensor:
    sums = part.new_zeros(n_places, part.shape[1], dtype=torch.float64)
    return sums.index_add_(0, places, part.double())
