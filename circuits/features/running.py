"""Running a model with everything outside a feature circuit replaced, many circuits at a time.

At every place, features are read anew from what is there now; those outside become what replaces
them, and so does the error. With all nodes in the circuit that is the clean run, to the last bit;
with none (and features resampled) the corrupt one. Features that write across layers change what
later places hand on. Marks et al. 2024, arXiv:2403.19647.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from circuits.features.replacing import Handling, Inside, Walk
from patching.attribution.dropping import NOWHERE
from patching.attribution.features import FeatureNodes, find_sites
from patching.attribution.features.seen import Looking
from patching.attribution.features.sites import Coders, Site, facts_of
from patching.files.brief import briefly
from patching.memory import in_tiles
from patching.metrics import Metric, measure
from patching.model import Model
from patching.modes import without_gradients
from patching.rules import plain
from patching.runs.batches import Found, Keeping, all_rows
from patching.tasks.task import Batch, Task
from patching.work import Parts, Run

_BYTES_A_FEATURE = 32  # of each token of a circuit's rows, at one site
_BYTES_A_DIMENSION = 80  # at the peak of a block


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
    distinct, which = asked[:1], torch.zeros(len(asked), dtype=torch.long)
    if len(nodes):
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
        Inside(seen, site, nodes[chosen], kept[:, chosen], handling)
        for site, chosen in zip(looking.sites, own, strict=True)
    ]
    values = torch.empty(len(kept), len(batch), dtype=torch.float64)
    most, d_model = max(site.n_features for site in looking.sites), _d_model(looking.model)
    each = batch.clean.numel() * (_BYTES_A_FEATURE * most + _BYTES_A_DIMENSION * d_model)

    def work(some: slice) -> None:
        n = some.stop - some.start
        hooks = Walk(inside, some).hooks()
        rows = batch.clean.repeat(n, 1)
        logits = looking.model.answer_logits(rows, seen.batch, hooks).unflatten(0, (n, -1))
        for i, own in enumerate(logits, start=some.start):
            values[i] = measure(looking.metric, own, seen.batch).double().cpu()

    in_tiles(len(kept), each, batch.clean.device, work)
    return {"values": values.T.contiguous(), "clean": seen.metrics(looking.metric)["clean"]}


def _d_model(model: Model) -> int:
    return model.blocks[0].w_o.shape[2]
