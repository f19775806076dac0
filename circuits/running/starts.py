"""The stream in which every writer is replaced: where the sum of a reader that keeps little starts.

    replaced stream = learned positions + biases that no writer owns + sum_s replacement_s

Made of these few terms, it is right to the last bits. Taking everything off a live stream again
would leave only rounding, and a norm that has nothing else to read would blow that up.
"""

from collections.abc import Mapping

from jaxtyping import Float
from torch import Tensor

from patching.anatomy.blocks import FINAL_STREAM, widen
from patching.capture import Writes
from patching.model import Model


def replaced_streams(
    model: Model, replaced: Writes, positions: Float[Tensor, "#token #d_model"]
) -> dict[str, Float[Tensor, "_ d_model"]]:
    """What readers see where everything is replaced, by the hook point of the stream they read.

    `positions` is what learned position embeddings add at these tokens; zeros, of any size that
    broadcasts, where there are none. In the wider type of both, and differentiable by `replaced`.
    """
    streams: dict[str, Tensor] = {}
    total = widen(positions) + replaced.embed
    for block, heads, mlp in zip(model.blocks, replaced.heads, replaced.mlps, strict=True):
        streams[block.stream_in] = total
        attended = total + block.attention_write(heads.to(total))
        streams[block.mlp_stream] = total if block.parallel else attended
        total = attended + mlp.to(total)
    return streams | {FINAL_STREAM: total}


def replaced_projections(
    model: Model, streams: Mapping[str, Float[Tensor, "token d_model"]]
) -> dict[str, Float[Tensor, "token head d_head"]]:
    """All that attention makes of these streams, by hook point."""
    found: dict[str, Tensor] = {}
    for block in model.blocks:
        x = streams[block.stream_in]
        x = x if block.attention_norm is None else block.attention_norm(x)
        for part, (name, w) in enumerate(zip(block.projections, block.w_projections, strict=True)):
            every = x.expand(len(w), *x.shape)
            found[name] = block.projected(part, every).transpose(0, 1)
    return found
