"""From differences of writes and gradients at readers to one score per edge.

`score[s, j] = sum over tokens of D_s . (d metric / d x_j)`, as two matrix products a layer, a few
tokens at a time so that memory does not grow with the number of prompts. Each layer's products are
made where the layer lies: a few tokens' writes go there, and only scores come back.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby, pairwise

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor

from patching.capture import Writes, expand_writes
from patching.gradients import ReaderGradients
from patching.memory import in_tiles
from patching.model import Model
from patching.modes import as_typed
from patching.tasks.task import Batch


@dataclass(frozen=True)
class Apart:
    """Tokens whose sums are kept apart: the number of each token's, of `n`."""

    number: Int[Tensor, " token"]
    n: int

    @staticmethod
    def of(batch: Batch, tokens: Bool[Tensor, "row pos"]) -> "Apart | None":
        """By the spans of a batch, if it keeps any apart."""
        return None if batch.span is None else Apart(batch.span[tokens], len(batch.apart))


def edge_scores(
    model: Model,
    difference: Writes,
    gradients: ReaderGradients,
    apart: Apart | None = None,
    *,
    span: slice | None = None,
) -> Float[Tensor, "source dest"]:
    """Scores of all edges, summed over tokens, in float64 on the CPU; 0 on non-edges.

    Of all tokens, or of a `span` of them. With tokens kept `apart`, there is each reader as many
    times, one after another: a sum over all tokens is cut where another span begins, and costs what
    it does.
    """
    graph, n = model.graph, 1
    first, ends = (0, [len(difference)]) if span is None else (span.start, [span.stop])
    if apart is not None:
        assert span is None, "all tokens are kept apart, or some are summed"
        order, n = apart.number.argsort(stable=True), apart.n
        difference, gradients = difference[order], gradients.at(order)
        ends = apart.number.bincount(minlength=n).cumsum(0).tolist()
    parts = [slice(*both) for both in pairwise([first, *ends])]
    total = torch.zeros(n, *graph.exists.shape, dtype=torch.float64)
    d_model, value = difference.embed.shape[1], difference.embed.element_size()
    rows = len(graph.sources) + 3 * graph.n_heads  # writes of all, gradients of one layer

    add = partial(_add_tile_, total, model, difference, gradients, parts)
    with torch.no_grad(), as_typed():
        in_tiles(ends[-1] - first, rows * d_model * value, difference.embed.device, add)
    return total.masked_fill(~graph.exists, 0.0).permute(1, 2, 0).flatten(1)


def _add_tile_(
    total: Float[Tensor, "part source dest"],
    model: Model,
    difference: Writes,
    gradients: ReaderGradients,
    parts: Sequence[slice],
    tile: slice,
) -> None:
    graph, first = model.graph, parts[0].start
    tile = slice(first + tile.start, first + tile.stop)
    here = _within(parts, tile)
    written = expand_writes(model, difference[tile])
    scores = written.new_zeros(total.shape)
    others = torch.stack([g[tile].to(written.device) for g in (*gradients.mlps, gradients.logits)])
    columns = [graph.mlp_reader(block.index) for block in model.blocks] + [-1]
    for i, part in here:
        scores[i][:, columns] = written[:, part].flatten(1) @ others[:, part].flatten(1).T
    centred = _all_centre(model)
    if centred:  # once, in place of each layer's gradients
        written -= written.mean(dim=-1, keepdim=True)
    copies = {g.projected.device: written.to(g.projected.device) for g in gradients.attention}
    n_readers = graph.attention_readers(0).stop
    rooms = {d: copy.new_empty(n_readers, *copy.shape[1:]) for d, copy in copies.items()}
    along_x_hat = _along_x_hat(copies, gradients, tile)
    for block, gradient, along in zip(model.blocks, gradients.attention, along_x_hat, strict=True):
        n, g = graph.sources_before_attention(block.index), gradient.projected[tile]
        at_readers = block.pull_back_qkv(g, centre=not centred, out=rooms[g.device])
        radial = gradient.radial[:, tile] / gradient.x_hat.shape[-1]
        for i, part in here:
            made = copies[g.device][:n, part].flatten(1) @ at_readers[:, part].flatten(1).T
            crossed = along[part, :n].transpose(0, 1).flatten(1)
            made.addmm_(crossed, rearrange(radial[:, part], "s t r -> (t s) r"), alpha=-1)
            scores[i, :n, graph.attention_readers(block.index)] = made
    total.add_(scores.double().cpu())


def _within(parts: Sequence[slice], tile: slice) -> list[tuple[int, slice]]:
    """What of a tile is in which part, counted from the tile's first token."""
    first, last = tile.start, tile.stop
    cut = [slice(max(part.start, first), min(part.stop, last)) for part in parts]
    return [
        (i, slice(c.start - first, c.stop - first)) for i, c in enumerate(cut) if c.start < c.stop
    ]


def _all_centre(model: Model) -> bool:
    """Whether every layer's attention reads what is centred: of two factors, one is enough then."""
    norms = [block.attention_norm for block in model.blocks]
    return all(norm is not None and norm.centred for norm in norms)


def _along_x_hat(
    copies: Mapping[torch.device, Float[Tensor, "source token d_model"]],
    gradients: ReaderGradients,
    tile: slice,
) -> list[Float[Tensor, "token source step"]]:
    """`D_s . x_hat` for each layer and point, in one product a device that reads the writes once.

    A device holds consecutive layers.
    """
    found: list[Tensor] = []
    for device, layers in groupby(gradients.attention, key=lambda g: g.projected.device):
        x_hats = [g.x_hat[:, tile] for g in layers]
        x_hat = rearrange(torch.cat(x_hats), "step t d -> t d step")
        products = torch.bmm(copies[device].transpose(0, 1), x_hat)
        found += products.split([len(x) for x in x_hats], dim=2)
    return found
