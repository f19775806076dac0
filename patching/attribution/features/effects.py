"""Effects of all features and errors of a task, from one gradient at each place.

    effect of a feature = (f_clean - f_patch) (w . g)      of an error = (e_clean - e_patch) . g

with `g = d metric / d y` at the place, under any backward rule, at any run between clean and
patched. Together they are `(y_clean - y_patch) . g`. A feature that writes across layers has the
sum of `w . g` over its places, and all add up over all places. Marks et al. 2024, arXiv:2403.19647,
eq. 2 to 4; with the gradient of RelP, Rezaei Jafari et al. 2025, arXiv:2508.21258.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial, reduce

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from patching.attribution.features.ablations import FeatureAblation, resample
from patching.attribution.features.nodes import ERROR, EVERYWHERE, FeatureNodes
from patching.attribution.features.results import FeatureEffects
from patching.attribution.features.seen import Looking, Seen
from patching.attribution.features.sites import Coders, Site, facts_of, find_sites
from patching.metrics import Metric
from patching.model import Model
from patching.modes import without_gradients
from patching.paths import Path, at_clean
from patching.rules import Rule, plain
from patching.runs.batches import Doing, Found, Keeping, added_up, in_batches
from patching.tasks.task import Batch, Task
from patching.work import Parts, Run


@dataclass(frozen=True)
class Setting:
    """What features become, whether positions are kept apart, and how batches are done.

    `run` keeps batches that are done, of all that is computed with this setting.
    """

    ablation: FeatureAblation = resample
    by_position: bool = True
    batch_size: int = 16
    run: Run | None = None

    def doing(self, run: Run | None = None) -> Doing:
        """How batches are done: in the run that is given, or else in the setting's own."""
        return Doing(self.batch_size, self.run if run is None else run)

    def check(self, task: Task) -> None:
        """Refuse positions that do not mean the same in all prompts.

        Raises:
            ValueError: if prompts differ in length and positions are kept.
        """
        lengths = sorted({prompt.n_tokens for prompt in task.prompts})
        if self.by_position and len(lengths) > 1:
            raise ValueError(
                f"task {task.name!r} has prompts of {', '.join(map(str, lengths))} tokens, so a "
                "position does not mean the same in all; take those of one length, "
                "`task.of_length()`, or Setting(by_position=False)"
            )


def feature_effects(
    model: Model,
    task: Task,
    metric: Metric,
    dictionaries: Coders,
    *,
    rule: Rule = plain,
    path: Path = at_clean,
    setting: Setting = Setting(),  # noqa: B008 - a frozen value
    run: Run | None = None,
) -> FeatureEffects:
    """Estimate what each feature and error is worth: `metric(clean) - metric(with it replaced)`.

    >>> from patching import logit_diff, tasks
    >>> model = Model.load("toy-llama")
    >>> task = tasks.ioi(model.tokenizer, n=2, seed=0).of_length()
    >>> found = feature_effects(model, task, logit_diff, "neurons")
    >>> len(found.top(3)), found.nodes.places[:2]
    (3, ('m0', 'm1'))

    Args:
        model: whose features.
        task: prompts, in pairs where features are resampled.
        metric: with a gradient at the clean run; effects are in its units.
        dictionaries: autoencoders and transcoders, also across layers, or `"neurons"`: every MLP's
            own, which leave no error.
        rule: what gradient: `plain`, `relp`, `relp_ah`, ...
        path: where it is taken: `at_clean`, one backward pass for all places; `along_places()`,
            the integrated gradients of Marks et al. 2024; or `at_both`, `along_inputs(steps)`,
            whose gradients at all places are averaged over runs between the two prompts.
        setting: what replaces features, positions kept or summed, examples a run.
        run: where what is done is kept, batch by batch, and who does it; or else the setting's.

    Raises:
        Interrupted: with the effects on the first examples, if somebody interrupts.
        ValueError: if dictionaries, metric, path, model and task do not fit together, or positions
            are kept and do not mean the same in all prompts.
    """
    setting.check(task)
    sites = find_sites(model, dictionaries)
    looking = Looking(model, metric, sites, setting.ablation(model, sites), rule, path)
    looking.check(task)
    facts = {
        **facts_of(dictionaries),
        "quantity": "estimated effect",
        "positions": "kept" if setting.by_position else "summed",
    }
    method = "feature effects" if rule is plain else f"feature effects, {rule.name}"
    described = looking.describe(task, method, facts)
    doing = setting.doing(run)
    deciding = (metric, rule, path, setting.ablation, setting.by_position)
    keeping = Keeping("features", described, deciding, doing, called="effects of features")
    measure = partial(_measure, looking, setting)
    batches = in_batches(model, task, measure, keeping, join=joined, axes=_lengths)
    return added_up(batches, task, doing, _one_more, partial(_finish, sites, described))


@without_gradients
def _measure(looking: Looking, setting: Setting, batch: Batch) -> Parts:
    """Effects of one batch, as rows of example, site, position and feature, and their values."""
    seen, slopes = looking.look(batch)
    found = [
        part
        for number, site in enumerate(looking.sites)
        for part in _of_site(seen, number, site, slopes, setting)
    ]
    where = torch.cat([rows for rows, _ in found]).cpu()
    value = torch.cat([values for _, values in found]).cpu()
    return {"where": where, "value": value, **seen.metrics(looking.metric)}


def _of_site(
    seen: Seen, number: int, site: Site, slopes: Mapping[str, Tensor], setting: Setting
) -> list[tuple[Tensor, Tensor]]:
    clean, patch = seen.codes(site)
    missing = clean - patch
    g = {at: slopes[at].to(missing.features) for at in site.written}
    used = missing.features.any(dim=0).nonzero()[:, 0]
    differences = missing.features[:, used]
    rows = _rows(seen, setting)
    product = differences * site.slopes(g, used)
    parts = [_entries(seen, rows, product, differences != 0, number, used)]
    if site.leaves_errors:
        product = (missing.error * g[site.name]).sum(dim=1, keepdim=True)
        differ = missing.error.any(dim=1, keepdim=True)
        parts.append(_entries(seen, rows, product, differ, number, used.new_full((1,), ERROR)))
    return parts


def _rows(seen: Seen, setting: Setting) -> tuple[Tensor, int]:
    """Of each token, the number of its example and position, and how many these are.

    0 positions, and the number of the example alone, where they are summed. Rows of one example
    count as one.
    """
    rows, several = seen.tokens[0], seen.batch.several
    examples = rows if several is None else several.example[rows]
    if not setting.by_position:
        return examples, 0
    n = seen.batch.clean.shape[1]
    return examples * n + seen.places, n


def _entries(
    seen: Seen,
    rows: tuple[Tensor, int],
    product: Float[Tensor, "token some"],
    differ: Bool[Tensor, "token some"],
    number: int,
    features: Tensor,
) -> tuple[Tensor, Tensor]:
    """Products added up by row, of nodes that differ there: where they belong, and how large."""
    at, n = rows
    shape = (len(seen.batch) * max(n, 1), product.shape[1])
    sums = torch.zeros(shape, dtype=torch.float64, device=product.device)
    counts = torch.zeros(shape, device=product.device)
    sums.index_add_(0, at, product.double())
    row, column = counts.index_add_(0, at, differ.float()).nonzero(as_tuple=True)
    position = row % n if n else torch.full_like(row, EVERYWHERE)
    site = torch.full_like(row, number)
    where = torch.stack([row // max(n, 1), site, position, features[column]], dim=1)
    return where, sums[row, column]


def joined(first: Parts, second: Parts) -> Parts:
    """More examples of the same: their numbers go on."""
    where = second["where"].clone()
    where[:, 0] += len(first["clean"])
    rows = {name: torch.cat([part, second[name]]) for name, part in first.items()}
    return {**rows, "where": torch.cat([first["where"], where])}


def _lengths(part: str, measure: int, n_examples: int) -> Mapping[int, int | None]:
    """How many nodes differ is known when a batch is done."""
    return {0: None if part in ("where", "value") else n_examples}


def _one_more(before: Parts | None, batch: Sequence[Parts]) -> Parts:
    return reduce(joined, batch if before is None else [before, *batch])


def _finish(
    sites: Sequence[Site], described: dict[str, object], found: Found[Parts]
) -> FeatureEffects:
    """A table of all nodes that differ in any example."""
    where, clean = found.total["where"], found.total["clean"]
    shifted = where[:, 1:] + torch.tensor([0, 1, 1])
    sizes = (shifted.amax(dim=0) + 1).tolist() if len(where) else [1, 1, 1]
    keys = (shifted[:, 0] * sizes[1] + shifted[:, 1]) * sizes[2] + shifted[:, 2]
    keys, inverse = torch.unique(keys, return_inverse=True)
    values = torch.zeros(len(clean), len(keys), dtype=torch.float64)
    values.index_put_((where[:, 0], inverse), found.total["value"], accumulate=True)
    nodes = FeatureNodes(
        tuple(site.name for site in sites),
        tuple(site.letter for site in sites),
        keys // (sizes[1] * sizes[2]),
        keys // sizes[2] % sizes[1] - 1,
        keys % sizes[2] - 1,
    )
    corrupt = found.total.get("corrupt", torch.full_like(clean, torch.nan))
    return FeatureEffects(nodes, values, clean, corrupt, found.provenance(described))
