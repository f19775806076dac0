"""A clean run and what stands in for its writes: what every pass over circuits starts from."""

from dataclasses import dataclass, replace
from functools import cached_property, partial

from jaxtyping import Bool, Float, Int
from torch import Tensor

from circuits.running.starts import replaced_projections, replaced_streams
from patching.ablations import Prepared
from patching.anatomy.blocks import FINAL_STREAM
from patching.capture import Recorder, Run, Writes, indices
from patching.model import Model
from patching.modes import without_gradients
from patching.runs.narrowed import Hooks, Narrowed, differing
from patching.runs.recorded import record, stream_points
from patching.tasks.task import Batch


@dataclass(frozen=True)
class Pair:
    """The clean run and what replaces removed writers, for use in `run_circuits`.

    `tokens` are those where the two differ; `replaced` is what stands in for the writes there.
    All of it lies on the model's home device: every reader mixes writes of several layers.
    `streams` and `mlp_outs` are the clean run's, whole, by hook point. `nothing_kept` holds, at
    `tokens` and by hook point, the streams that readers see when everything is removed, and the
    queries, keys and values of them. Where replacements come from a corrupt run, `corrupt` is it.
    What is kept at `tokens` is in their order, or in that of their spans (`order`), whose numbers
    are then `span`.
    """

    tokens: Bool[Tensor, "batch pos"]
    clean: Run
    replaced: Writes
    streams: dict[str, Float[Tensor, "batch pos d_model"]]
    mlp_outs: dict[str, Float[Tensor, "batch pos d_model"]]
    corrupt: Run | None
    nothing_kept: dict[str, Float[Tensor, "token ..."]]
    order: Int[Tensor, " token"] | None = None
    span: Int[Tensor, " token"] | None = None

    @cached_property
    def places(self) -> tuple[Int[Tensor, " token"], Int[Tensor, " token"]]:
        """Row and position of each token, in the order in which they are kept."""
        rows, places = indices(self.tokens)
        return (rows, places) if self.order is None else (rows[self.order], places[self.order])

    def by_span(self, span: Int[Tensor, "row pos"]) -> "Pair":
        """The same with tokens in the order of their spans, of these numbers."""
        number = span[self.tokens]
        order = number.argsort(stable=True)
        kept = {name: part[order] for name, part in self.nothing_kept.items()}
        return replace(
            self,
            clean=replace(self.clean, writes=self.clean.writes[order]),
            replaced=self.replaced[order],
            nothing_kept=kept,
            order=order,
            span=number[order],
        )


@without_gradients
def run_pair(model: Model, batch: Batch, ablation: Prepared) -> Pair:
    """Run the clean prompts, and the corrupt ones where the ablation uses them."""
    tokens = ablation.tokens(batch)
    chosen = indices(tokens)
    recorder = Recorder(model, tokens)
    there = differing(batch, tokens) if ablation.paired else None
    narrowed = Narrowed(model, batch, there, at_answers=False)
    with narrowed.running():
        whole = record(model, batch.clean, batch, recorder.hooks)
    clean = recorder.finish(whole.logits)
    streams = dict(zip(stream_points(model), whole.streams, strict=True))
    mlp_outs = {block.mlp_out: out for block, out in zip(model.blocks, whole.mlps, strict=True)}
    corrupt, seen = None, {}
    if ablation.paired:
        with narrowed.running() as last:
            corrupt, seen = _run_corrupt(model, batch, tokens, last)
    replaced = ablation.replace(batch, clean, corrupt).writes.to(model.device)
    if corrupt is None:
        seen = replaced_streams(model, replaced, clean.positions[chosen])
        narrow = {name: seen[name].to(streams[name].dtype) for name in streams}
        seen |= replaced_projections(model, narrow)
    clean = replace(clean, writes=clean.writes.to(model.device))
    return Pair(tokens, clean, replaced, streams, mlp_outs, corrupt, seen)


def _run_corrupt(
    model: Model, batch: Batch, tokens: Bool[Tensor, "batch pos"], last: Hooks
) -> tuple[Run, dict[str, Float[Tensor, "token ..."]]]:
    """The corrupt run, and what its readers see and attention makes of it at `tokens`."""
    chosen, seen = indices(tokens), {}
    names = {FINAL_STREAM}
    for block in model.blocks:
        names |= {block.stream_in, block.mlp_stream, *block.projections}
    recorder = Recorder(model, tokens)
    hooks = [(name, partial(_keep_chosen, seen, chosen, name)) for name in names]
    logits = model.answer_logits(batch.corrupt, batch, [*recorder.hooks, *hooks, *last])
    return recorder.finish(logits), seen


def _keep_chosen(
    store: dict[str, Tensor],
    chosen: tuple[Tensor, ...],
    name: str,
    tensor: Float[Tensor, "batch pos ..."],
) -> None:
    store[name] = tensor[chosen]
