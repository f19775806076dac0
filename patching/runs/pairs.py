"""Both runs of a batch of pairs: one to be patched, the other to patch with."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from jaxtyping import Float
from torch import Tensor

from patching.anatomy.kept import Keeper
from patching.anatomy.places import Place
from patching.metrics import Metric, measure
from patching.model import Model
from patching.runs.patches import Base, Pass, Spots, record
from patching.tasks.task import Batch


@dataclass(frozen=True)
class Pair:
    """What both runs left behind, and their metric (float64, on the CPU)."""

    base: Base
    direction: str
    clean: Float[Tensor, " example"]
    corrupt: Float[Tensor, " example"]

    def effect(
        self,
        model: Model,
        metric: Metric,
        spots: Spots,
        places: tuple[Place, ...],
        each_unit: bool = False,
    ) -> Float[Tensor, "spot unit"]:
        """What patching some spots changes; positive where the clean activation helps."""
        values = Pass(model, metric, self.base, places, each_unit).values(spots)
        example = spots.example.cpu()
        if self.direction == "denoising":
            return values - self.corrupt[example, None]
        return self.clean[example, None] - values


def run_pair(
    model: Model, batch: Batch, metric: Metric, places: Sequence[Place], direction: str
) -> Pair:
    """Run the clean and the corrupt prompts, and keep what patches of `places` need."""
    denoising = direction == "denoising"
    base_tokens, source_tokens = batch.corrupt, batch.clean
    if not denoising:
        base_tokens, source_tokens = source_tokens, base_tokens
    keeper = Keeper({place.name: place for place in places})
    source_logits = model.answer_logits(source_tokens, batch, keeper.hooks)
    base_logits, streams, mlps = record(model, base_tokens, batch)
    clean, corrupt = (source_logits, base_logits) if denoising else (base_logits, source_logits)
    batch = replace(batch, clean_logits=clean)
    sources = {place.name: at_hook(keeper.values[place.name], place, streams) for place in places}
    base = Base(batch, base_tokens, batch.can_differ, streams, mlps, sources)
    ends = [measure(metric, logits, batch).double().cpu() for logits in (clean, corrupt)]
    return Pair(base, direction, *ends)


def at_hook(
    value: Float[Tensor, "example ..."],
    place: Place,
    streams: tuple[Float[Tensor, "example pos d_model"], ...],
) -> Float[Tensor, "example ..."]:
    """What the tensor at a place's hook point must be for the place to have a value.

    Between attention and MLP, the stream is what attention writes and the stream before.
    """
    if place.offset is None:
        return value
    assert place.kind == "resid_mid", "of swept kinds, no other is made of two tensors"
    return value - place.offset[1] * streams[place.layer]
