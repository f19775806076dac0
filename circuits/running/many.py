"""Exact edge interventions: many circuits at once, as rows of one batch.

Every row runs the clean prompt; readers take what the live writers sum to, with the writers of
removed edges replaced (see `plan`). Circuits that first differ from the clean run at the same layer
share passes, which start there (see `circuit_pass`). What one circuit's rows compute never depends
on which others share its pass.
"""

from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.running.batched import run_pass
from circuits.running.pair import Pair
from circuits.running.plan import Plan, make_plans
from patching.memory import current
from patching.model import Model
from patching.tasks.task import Batch

CHUNK_BYTES = 5 * 2**25
MAX_ROWS = 1024


@torch.no_grad()
def run_circuits(
    model: Model, batch: Batch, pair: Pair, removed: Float[Tensor, "circuit source dest"]
) -> Iterator[tuple[list[int], Float[Tensor, "chunk batch vocab"]]]:
    """Logits at the answer positions of every circuit: some circuits at a time, in any order.

    `removed` is 1 for removed edges, 0 for kept ones and non-edges; values between blend both.
    Passes take what fits in `CHUNK_BYTES` (or the memory budget) and `MAX_ROWS`.
    """
    coupled = [block.couples_heads for block in model.blocks]
    removed = removed.to("cpu", pair.replaced.embed.dtype)
    plans = make_plans(removed, model.graph, paired=pair.corrupt is not None, coupled=coupled)
    by_layer: dict[int, list[int]] = {}
    for i, plan in enumerate(plans):
        if plan.first_layer is None:
            yield [i], pair.clean.logits[None]
        elif plan.is_corrupt and pair.corrupt is not None:
            yield [i], pair.corrupt.logits[None]
        else:
            by_layer.setdefault(plan.first_layer, []).append(i)
    for together in by_layer.values():
        for chunk in _chunks(model, pair.replaced.embed, len(batch), plans, together):
            yield chunk, run_pass(model, batch, pair, [plans[i] for i in chunk])


def _chunks(
    model: Model,
    like: Float[Tensor, "token d_model"],
    n_examples: int,
    plans: Sequence[Plan],
    chosen: Sequence[int],
) -> Iterator[list[int]]:
    """Circuits to be run together: as many as memory and rows allow.

    A circuit keeps one row of `like` for each writer it uses, and while its attention readers are
    put together some for each of them.
    """
    memory = current()
    limit = memory.bytes_on(like.device) if memory.limit else CHUNK_BYTES
    row = like.numel() * like.element_size()
    chunk: list[int] = []
    room, most = limit, max(1, MAX_ROWS // n_examples)
    for i in chosen:
        size = (len(plans[i].used) + 16) * row
        if chunk and (size > room or len(chunk) == most):
            yield chunk
            chunk, room = [], limit
        chunk.append(i)
        room -= size
    if chunk:
        yield chunk
