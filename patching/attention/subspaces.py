"""How few directions of a head's queries, keys or values a behaviour needs.

Lieberum et al. 2023 (Does Circuit Analysis Interpretability Scale?), arXiv:2307.09458, section 4.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from matplotlib.figure import Figure
from torch import Tensor

from patching.anatomy.blocks import widen
from patching.anatomy.places import Place, find
from patching.anatomy.stack import skipping
from patching.figures import COLOURS, SMALL, blank
from patching.files.brief import briefly
from patching.grid import Grid
from patching.metrics import Metric, measure, name_of
from patching.model import Hook, Model
from patching.modes import without_gradients
from patching.progress import track
from patching.tasks.task import Batch, Task


@briefly
@dataclass(frozen=True, eq=False)
class Subspace:
    """Principal directions of the activations at a place: columns, by falling variance.

    `variance` is the share of the whole that each direction has; the shares sum to 1.
    """

    place: Place
    mean: Float[Tensor, " d_head"]
    basis: Float[Tensor, "d_head component"]
    variance: Float[Tensor, " component"]

    def project(
        self, x: Float[Tensor, "batch pos d_head"], kept: Bool[Tensor, "batch component"]
    ) -> Float[Tensor, "batch pos d_head"]:
        """The mean plus the projection of the rest on each row's kept directions.

        A row that keeps all stays as it is, to the last bit.
        """
        weights = (widen(x) - self.mean) @ self.basis
        projected = self.mean + (weights * kept[:, None].to(weights.dtype)) @ self.basis.T
        return torch.where(kept.all(dim=1)[:, None, None], x, projected.to(x.dtype))


@without_gradients
def find_subspace(model: Model, task: Task, place: str, *, batch_size: int = 16) -> Subspace:
    """Principal directions of a head's q, k or v over a task's clean prompts, up to the answer.

    Before any rotation or norm of queries and keys. From sums of products in float64: no
    activations are kept.

    Raises:
        ValueError: if the place is not the q, k or v of one head (or of one group, where heads
            share keys and values), or the model cannot read the task.
    """
    found, task = _check(model, task, place), replace(task, padding="right")
    d_head = model.blocks[0].w_o.shape[1]
    product = torch.zeros(d_head, d_head, dtype=torch.float64, device=model.device)
    total, count = product.new_zeros(d_head), 0
    for batch in task.batches(batch_size, model.device):
        kept: list[Tensor] = []
        hook: tuple[str, Hook] = (found.hook, lambda x, to=kept: to.append(found.view(x)))
        model.answer_logits(batch.clean, batch, [hook])
        rows = kept[0][batch.distinct & batch.up_to_answer].double()
        product += rows.T @ rows
        total += rows.sum(dim=0)
        count += len(rows)
    mean = total / count
    covariance = product / count - torch.outer(mean, mean)
    values, vectors = torch.linalg.eigh(covariance)
    variance = values.flip(0).clamp(min=0)
    dtype = torch.promote_types(model.dtype, torch.float32)
    share = variance / variance.sum().clamp(min=torch.finfo(torch.float64).tiny)
    return Subspace(found, mean.to(dtype), vectors.flip(1).to(dtype), share)


@without_gradients
def compress(
    model: Model,
    task: Task,
    metric: Metric,
    place: str,
    *,
    ranks: Sequence[int] | None = None,
    fit: Task | None = None,
    batch_size: int = 64,
) -> Grid:
    """The metric while a head's q, k or v (`a1.h3.q`) keep only their first principal directions.

    At every position the activation is replaced by its mean plus its projection on `rank`
    directions of largest variance over `fit` (the task itself, unless given); rank 0 is the mean
    alone, full rank the clean run exactly. Axis: rank; unit: that of the metric. Ranks and examples
    share passes of `batch_size` rows, which start at the head's layer.

    >>> from patching import tasks
    >>> from patching.metrics import logit_diff
    >>> model = Model.load("toy")
    >>> task = tasks.ioi(model.tokenizer, n=4, seed=0)
    >>> list(compress(model, task, logit_diff, "a1.h0.q", ranks=[0, 2]).axes["rank"])
    ['0', '2']

    Raises:
        ValueError: if a rank is not possible, and as `find_subspace`.
    """
    d_head = model.blocks[0].w_o.shape[1]
    chosen = list(range(d_head + 1)) if ranks is None else list(ranks)
    if not chosen or min(chosen) < 0 or max(chosen) > d_head:
        raise ValueError(
            f"ranks go from 0 to {d_head}, the dimension of a head of {model.name}; got {chosen}"
        )
    _check(model, task, place)
    if batch_size < 1:
        raise ValueError(f"a pass holds at least one row, got batch_size={batch_size}")
    space = find_subspace(model, task if fit is None else fit, place)
    parts, ends, task = [], [], replace(task, padding="right")
    for batch in track(task.batches(16, model.device), "compressing", task.n_batches(16)):
        start = _start(model, batch, space.place)
        batch = replace(batch, clean_logits=start.logits)
        corrupt = model.answer_logits(batch.corrupt, batch)
        ends.append([measure(metric, x, batch).double().cpu() for x in (start.logits, corrupt)])
        rows = [
            _measure_rows(model, start, metric, space, jobs)
            for jobs in _jobs(batch, chosen, batch_size)
        ]
        parts.append(torch.cat(rows).view(len(batch), len(chosen)))
    clean, corrupt = (torch.cat(values) for values in zip(*ends, strict=True))
    provenance = {"place": place, "variance": space.variance.tolist(), "task": task.hash}
    axes = {"rank": tuple(map(str, chosen))}
    return Grid(name_of(metric), torch.cat(parts), axes, clean, corrupt, provenance)


def draw_ranks(grid: Grid, *, title: str | None = None) -> Figure:
    """The mean metric by rank with its 95 % interval, between the clean and the corrupt run.

    Raises:
        ValueError: if the grid is not one of `compress`.
    """
    if list(grid.axes) != ["rank"]:
        raise ValueError(f"draws a grid over rank, as `compress` makes; got {list(grid.axes)}")
    figure, axes = blank(title=title)
    ranks = [int(label) for label in grid.axes["rank"]]
    low, high = grid.interval()
    axes.plot(ranks, grid.mean.numpy(), color=COLOURS[0], marker=".", label="at this rank")
    if len(grid.values) > 1:
        axes.fill_between(ranks, low, high, color=COLOURS[0], alpha=0.2, linewidth=0)
    for run, values, colour in (("clean", grid.clean, 2), ("corrupt", grid.corrupt, 1)):
        if values is not None:
            height = float(values.mean())
            axes.axhline(height, color=COLOURS[colour], linewidth=0.8, linestyle="--", label=run)
    axes.set_xlabel(f"directions kept of {grid.provenance.get('place', 'the activation')}")
    axes.set_ylabel(grid.quantity)
    axes.legend(fontsize=SMALL, frameon=False)
    return figure


@dataclass(frozen=True, eq=False)
class _Start:
    """A clean run up to the layer of interest."""

    batch: Batch
    stream: Float[Tensor, "batch pos d_model"]
    logits: Float[Tensor, "asked vocab"]


def _start(model: Model, batch: Batch, place: Place) -> _Start:
    kept: list[Tensor] = []
    keep: tuple[str, Hook] = (model.blocks[place.layer].stream_in, lambda x: kept.append(x))
    logits = model.answer_logits(batch.clean, batch, [keep])
    return _Start(replace(batch, clean_logits=logits), kept[0], logits)


def _jobs(
    batch: Batch, ranks: Sequence[int], size: int
) -> Iterator[tuple[Int[Tensor, " row"], Int[Tensor, " row"]]]:
    """Every example at every rank, some rows at a time: example numbers and ranks."""
    device = batch.clean.device
    examples = torch.arange(len(batch), device=device).repeat_interleave(len(ranks))
    at = torch.tensor(list(ranks), device=device).repeat(len(batch))
    yield from zip(examples.split(size), at.split(size), strict=True)


def _measure_rows(
    model: Model,
    start: _Start,
    metric: Metric,
    space: Subspace,
    jobs: tuple[Int[Tensor, " row"], Int[Tensor, " row"]],
) -> Float[Tensor, " row"]:
    """The metric of each row, from a pass that begins at the place's layer."""
    examples, ranks = jobs
    batch, rows, place = start.batch.at(examples), start.batch.rows_of(examples), space.place
    components = torch.arange(space.basis.shape[1], device=ranks.device)
    kept = components < batch.by_row(ranks)[:, None]

    def replace_part(whole: Tensor) -> Tensor:
        whole = whole.clone()
        place.view(whole).copy_(space.project(place.view(whole), kept))
        return whole

    begin: tuple[str, Hook] = (
        model.blocks[place.layer].stream_in,
        lambda _: start.stream[rows],
    )
    with skipping(model.bridge, place.layer, as_tuple=model.blocks_return_tuples):
        logits = model.answer_logits(batch.clean, batch, [begin, (place.hook, replace_part)])
    return measure(metric, logits, batch).double().cpu()


def _check(model: Model, task: Task, place: str) -> Place:
    model.check(task)
    found = find(model, place)
    if found.kind not in ("q", "k", "v") or found.index is None:
        raise ValueError(
            f"{place!r} is not the queries, keys or values of one head; "
            "name them such as 'a0.h1.q' (of one group, 'a0.g1.k', where heads share them)"
        )
    return found
