"""A clean run and what stands in for its writes: what every pass over circuits starts from."""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from patching.ablations import Prepared
from patching.anatomy.blocks import FINAL_STREAM
from patching.capture import Recorder, Run, Writes, indices
from patching.model import Hook, Model
from patching.tasks.task import Batch


@dataclass(frozen=True)
class Pair:
    """The clean run and what replaces removed writers, for use in `run_circuits`.

    `tokens` are those where the two differ; `replaced` is what stands in for the writes there.
    All of it lies on the model's home device: every reader mixes writes of several layers.
    `streams` and `mlp_outs` are the clean run's, whole, by hook point. Where removed writers come
    from a corrupt run, `corrupt` is that run and `corrupt_streams` and `corrupt_projections` hold,
    at `tokens`, what a reader sees when everything is removed.
    """

    tokens: Bool[Tensor, "batch pos"]
    clean: Run
    replaced: Writes
    streams: dict[str, Float[Tensor, "batch pos d_model"]]
    mlp_outs: dict[str, Float[Tensor, "batch pos d_model"]]
    corrupt: Run | None
    corrupt_streams: dict[str, Float[Tensor, "token d_model"]]
    corrupt_projections: dict[str, Float[Tensor, "token head d_head"]]


@torch.no_grad()
def run_pair(model: Model, batch: Batch, ablation: Prepared) -> Pair:
    """Run the clean prompts, and the corrupt ones where the ablation uses them."""
    tokens = ablation.tokens(batch)
    chosen = indices(tokens)
    streams: dict[str, Tensor] = {}
    mlp_outs: dict[str, Tensor] = {}
    corrupt_streams: dict[str, Tensor] = {}
    projections: dict[str, Tensor] = {}

    def keep(store: dict[str, Tensor], name: str) -> tuple[str, Hook]:
        return name, lambda tensor: store.update({name: tensor})

    def keep_chosen(store: dict[str, Tensor], name: str) -> tuple[str, Hook]:
        return name, lambda tensor: store.update({name: tensor[chosen]})

    recorder = Recorder(model, tokens)
    hooks = [keep(streams, name) for name in [b.stream_in for b in model.blocks] + [FINAL_STREAM]]
    hooks += [keep(mlp_outs, block.mlp_out) for block in model.blocks]
    clean = recorder.finish(model.answer_logits(batch.clean, batch, [*recorder.hooks, *hooks]))
    corrupt = None
    if ablation.paired:
        recorder = Recorder(model, tokens)
        hooks = [keep_chosen(corrupt_streams, FINAL_STREAM)]
        for block in model.blocks:
            for name in {block.stream_in, block.mlp_stream}:
                hooks.append(keep_chosen(corrupt_streams, name))
            hooks += [keep_chosen(projections, name) for name in block.qkv]
        logits = model.answer_logits(batch.corrupt, batch, [*recorder.hooks, *hooks])
        corrupt = recorder.finish(logits)
    replaced = ablation.replace(batch, clean, corrupt).writes.to(model.device)
    clean = replace(clean, writes=clean.writes.to(model.device))
    return Pair(tokens, clean, replaced, streams, mlp_outs, corrupt, corrupt_streams, projections)
