"""Exact edge interventions: many circuits at once, as rows of one batch.

Every row runs the clean prompt; readers take what the live writers sum to, with the writers of
removed edges replaced (see `plan`). Where arithmetic is what costs, circuits that first differ from
the clean run at the same layer share passes, which start there and skip what each does not need;
where launches are, as many as fit share one structure (see `batched` and
`patching.memory.grouping`). What one circuit's rows compute never depends on which others share its
pass.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.running.batched import run_pass
from circuits.running.groups import n_values
from circuits.running.pair import Pair
from circuits.running.plan import Plan, make_plans
from patching.memory import in_tiles, takes_many
from patching.metrics import Metric, measure
from patching.model import Model
from patching.modes import without_gradients
from patching.progress import within
from patching.tasks.task import Batch

Found = tuple[list[int], Float[Tensor, "chunk asked vocab"]]

Use = Callable[[list[int], Float[Tensor, "chunk asked vocab"]], None]
"""What is done with some circuits' logits; one row stands for all where they are the same run."""


@torch.no_grad()
def run_circuits(
    model: Model, batch: Batch, pair: Pair, removed: Float[Tensor, "circuit source dest *span"]
) -> Iterator[Found]:
    """Logits at the answer positions of every circuit: some circuits at a time, in any order.

    `removed` is 1 for removed edges, 0 for kept ones and non-edges; values between blend both. With
    a span axis, edges are removed at the tokens of the batch's spans. Passes take what fits in the
    memory budget, and groups in that or in half of what is free.
    """
    found: list[Found] = []
    _run(model, batch, pair, removed, lambda chunk, logits: found.append((chunk, logits)))
    for chunk, logits in found:
        yield chunk, logits.expand(len(chunk), -1, -1)


@without_gradients
def measure_circuits(
    model: Model,
    batch: Batch,
    pair: Pair,
    removed: Float[Tensor, "circuit source dest *span"],
    metrics: Sequence[Metric],
    *,
    seen: Batch | None = None,
) -> Float[Tensor, "metric circuit batch"]:
    """What metrics say of every circuit, on the CPU; they see `batch` or, where given, `seen`."""
    values = torch.empty(len(metrics), len(removed), len(batch), dtype=torch.float64)
    use = partial(_measure, values, model, metrics, batch if seen is None else seen)
    _run(model, batch, pair, removed, use)
    return values


def _measure(
    values: Float[Tensor, "metric circuit batch"],
    model: Model,
    metrics: Sequence[Metric],
    batch: Batch,
    chunk: list[int],
    logits: Float[Tensor, "chunk asked _"],
) -> None:
    """Put some circuits' values in: of a group at once, as more examples; else one by one."""
    n = len(logits)
    if takes_many(model.device) and n > 1:
        rows = torch.arange(len(batch), device=model.device).repeat(n)
        parts, batch = [logits.flatten(0, 1)], batch.at(rows)
    else:
        parts = list(logits)
    found = [[measure(metric, part, batch) for part in parts] for metric in metrics]
    made = torch.stack([torch.cat(by_circuit) for by_circuit in found])
    values[:, chunk] = made.double().cpu().unflatten(1, (n, -1))


def _run(
    model: Model,
    batch: Batch,
    pair: Pair,
    removed: Float[Tensor, "circuit source dest *span"],
    use: Use,
) -> None:
    """Run every circuit, and `use` what some answer."""
    if removed.ndim > 3:
        _run_by_span(model, batch, pair, removed, use)
    else:
        _run_planned(model, batch, pair, removed, use)


def _run_by_span(
    model: Model,
    batch: Batch,
    pair: Pair,
    removed: Float[Tensor, "circuit source dest span"],
    use: Use,
) -> None:
    """Run circuits that keep spans apart; those that are the same at all of them as any other."""
    alike = (removed == removed[..., :1]).flatten(1).all(dim=1)
    assert batch.span is not None, "edges are removed by span where a batch has spans"
    for same in (True, False):
        chosen = (alike == same).nonzero().squeeze(1)
        if not len(chosen):
            continue
        some = partial(_use_some, chosen.tolist(), use)
        if same:
            _run(model, batch, pair, removed[chosen, :, :, 0], some)
        else:
            _run_planned(model, batch, pair.by_span(batch.span), removed[chosen], some)


def _use_some(
    numbers: Sequence[int], use: Use, chunk: list[int], logits: Float[Tensor, "chunk asked _"]
) -> None:
    use([numbers[i] for i in chunk], logits)


def _run_planned(
    model: Model,
    batch: Batch,
    pair: Pair,
    removed: Float[Tensor, "circuit source dest *span"],
    use: Use,
) -> None:
    """Run circuits that first differ from the clean run at one layer together, or all of them."""
    coupled = [block.couples_heads for block in model.blocks]
    removed = removed.to("cpu", pair.replaced.embed.dtype)
    plans = make_plans(removed, model.graph, paired=pair.corrupt is not None, coupled=coupled)
    clean: list[int] = []
    corrupt: list[int] = []
    by_layer: dict[int, list[int]] = {}
    for i, plan in enumerate(plans):
        if plan.first_layer is None or not len(pair.replaced.embed):  # no token can differ
            clean.append(i)
        elif plan.is_corrupt and pair.corrupt is not None:
            corrupt.append(i)
        else:
            by_layer.setdefault(plan.first_layer, []).append(i)
    for ends, end in ((clean, pair.clean), (corrupt, pair.corrupt)):
        if ends and end is not None:
            use(ends, end.logits[None])
    every = list(by_layer.values())
    if every and takes_many(model.device):
        every = [[i for layer in sorted(by_layer) for i in by_layer[layer]]]
    for together in within(every):
        _run_together(model, batch, pair, {i: plans[i] for i in together}, use)


def _run_together(
    model: Model, batch: Batch, pair: Pair, plans: Mapping[int, Plan], use: Use
) -> None:
    """Run circuits in this order, as many at once as fit."""
    many = takes_many(model.device)
    run = partial(run_pass, model, batch, pair, together=many)
    each = _bytes_each(model, batch, pair, list(plans.values()))
    work = partial(_run_some, run, plans, use)
    in_tiles(len(plans), each, model.device, work, share=0.5 if many else None)


def _run_some(
    run: Callable[[Sequence[Plan]], Float[Tensor, "chunk asked vocab"]],
    plans: Mapping[int, Plan],
    use: Use,
    span: slice,
) -> None:
    chunk = list(plans)[span]
    use(chunk, run([plans[i] for i in chunk]))


def _bytes_each(model: Model, batch: Batch, pair: Pair, plans: Sequence[Plan]) -> int:
    """What a circuit takes in a pass, or in a group of these.

    In a pass a vector a token for each writer it uses, and some for each of its attention readers
    while they are put together. In a group what `n_values` says, and what the model itself has of a
    layer.
    """
    like, width = pair.replaced.embed, pair.replaced.embed.shape[1]
    inside = 0
    if takes_many(model.device):
        inside = batch.clean.numel() * (16 * width + model.graph.n_heads * batch.clean.shape[1])
        each = n_values(plans)
    else:
        each = 16 + max(len(plan.used) for plan in plans)
    return (each * like.numel() + inside) * like.element_size()
