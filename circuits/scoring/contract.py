"""From differences of writes and gradients at readers to one score per edge.

`score[s, j] = sum over tokens of D_s . (d metric / d x_j)`, as two matrix products a layer, a few
tokens at a time so that memory does not grow with the number of prompts. Each layer's products are
made where the layer lies: a few tokens' writes go there, and only scores come back.
"""

from collections.abc import Mapping
from functools import partial
from itertools import groupby

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from patching.capture import Writes, expand_writes
from patching.gradients import AttentionGradients, ReaderGradients
from patching.memory import in_tiles
from patching.model import Model
from patching.modes import as_typed


def edge_scores(
    model: Model, difference: Writes, gradients: ReaderGradients, *, span: slice | None = None
) -> Float[Tensor, "source dest"]:
    """Scores of all edges, summed over tokens, in float64 on the CPU; 0 on non-edges.

    Of all tokens, or of a `span` of them.
    """
    graph = model.graph
    total = torch.zeros(graph.exists.shape, dtype=torch.float64)
    d_model, value = difference.embed.shape[1], difference.embed.element_size()
    rows = len(graph.sources) + 3 * graph.n_heads  # writes of all, gradients of one layer

    first, n = (0, len(difference)) if span is None else (span.start, span.stop - span.start)
    add = partial(_add_tile_, total, model, difference, gradients, first)
    with torch.no_grad(), as_typed():
        in_tiles(n, rows * d_model * value, difference.embed.device, add)
    return total.masked_fill(~graph.exists, 0.0)


def _add_tile_(
    total: Float[Tensor, "source dest"],
    model: Model,
    difference: Writes,
    gradients: ReaderGradients,
    first: int,
    tile: slice,
) -> None:
    graph, tile = model.graph, slice(first + tile.start, first + tile.stop)
    written = expand_writes(model, difference[tile])
    scores = written.new_zeros(graph.exists.shape)
    others = [g[tile].to(written.device) for g in (*gradients.mlps, gradients.logits)]
    columns = [graph.mlp_reader(block.index) for block in model.blocks] + [-1]
    scores[:, columns] = written.flatten(1) @ torch.stack(others).flatten(1).T
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
        part = copies[g.device].flatten(1)[:n] @ at_readers.flatten(1).T
        crossed = along[:, :n].transpose(0, 1).flatten(1)
        part.addmm_(crossed, _radial(gradient, tile), alpha=-1)
        scores[:n, graph.attention_readers(block.index)] = part
    total.add_(scores.double().cpu())


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


def _radial(gradient: AttentionGradients, tile: slice) -> Float[Tensor, "token_step reader"]:
    d_model = gradient.x_hat.shape[-1]
    return rearrange(gradient.radial[:, tile], "step t reader -> (t step) reader") / d_model
