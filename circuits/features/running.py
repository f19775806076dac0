"""Running a model with everything outside a feature circuit replaced, many circuits at a time.

At every place, features are read anew from what is there now; those outside become what replaces
them, and so does the error. With all nodes in the circuit that is the clean run, to the last bit;
with none (and features resampled) the corrupt one. Marks et al. 2024, arXiv:2403.19647.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from circuits.features.circuit import Errors
from patching.attribution.dropping import NOWHERE
from patching.attribution.features import FeatureNodes, Setting, find_sites
from patching.attribution.features.nodes import EVERYWHERE
from patching.attribution.features.seen import Looking, Seen
from patching.attribution.features.sites import Coders, Site, facts_of
from patching.files.brief import briefly
from patching.memory import in_tiles
from patching.metrics import Metric, measure
from patching.model import Hook, Model
from patching.modes import without_gradients
from patching.rules import plain
from patching.runs.batches import Found, Keeping, all_rows
from patching.tasks.task import Batch, Task
from patching.work import Parts, Run

_BYTES_A_FEATURE = 32  # of each token of a circuit's rows, at one site
_BYTES_A_DIMENSION = 80  # at the peak of a block

Others = Literal["held", "free"]
"""What becomes of features that no circuit here knows, as they differed nowhere: replaced like all
outside, or left to answer to what is changed."""


@dataclass(frozen=True)
class Handling:
    """How circuits are run: what replaces nodes, and what becomes of errors and of other features.

    Positions are kept or summed as the nodes have them.
    """

    setting: Setting = Setting()
    errors: Errors = "nodes"
    others: Others = "held"


@briefly
@dataclass(frozen=True, eq=False)
class FeatureRuns:
    """The metric of each circuit on each example, of the clean run, and with nothing in a circuit.

    `empty` is the run in which everything is replaced that a circuit could hold: under resampling
    the corrupt run, unless errors are kept.
    """

    values: Float[Tensor, "circuit example"]
    clean: Float[Tensor, " example"]
    empty: Float[Tensor, " example"]
    provenance: dict[str, object]

    @property
    def faithfulness(self) -> Float[Tensor, " circuit"]:
        """(circuit - empty) / (clean - empty), of means over examples."""
        base = self.empty.mean()
        return (self.values.mean(dim=1) - base) / (self.clean.mean() - base)


def run_feature_circuits(
    model: Model,
    task: Task,
    metric: Metric,
    dictionaries: Coders,
    nodes: FeatureNodes,
    kept: Bool[Tensor, "circuit node"],
    *,
    handling: Handling = Handling(),  # noqa: B008 - a frozen value
    run: Run | None = None,
) -> FeatureRuns:
    """Run circuits, given as which nodes of a table they keep, and measure each on every example.

    Circuits share passes as rows of one batch, as many as fit into the memory budget; equal ones
    are run once.

    Raises:
        Interrupted: if somebody interrupts.
        ValueError: if nodes, dictionaries, model and task do not fit together.
    """
    setting, sites = handling.setting, find_sites(model, dictionaries)
    nodes.within(FeatureNodes(*_places(sites), nodes.sites[:0], nodes.sites[:0], nodes.sites[:0]))
    if nodes.by_position:
        setting.check(task)
    model.check(task, metric)
    looking = Looking(model, metric, sites, setting.ablation(model, sites), plain, NOWHERE)
    if looking.baseline.paired:
        task.require_contrast()
    asked = torch.cat([kept, torch.zeros(1, len(nodes), dtype=torch.bool)])
    distinct, which = torch.unique(asked, dim=0, return_inverse=True)
    facts = {**facts_of(dictionaries), "errors": handling.errors, "others": handling.others}
    described = looking.describe(task, "feature circuits", facts)
    deciding = (metric, setting.ablation, nodes.keys, distinct)
    keeping = Keeping("feature-circuits", described, deciding, setting.doing(run))

    def finish(found: Found[Parts]) -> FeatureRuns:
        values = found.total["values"].T[which]
        said = found.provenance(described)
        return FeatureRuns(values[:-1], found.total["clean"], values[-1], said)

    return all_rows(
        model, task, partial(_measure, looking, nodes, distinct, handling), keeping, finish
    )


def _places(sites: Sequence[Site]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    return tuple(site.name for site in sites), tuple(site.letter for site in sites)


@without_gradients
def _measure(
    looking: Looking,
    nodes: FeatureNodes,
    kept: Bool[Tensor, "circuit node"],
    handling: Handling,
    batch: Batch,
) -> Parts:
    seen, _ = looking.look(batch)
    own = [nodes.sites == number for number in range(len(looking.sites))]
    inside = [
        _Inside(seen, site, nodes[chosen], kept[:, chosen], handling)
        for site, chosen in zip(looking.sites, own, strict=True)
    ]
    values = torch.empty(len(kept), len(batch), dtype=torch.float64)
    most, d_model = max(site.n_features for site in looking.sites), _d_model(looking.model)
    each = batch.clean.numel() * (_BYTES_A_FEATURE * most + _BYTES_A_DIMENSION * d_model)

    def work(some: slice) -> None:
        n = some.stop - some.start
        hooks = _Walk(inside, some).hooks()
        rows = batch.clean.repeat(n, 1)
        logits = looking.model.answer_logits(rows, seen.batch, hooks).unflatten(0, (n, -1))
        for i, own in enumerate(logits, start=some.start):
            values[i] = measure(looking.metric, own, seen.batch).double().cpu()

    in_tiles(len(kept), each, batch.clean.device, work)
    return {"values": values.T.contiguous(), "clean": seen.metrics(looking.metric)["clean"]}


def _d_model(model: Model) -> int:
    return model.blocks[0].w_o.shape[2]


@dataclass(eq=False)
class _Inside:
    """One site in all circuits: which of its nodes each keeps, and what replaces the others."""

    seen: Seen
    site: Site
    nodes: FeatureNodes
    kept: Bool[Tensor, "circuit own"]
    handling: Handling

    def put(
        self, some: slice, x: Float[Tensor, "rows pos ..."], y: Float[Tensor, "rows pos ..."]
    ) -> Float[Tensor, "rows pos ..."]:
        """What the site hands on in some circuits, where it reads x and y was written."""
        n, site = some.stop - some.start, self.site
        whole = y.unflatten(0, (n, -1)).clone()
        at = (slice(None), *self.seen.tokens)
        live = whole[at].flatten(2)
        f = site.encode(x.unflatten(0, (n, -1))[at].flatten(2))
        others = f if self.handling.others == "free" else self._patch.expand_as(f)
        mixed, used = others.clone(), self._used
        mixed[..., used] = torch.where(self._features(some), f[..., used], self._patch[:, used])
        if site.leaves_errors:
            own = self._errors(some)[..., None]
            base = torch.where(own, live, self._replaced.to(live))
            f = torch.where(own, f, self._patch)
        else:
            base = live
        made = base.to(f) + site.write(mixed - f) if site.leaves_errors else mixed
        whole[at] = made.unflatten(2, y.shape[2:]).to(whole)
        return whole.flatten(0, 1)

    @cached_property
    def _patch(self) -> Float[Tensor, "token feature"]:
        return self.seen.codes(self.site)[1].features

    @cached_property
    def _replaced(self) -> Float[Tensor, "token width"]:
        return self.seen.replaced(self.site)

    @cached_property
    def _used(self) -> Int[Tensor, " used"]:
        """The features of which there are nodes."""
        features = self.nodes.features[~self.nodes.are_errors]
        return features.unique().to(self._patch.device)

    def _features(self, some: slice) -> Bool[Tensor, "circuit token used"]:
        """Which features are kept at every token."""
        chosen = ~self.nodes.are_errors
        columns = torch.searchsorted(self._used.cpu(), self.nodes.features[chosen])
        return self._spread(some, chosen, columns, len(self._used))

    def _errors(self, some: slice) -> Bool[Tensor, "circuit token"]:
        """Whether the error is kept at every token."""
        n, errors = some.stop - some.start, self.handling.errors
        if errors != "nodes":
            shape = n, len(self.seen.places)
            return torch.full(shape, errors == "kept", device=self._patch.device)
        chosen = self.nodes.are_errors
        columns = torch.zeros(int(chosen.sum()), dtype=torch.long)
        return self._spread(some, chosen, columns, 1)[..., 0]

    def _spread(
        self, some: slice, chosen: Bool[Tensor, " own"], columns: Int[Tensor, " some"], width: int
    ) -> Bool[Tensor, "circuit token width"]:
        """What some nodes are in the circuits, at the tokens they are of."""
        n, places, device = some.stop - some.start, self.seen.places, self._patch.device
        positions = self.nodes.positions[chosen]
        free = self.handling.others == "free"
        summed = not len(positions) or bool((positions == EVERYWHERE).all())
        n_places = 1 if summed else max(int(places.max()), int(positions.max())) + 1
        out = torch.full((n, n_places, width), free)
        out[:, positions.clamp(min=0), columns] = self.kept[some][:, chosen]
        at = torch.zeros_like(places) if summed else places
        return out.to(device)[:, at]


class _Walk:
    """Hooks of one pass: each site replaced in turn, with what it reads kept before."""

    def __init__(self, inside: Sequence[_Inside], some: slice) -> None:
        self._inside, self._some = inside, some
        self._read: dict[str, Tensor] = {}

    def hooks(self) -> list[tuple[str, Hook]]:
        """Keepers come last at their hook points: they see what sites before them made."""
        sites = [one.site for one in self._inside]
        apart = [site.reads for site in sites if site.reads != site.writes]
        offsets = [site.writes.offset[0] for site in sites if site.writes.offset is not None]
        kept = dict.fromkeys([hook for place in apart for hook in place.hooks] + offsets)
        putting = [(one.site.writes.hook, partial(self._put, one)) for one in self._inside]
        early = [name for name in kept if name in offsets]
        late = [name for name in kept if name not in offsets]
        return [
            *((name, partial(self._keep, name)) for name in early),
            *putting,
            *((name, partial(self._keep, name)) for name in late),
        ]

    def _keep(self, name: str, x: Tensor) -> None:
        self._read[name] = x

    def _put(self, one: _Inside, x: Tensor) -> Tensor:
        reads, writes = one.site.reads, one.site.writes
        beside = None
        if writes.offset is not None:
            beside = writes.offset[1] * self._read[writes.offset[0]]
        y = x if beside is None else x + beside
        read = y if reads == writes else self._value(one.site)
        made = one.put(self._some, read, y)
        return made if beside is None else made - beside

    def _value(self, site: Site) -> Tensor:
        offset, x = site.reads.offset, self._read[site.reads.hook]
        return x if offset is None else x + offset[1] * self._read[offset[0]]
