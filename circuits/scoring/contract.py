"""From differences of writes and gradients at readers to one score per edge.

`score[s, j] = sum over tokens of D_s . (d metric / d x_j)`, as two matrix products a layer, a few
tokens at a time so that memory does not grow with the number of prompts.
"""

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from patching.capture import Writes, expand_writes
from patching.gradients import AttentionGradients, ReaderGradients
from patching.model import Model

TILE_BYTES = 2**25


@torch.no_grad()
def edge_scores(
    model: Model, difference: Writes, gradients: ReaderGradients
) -> Float[Tensor, "source dest"]:
    """Scores of all edges, summed over tokens, in float64 on the CPU; 0 on non-edges."""
    graph = model.graph
    total = torch.zeros(graph.exists.shape, dtype=torch.float64)
    for tile in _tiles(model, difference):
        total += _tile_scores(model, difference[tile], gradients, tile).double().cpu()
    return total.masked_fill(~graph.exists, 0.0)


def _tiles(model: Model, difference: Writes) -> list[slice]:
    """Spans of tokens whose expanded writes and gradients fit in `TILE_BYTES`."""
    rows = len(model.graph.sources) + 3 * model.graph.n_heads
    per_token = rows * difference.embed.shape[1] * difference.embed.element_size()
    size = max(1, TILE_BYTES // per_token)
    return [slice(start, start + size) for start in range(0, len(difference), size)]


def _tile_scores(
    model: Model, difference: Writes, gradients: ReaderGradients, tile: slice
) -> Float[Tensor, "source dest"]:
    graph = model.graph
    written = expand_writes(model, difference)
    flat = written.flatten(1)
    scores = flat.new_zeros(graph.exists.shape)
    along_x_hat = _along_x_hat(written, gradients, tile)
    for block, gradient, along in zip(model.blocks, gradients.attention, along_x_hat, strict=True):
        n = graph.sources_before_attention(block.index)
        at_readers = block.pull_back_qkv(gradient.projected[tile])
        part = flat[:n] @ at_readers.flatten(1).T
        part -= along[:, :n].transpose(0, 1).flatten(1) @ _radial(gradient, tile)
        scores[:n, graph.attention_readers(block.index)] = part
    others = torch.stack([*(g[tile] for g in gradients.mlps), gradients.logits[tile]])
    columns = [graph.mlp_reader(block.index) for block in model.blocks] + [-1]
    scores[:, columns] = flat @ others.flatten(1).T
    return scores


def _along_x_hat(
    written: Float[Tensor, "source token d_model"], gradients: ReaderGradients, tile: slice
) -> list[Float[Tensor, "token source step"]]:
    """`D_s . x_hat` for each layer and point, in one product that reads the writes once."""
    steps = [len(g.x_hat) for g in gradients.attention]
    x_hat = torch.cat([g.x_hat[:, tile] for g in gradients.attention])
    products = torch.bmm(written.transpose(0, 1), rearrange(x_hat, "step t d -> t d step"))
    return list(products.split(steps, dim=2))


def _radial(gradient: AttentionGradients, tile: slice) -> Float[Tensor, "token_step reader"]:
    d_model = gradient.x_hat.shape[-1]
    return rearrange(gradient.radial[:, tile], "step t reader -> (t step) reader") / d_model
