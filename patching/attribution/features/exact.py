"""Exact effects of chosen features and errors: a run for each, in which it alone is replaced."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial

import torch
from jaxtyping import Float, Int
from torch import Tensor

from patching.attribution.dropping import NOWHERE
from patching.attribution.features.effects import Setting
from patching.attribution.features.nodes import ERROR, EVERYWHERE, FeatureNodes
from patching.attribution.features.results import FeatureEffects
from patching.attribution.features.seen import Looking, Seen
from patching.attribution.features.sites import Coded, Coders, Site, facts_of, find_sites
from patching.memory import in_tiles
from patching.metrics import Metric, measure
from patching.model import Model
from patching.modes import without_gradients
from patching.rules import plain
from patching.runs.batches import Found, Keeping, all_rows
from patching.tasks.task import Batch, Task
from patching.work import Parts, Run

_BYTES_EACH = 80  # of each token and dimension of a node's rows, at the peak of a block


def exact_feature_effects(
    model: Model,
    task: Task,
    metric: Metric,
    dictionaries: Coders,
    nodes: FeatureNodes,
    *,
    setting: Setting = Setting(),  # noqa: B008 - a frozen value
    run: Run | None = None,
) -> FeatureEffects:
    """What each of some nodes is worth: `metric(clean) - metric(clean with it replaced)`.

    Everything after a node answers; other nodes of its own place stay as they are. `nodes` are
    those of a `FeatureEffects`, such as `effects.strongest(50).nodes`: with positions, each is
    replaced at its own; without, at all of them at once. Many nodes share a run, as rows of it.
    A feature that writes across layers is replaced at all places that it writes at, on top of what
    MLPs write there, which answer too.

    >>> from patching import logit_diff, tasks
    >>> from patching.attribution.features import feature_effects
    >>> model = Model.load("toy-llama")
    >>> task = tasks.ioi(model.tokenizer, n=2, seed=0).of_length()
    >>> few = feature_effects(model, task, logit_diff, "neurons").strongest(5)
    >>> exact = exact_feature_effects(model, task, logit_diff, "neurons", few.nodes)
    >>> exact.names == few.names
    True

    Raises:
        Interrupted: with the effects on the first examples, if somebody interrupts.
        ValueError: if dictionaries, nodes, metric, model and task do not fit together, or nodes
            have positions, which do not mean the same in all prompts.
    """
    sites = find_sites(model, dictionaries)
    _check(nodes, sites, setting, task)
    model.check(task, metric)
    looking = Looking(model, metric, sites, setting.ablation(model, sites), plain, NOWHERE)
    if looking.baseline.paired:
        task.require_contrast()
    facts = {
        **facts_of(dictionaries),
        "quantity": "effect",
        "positions": "kept" if nodes.by_position else "summed",
        "nodes": list(nodes.names),
    }
    described = looking.describe(task, "exact feature effects", facts)
    deciding = (metric, setting.ablation)
    keeping = Keeping("exact-features", described, deciding, setting.doing(run))

    def finish(found: Found[Parts]) -> FeatureEffects:
        clean = found.total["clean"]
        corrupt = found.total.get("corrupt", torch.full_like(clean, torch.nan))
        said = {key: fact for key, fact in described.items() if key != "nodes"}
        return FeatureEffects(nodes, found.total["effects"], clean, corrupt, found.provenance(said))

    return all_rows(model, task, partial(_measure, looking, nodes), keeping, finish)


@without_gradients
def _measure(looking: Looking, nodes: FeatureNodes, batch: Batch) -> Parts:
    seen, _ = looking.look(batch)
    ends = seen.metrics(looking.metric)
    found = torch.zeros(len(nodes), len(batch), dtype=torch.float64)
    for number, site in enumerate(looking.sites):
        chosen = (nodes.sites == number).nonzero()[:, 0]
        if len(chosen):
            found[chosen] = _at_site(looking, _Replacing.of(seen, site), nodes[chosen])
    return {"effects": ends["clean"][:, None] - found.T, **ends}


def _at_site(
    looking: Looking, replacing: "_Replacing", nodes: FeatureNodes
) -> Float[Tensor, "node example"]:
    """The metric where each node of a site is replaced alone, as many at once as memory allows."""
    batch, model, written = replacing.seen.batch, looking.model, replacing.site.written
    found = torch.zeros(len(nodes), len(batch), dtype=torch.float64)
    each = batch.clean.numel() * model.blocks[0].w_o.shape[2] * _BYTES_EACH

    def work(some: slice) -> None:
        n = some.stop - some.start
        own = nodes[torch.arange(some.start, some.stop)]
        hooks = [(place.hook, partial(replacing.put, own, at)) for at, place in written.items()]
        logits = model.answer_logits(batch.clean.repeat(n, 1), batch, hooks)
        for i, rows in enumerate(logits.unflatten(0, (n, -1)), start=some.start):
            found[i] = measure(looking.metric, rows, batch).double().cpu()

    in_tiles(len(nodes), each, batch.clean.device, work)
    return found


@dataclass(frozen=True, eq=False)
class _Replacing:
    """A site whose nodes are replaced, one in each copy of a batch."""

    seen: Seen
    site: Site
    missing: Coded

    @staticmethod
    def of(seen: Seen, site: Site) -> "_Replacing":
        clean, patch = seen.codes(site)
        return _Replacing(seen, site, patch - clean)

    def put(
        self, nodes: FeatureNodes, name: str, x: Float[Tensor, "rows pos ..."]
    ) -> Float[Tensor, "rows pos ..."]:
        """The activations at a site with each copy's node replaced."""
        out = x.unflatten(0, (len(nodes), -1)).clone()
        for copy, (at, change) in enumerate(self._changes(nodes, name)):
            rows, places = (part[at] for part in self.seen.tokens)
            out[copy, rows, places] += change.view(-1, *x.shape[2:]).to(out)
        return out.flatten(0, 1)

    def _changes(
        self, nodes: FeatureNodes, name: str
    ) -> Iterator[tuple[Int[Tensor, " some"], Float[Tensor, "some width"]]]:
        """The tokens where each node is replaced, and by how much what a site writes changes.

        Of an error, only its own site does.
        """
        places, like = self.seen.places, self.missing.features
        for position, feature in zip(
            nodes.positions.tolist(), nodes.features.tolist(), strict=True
        ):
            here = places >= 0 if position == EVERYWHERE else places == position
            at = here.nonzero()[:, 0]
            if feature == ERROR:
                at = at if name == self.site.name else at[:0]
                yield at, self.missing.error[at]
                continue
            row = self.site.rows(torch.tensor([feature], device=like.device), like, name)
            yield at, like[at, feature, None] * row


def _check(nodes: FeatureNodes, sites: tuple[Site, ...], setting: Setting, task: Task) -> None:
    """Refuse nodes of other dictionaries, or at positions that mean nothing.

    Raises:
        ValueError: as `exact_feature_effects`.
    """
    if nodes.places != tuple(site.name for site in sites):
        raise ValueError(
            f"these nodes are of {', '.join(nodes.places)}, and the dictionaries of "
            f"{', '.join(site.name for site in sites)}"
        )
    if nodes.by_position:
        replace(setting, by_position=True).check(task)
