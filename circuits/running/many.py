"""Exact edge interventions: many circuits at once, as rows of one batch.

Every row runs the clean prompt; readers take what the live writers sum to, with the writers of
removed edges replaced (see `plan`). Where arithmetic is what costs, circuits that first differ from
the clean run at the same layer share passes, which start there and skip what each does not need
(see `batched`); where launches are, as many as fit share one structure (see `grouped` and
`patching.memory.grouping`). What one circuit's rows compute never depends on which others share its
pass.
"""

from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.running.batched import run_pass
from circuits.running.grouped import run_group
from circuits.running.groups import n_values
from circuits.running.pair import Pair
from circuits.running.plan import Plan, make_plans
from patching.memory import current, in_tiles, takes_many
from patching.metrics import Metric, measure
from patching.model import Model
from patching.modes import without_gradients
from patching.tasks.task import Batch

CHUNK_BYTES = 5 * 2**25
MAX_ROWS = 1024

Found = tuple[list[int], Float[Tensor, "chunk batch vocab"]]


@torch.no_grad()
def run_circuits(
    model: Model, batch: Batch, pair: Pair, removed: Float[Tensor, "circuit source dest"]
) -> Iterator[Found]:
    """Logits at the answer positions of every circuit: some circuits at a time, in any order.

    `removed` is 1 for removed edges, 0 for kept ones and non-edges; values between blend both.
    Passes take what fits in `CHUNK_BYTES` (or the memory budget) and `MAX_ROWS`; groups what fits
    in the budget, or in half of what is free.
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
    if takes_many(model.device):
        order = [i for _, together in sorted(by_layer.items()) for i in together]
        yield from _in_groups(model, batch, pair, plans, order)
        return
    for together in by_layer.values():
        for chunk in _chunks(model, pair.replaced.embed, len(batch), plans, together):
            yield chunk, run_pass(model, batch, pair, [plans[i] for i in chunk])


@without_gradients
def measure_circuits(
    model: Model,
    batch: Batch,
    pair: Pair,
    removed: Float[Tensor, "circuit source dest"],
    metrics: Sequence[Metric],
    *,
    seen: Batch | None = None,
) -> Float[Tensor, "metric circuit batch"]:
    """What metrics say of every circuit, on the CPU; they see `batch` or, where given, `seen`."""
    values = torch.empty(len(metrics), len(removed), len(batch), dtype=torch.float64)
    for chunk, some in run_circuits(model, batch, pair, removed):
        values[:, chunk] = _measure(model, metrics, some, batch if seen is None else seen)
    return values


def _measure(
    model: Model, metrics: Sequence[Metric], logits: Float[Tensor, "circuit batch _"], batch: Batch
) -> Float[Tensor, "metric circuit batch"]:
    """All circuits of a group at once, as more examples; else one by one."""
    n = len(logits)
    if takes_many(model.device) and n > 1:
        rows = torch.arange(len(batch), device=model.device).repeat(n)
        parts, batch = [logits.flatten(0, 1)], batch.at(rows)
    else:
        parts = list(logits)
    found = [[measure(metric, part, batch) for part in parts] for metric in metrics]
    values = torch.stack([torch.cat(by_circuit) for by_circuit in found])
    return values.double().cpu().unflatten(1, (n, -1))


def _in_groups(
    model: Model, batch: Batch, pair: Pair, plans: Sequence[Plan], order: Sequence[int]
) -> list[Found]:
    """Groups of circuits in this order, as many together as fit.

    A token of a circuit takes what `n_values` says, and what the model itself has of a layer.
    """
    found: list[Found] = []
    if not order:
        return found

    def run(span: slice) -> None:
        chunk = list(order[span])
        found.append((chunk, run_group(model, batch, pair, [plans[i] for i in chunk])))

    like, width = pair.replaced.embed, pair.replaced.embed.shape[1]
    inside = batch.clean.numel() * (16 * width + model.graph.n_heads * batch.clean.shape[1])
    each = n_values([plans[i] for i in order]) * like.numel() + inside
    in_tiles(len(order), each * like.element_size(), model.device, run, share=0.5)
    return found


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
