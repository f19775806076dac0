"""Both runs of a batch of pairs: one to be patched, the other to patch with."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from patching.anatomy.kept import Keeper
from patching.anatomy.places import Place
from patching.files.brief import briefly
from patching.metrics import Metric, measure
from patching.model import Model
from patching.runs.recorded import Recorded, record
from patching.runs.spots import Reach
from patching.tasks.task import Batch


@briefly
@dataclass(frozen=True, eq=False)
class BothRuns:
    """The run that is patched, what the other run has for each place, and what patches can reach.

    `clean` and `corrupt` are the metric of both runs (float64, on the CPU).
    """

    base: Recorded
    sources: Mapping[str, Float[Tensor, "row ..."]]
    reach: Reach
    direction: str
    clean: Float[Tensor, " example"]
    corrupt: Float[Tensor, " example"]

    def effects(
        self, values: Float[Tensor, "spot unit"], example: Tensor
    ) -> Float[Tensor, "spot unit"]:
        """What patches have changed, from the metric under them; positive if clean helps."""
        if self.direction == "denoising":
            return values - self.corrupt[example, None]
        return self.clean[example, None] - values


def run_both(
    model: Model, batch: Batch, metric: Metric, places: Sequence[Place], direction: str
) -> BothRuns:
    """Run the clean and the corrupt prompts, and keep what patches of `places` need."""
    denoising = direction == "denoising"
    base_tokens, source_tokens = batch.corrupt, batch.clean
    if not denoising:
        base_tokens, source_tokens = source_tokens, base_tokens
    keeper = Keeper({place.name: place for place in places})
    source_logits = model.answer_logits(source_tokens, batch, keeper.hooks)
    base = record(model, base_tokens, batch)
    logits = (source_logits, base.logits) if denoising else (base.logits, source_logits)
    base = replace(base, batch=replace(batch, clean_logits=logits[0]))
    ends = measured(metric, logits, base.batch)
    sources = {place.name: at_hook(keeper.values[place.name], place, base) for place in places}
    return BothRuns(base, sources, Reach.of(batch, batch.can_differ), direction, *ends)


def measured(
    metric: Metric, logits: Sequence[Float[Tensor, "asked vocab"]], batch: Batch
) -> tuple[Float[Tensor, " example"], ...]:
    """The metric of several runs of a batch, in float64 on the CPU."""
    values = [measure(metric, some, batch).double() for some in logits]
    return tuple(torch.stack(values).cpu())


def at_hook(
    value: Float[Tensor, "row ..."], place: Place, base: Recorded
) -> Float[Tensor, "row ..."]:
    """What the tensor at a place's hook point must be for the place to have a value.

    Between attention and MLP, the stream is what attention writes and the stream before.
    """
    if place.offset is None:
        return value
    assert place.kind == "resid_mid", "of swept kinds, no other is made of two tensors"
    return value - place.offset[1] * base.streams[place.layer]
