"""Direct edges between features: gradients of each target, stopped at all other places between.

    weight of source u on target d = (u_clean - u_patch) . d f_d / d u * d metric / d f_d

Every place's value is cut off from what made it, so that one backward pass of a target reaches the
places before it without passing another; many targets are taken at once. What features read is
linear where they are active, so that their gradients need no pass through a dictionary. A feature
that writes across layers is a source at all its places, and the errors there are what is left
without it too. Marks et al. 2024, arXiv:2403.19647, appendix A.1.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from circuits.features.cut import Cut
from patching.anatomy.blocks import widen
from patching.attribution.features import FeatureNodes, Setting, find_sites
from patching.attribution.features.nodes import EVERYWHERE
from patching.attribution.features.seen import Looking, Seen
from patching.attribution.features.sites import Coded, Coders, Site, facts_of
from patching.memory import in_tiles
from patching.metrics import Metric, measure_sloped
from patching.model import Model
from patching.modes import with_gradients
from patching.paths import Path, at_clean
from patching.rules import Rule, plain
from patching.runs.batches import Found, Keeping, all_sums
from patching.tasks.task import Batch, Task
from patching.work import Parts


def direct_edges(
    model: Model,
    task: Task,
    metric: Metric,
    dictionaries: Coders,
    nodes: FeatureNodes,
    *,
    rule: Rule = plain,
    path: Path = at_clean,
    setting: Setting = Setting(),  # noqa: B008 - a frozen value
) -> Float[Tensor, "target source"]:
    """Weights of all edges between some nodes, in units of the metric, means over examples.

    The last row is that of edges to the metric itself. `path` says where the gradients of the
    metric at targets are taken; those between nodes are of the clean run.

    Raises:
        Interrupted: if somebody interrupts.
        ValueError: as `feature_effects`.
    """
    sites = find_sites(model, dictionaries)
    looking = Looking(model, metric, sites, setting.ablation(model, sites), rule, path)
    looking.check(task)
    if nodes.by_position:
        setting.check(task)
    described = looking.describe(task, "feature edges", facts_of(dictionaries))
    deciding = (metric, rule, path, setting.ablation, nodes.keys)
    keeping = Keeping("feature-edges", described, deciding, setting.doing())

    def finish(found: Found[Parts]) -> Float[Tensor, "target source"]:
        return found.total["edges"] / found.n_examples

    return all_sums(model, task, partial(_measure, looking, nodes), keeping, finish)


def _measure(looking: Looking, nodes: FeatureNodes, batch: Batch) -> Parts:
    """Edges of one batch, summed over its examples."""
    with torch.no_grad():
        seen, slopes = looking.look(batch)
        codes = [seen.codes(site) for site in looking.sites]
    ends = [
        _Ends(seen, site, nodes, number, clean, clean - patch, slopes)
        for number, (site, (clean, patch)) in enumerate(zip(looking.sites, codes, strict=True))
    ]
    cut = Cut(looking.model, looking.sites)
    ruled = looking.rule.start(looking.model)
    with with_gradients():
        logits = looking.model.answer_logits(seen.batch.clean, seen.batch, cut.hooks(ruled.hooks))
        total = measure_sloped(looking.metric, logits, seen.batch).sum()
    ruled.check()
    edges = torch.zeros(len(nodes) + 1, len(nodes), dtype=torch.float64)
    for number, end in enumerate(ends):
        if number and len(end.numbers):
            _add_rows(edges, cut, end, ends[:number])
    leaves = [cut.leaves[site.name] for site in looking.sites]
    direct = torch.autograd.grad(total, leaves, allow_unused=True, materialize_grads=True)
    slopes = {end.site.name: end.at(found[None]) for end, found in zip(ends, direct, strict=True)}
    for end in ends:
        edges[-1, end.numbers] = end.weigh(slopes)[0]
    return {"edges": edges}


def _add_rows(
    edges: Float[Tensor, "target source"], cut: "Cut", end: "_Ends", before: Sequence["_Ends"]
) -> None:
    """The rows of all targets at one place, as many at once as memory allows."""
    x, y = cut.incoming[end.site.name]
    leaves = [cut.leaves[other.site.name] for other in before]
    helping = [
        (other, cut.incoming[other.site.name][0])
        for other in before
        if end.site.name in other.site.written
    ]

    def work(some: slice) -> None:
        seeds = end.seeds(some, x, y)
        outputs, given = ([y], [seeds[0] + seeds[1]]) if x is y else ([x, y], list(seeds))
        outputs += [read for _, read in helping]
        given += [end.rebuilt_by(some, other, read) for other, read in helping]
        found = torch.autograd.grad(
            outputs,
            leaves,
            given,
            retain_graph=True,
            is_grads_batched=True,
            allow_unused=True,
        )
        reached = {
            other.site.name: other.at(gradient)
            for other, gradient in zip(before, found, strict=True)
            if gradient is not None  # of attention and MLP side by side, neither feeds the other
        }
        for other in before:
            if reached.keys() & other.site.written.keys():
                edges[end.numbers[some, None], other.numbers] = other.weigh(reached)

    if x.requires_grad or y.requires_grad:
        each = y.numel() * y.element_size() * (2 * len(leaves) + 4)
        in_tiles(len(end.numbers), each, y.device, work)


@dataclass(eq=False)
class _Ends:
    """The nodes of one site, as targets and as sources of edges."""

    seen: Seen
    site: Site
    nodes: FeatureNodes
    number: int
    clean: Coded
    missing: Coded
    slopes: Mapping[str, Float[Tensor, "token _width"]]
    numbers: Int[Tensor, " own"] = field(init=False)
    features: Int[Tensor, " own"] = field(init=False)
    positions: Int[Tensor, " own"] = field(init=False)

    def __post_init__(self) -> None:
        self.numbers = (self.nodes.sites == self.number).nonzero()[:, 0]
        device = self.slopes[self.site.name].device
        self.features = self.nodes.features[self.numbers].to(device)
        self.positions = self.nodes.positions[self.numbers].to(device)

    def seeds(
        self, some: slice, x: Float[Tensor, "row pos ..."], y: Float[Tensor, "row pos ..."]
    ) -> tuple[Tensor, Tensor]:
        """By what of its input and of its output each target moves the metric, one row a target.

        A feature that is active moves by its encoder's row; an error by all that is written, less
        what all active features make of it.
        """
        features, g = self.features[some], self.slopes[self.site.name]
        here = self._tokens(self.positions[some])
        errors = features < 0
        by_y = torch.where(errors[:, None] & here, 1.0, 0.0).to(g)[..., None] * g
        dictionary = self.site.dictionary
        if dictionary is None:
            chosen = torch.zeros_like(by_y)
            picked = g[:, features].T * here
            chosen.scatter_(2, features[:, None, None].expand(-1, len(g), 1), picked[..., None])
            return self._whole(torch.zeros_like(chosen), x), self._whole(chosen, y)
        f = self.clean.features
        known = features.clamp(min=0)
        strength = self.site.slopes(self.slopes, known).T * (f[:, known].T != 0) * here
        rows = dictionary.reads_of(known).to(g)
        by_x = (strength * ~errors[:, None])[..., None] * rows[:, None]
        if bool(errors.any()):
            passed = _through(self.site, {self.site.name: g}, f)
            by_x[errors] = -passed * here[errors, :, None]
        return self._whole(by_x, x), self._whole(by_y, y)

    def rebuilt_by(
        self, some: slice, other: "_Ends", x: Float[Tensor, "row pos ..."]
    ) -> Float[Tensor, "target row pos ..."]:
        """By what of the input of a site that writes here too each target, an error, moves it."""
        g = self.slopes[self.site.name]
        here = self._tokens(self.positions[some]) & (self.features[some] < 0)[:, None]
        passed = _through(other.site, {self.site.name: g}, other.clean.features)
        return self._whole(-passed * here[..., None], x)

    def at(
        self, gradient: Float[Tensor, "target row pos ..."]
    ) -> Float[Tensor, "target token width"]:
        """Some targets' gradients at this site, at the tokens of nodes."""
        return widen(gradient[:, *self.seen.tokens].flatten(2))

    def weigh(
        self, gradients: Mapping[str, Float[Tensor, "target token _width"]]
    ) -> Float[Tensor, "target own"]:
        """What each source of this site is worth by some targets' gradients where it writes."""
        errors = self.features < 0
        known = self.features.clamp(min=0)
        here = self._tokens(self.positions).to(self.missing.features)
        product = self.site.slopes(gradients, known) * self.missing.features[:, known]
        out = torch.einsum("nto,ot->no", product, here.to(product))
        if bool(errors.any()):
            at = gradients.get(self.site.name)
            if at is None:  # only further places of its features were reached
                return out.masked_fill(errors, 0).double().cpu()
            by_error = torch.einsum("ntd,td->nt", at, self.missing.error.to(at))
            out = torch.where(errors, by_error @ here.to(at).T, out)
        return out.double().cpu()

    def _tokens(self, positions: Int[Tensor, " some"]) -> Bool[Tensor, "some token"]:
        """Which tokens belong to nodes at some positions."""
        return (positions[:, None] == self.seen.places) | (positions[:, None] == EVERYWHERE)

    def _whole(
        self, values: Float[Tensor, "target token width"], like: Float[Tensor, "row pos ..."]
    ) -> Float[Tensor, "target row pos ..."]:
        out = like.new_zeros(len(values), *like.shape)
        out[:, *self.seen.tokens] = values.unflatten(2, like.shape[2:]).to(out)
        return out


def _through(
    site: Site, g: Mapping[str, Float[Tensor, "token width"]], f: Float[Tensor, "token feature"]
) -> Float[Tensor, "token d_in"]:
    """The gradient of all that active features write at sites that g knows, by what they read."""
    used = f.any(dim=0).nonzero()[:, 0]
    assert site.dictionary is not None, "neurons leave no error"
    strength = site.slopes(g, used) * (f[:, used] != 0)
    return strength @ site.dictionary.reads_of(used).to(strength)
