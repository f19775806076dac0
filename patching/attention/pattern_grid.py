"""Attention patterns of every head, plain or weighted by how much each value writes."""

from collections.abc import Mapping

import torch
from einops import einsum
from jaxtyping import Float
from torch import Tensor

from patching.anatomy.places import units
from patching.attention.reading import Prompts, Seen, as_task, read
from patching.figures import token_labels
from patching.grid import Grid
from patching.lens.text import token_texts
from patching.model import Model
from patching.progress import track
from patching.tasks.task import Task


def patterns(
    model: Model, prompts: Prompts, *, weighted: bool = False, batch_size: int = 16
) -> Grid:
    """How much every position attends to every other: axes layer, head, query, key.

    Shares of attention, each query's summing to 1. The mean over a task is `Grid.mean`; one head
    is `grid.select(layer="1", head="h3").plot()`. With `weighted`, each share is multiplied by the
    length of what that value adds to the stream, `pattern * |v W_O|`, after the norm that follows
    the attention in some families (Kobayashi et al. 2020, arXiv:2004.10102). Positions count from
    the first real token.

    >>> grid = patterns(Model.load("truth/induction"), [1, 5, 6, 5])
    >>> round(grid.at(layer="0", head="h1", query="3 c", key="2 d"), 3)
    1.0

    Raises:
        ValueError: if the model cannot read the prompts, they differ in length, or the family's
            patterns cannot be read.
    """
    task = as_task(model, prompts)
    _refuse_mixed_lengths(task)
    found: list[Tensor] = []
    batches = task.batches(batch_size, model.device)
    for batch in track(batches, "reading attention", task.n_batches(batch_size)):
        layers: list[Tensor] = []
        read(model, batch, lambda seen, to=layers: to.append(_pattern(seen, weighted).cpu()))
        found.append(torch.stack(layers, dim=1))
    quantity = "attention x length of the value's write" if weighted else "share of attention"
    axes = {**head_axes(model), **_positions(model, task)}
    return Grid(quantity, torch.cat(found), axes, provenance={"model": model.name, "on": task.name})


def head_axes(model: Model) -> Mapping[str, tuple[str, ...]]:
    """The axes layer and head."""
    layers = tuple(map(str, range(model.graph.n_layers)))
    return {"layer": layers, "head": units(model, "z")}


def _pattern(seen: Seen, weighted: bool) -> Float[Tensor, "batch head query key"]:
    return seen.pattern * _lengths(seen) if weighted else seen.pattern


def _lengths(seen: Seen) -> Float[Tensor, "batch head query key"]:
    """The length of what each value adds to the stream per unit of attention, at each query.

    `|v W|` is taken in d_head: with `W^T = Q R`, it is `|v R^T|`.
    """
    values = seen.values
    d_head = values.shape[3]
    unit = torch.eye(d_head, dtype=values.dtype, device=values.device)
    w = seen.block.head_writes(unit[:, None].expand(-1, values.shape[2], -1))
    r = torch.linalg.qr(w.transpose(1, 2), mode="r").R
    turned = einsum(values, r, "batch key head d, head r d -> batch head key r")
    lengths = turned.norm(dim=-1)[:, :, None]
    return lengths if seen.sigma is None else lengths / seen.sigma[:, None]


def _positions(model: Model, task: Task) -> Mapping[str, tuple[str, ...]]:
    """Tokens as labels where there is one prompt, else numbers."""
    labels = tuple(map(str, range(task.max_length)))
    if len(task) == 1:
        labels = token_labels(token_texts(model.tokenizer, task.prompts[0].clean))
    return {"query": labels, "key": labels}


def _refuse_mixed_lengths(task: Task) -> None:
    lengths = sorted({len(prompt.clean) for prompt in task.prompts})
    if len(lengths) > 1:
        raise ValueError(
            f"task {task.name!r} has prompts of {lengths[0]} to {lengths[-1]} tokens, whose "
            "patterns have no common mean; take prompts of one length, or `head_scores`, which "
            "needs none"
        )
