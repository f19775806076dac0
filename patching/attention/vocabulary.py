"""What a head does in terms of tokens: its OV and QK circuits, never as a whole matrix.

A circuit over the vocabulary is a product of two thin factors, `[token d_head]` each; its largest
entries are found tile by tile, and its eigenvalues are those of a `[d_head d_head]` matrix.
Elhage et al. 2021 (A Mathematical Framework for Transformer Circuits).
"""

from dataclasses import dataclass
from functools import cached_property

import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from patching.anatomy.blocks import FINAL_STREAM, POSITIONS, UNEMBED_IN, Block, widen
from patching.anatomy.latent import LatentAttention
from patching.anatomy.norms import Norm, find_norm
from patching.anatomy.places import find
from patching.anatomy.stack import skipping
from patching.attention.pattern_grid import head_axes
from patching.attention.reading import as_task, read
from patching.files.brief import briefly
from patching.grid import Grid
from patching.lens.text import token_texts
from patching.memory import in_tiles
from patching.model import Hook, Model
from patching.modes import without_gradients
from patching.tasks.tokens import Tokenizer

_TOKENS_AT_ONCE = 4096
_ROUNDING = 1e-7  # of float32 weights: what is smaller, beside its factors, is no write


@briefly
@dataclass(frozen=True, eq=False)
class VocabularyCircuit:
    """`rows @ columns.T`, a number for each pair of tokens.

    OV: what attending to the column's token adds to the logit of the row's, up to one factor for
    each column (the final norm's denominator). QK: the attention score of the row's token as query
    for the column's as key, before the head's own scaling.
    """

    kind: str
    head: str
    axes: tuple[str, str]
    rows: Float[Tensor, "vocab d_head"]
    columns: Float[Tensor, "vocab d_head"]
    tokenizer: Tokenizer | None = None

    @cached_property
    def eigenvalues(self) -> Float[Tensor, " d_head"]:
        """All that are not 0 by construction, real parts, in falling order."""
        product = (self.columns.double().T @ self.rows.double()).cpu()
        return torch.linalg.eigvals(product).real.sort(descending=True).values

    def top(self, k: int = 20) -> pd.DataFrame:
        """The k pairs of largest value, in falling order, with ids and texts of both tokens.

        Raises:
            ValueError: if k is less than 1.
        """
        if k < 1:
            raise ValueError(f"cannot name the top {k} pairs; 1 is the least")
        n = len(self.columns)
        found: list[tuple[Tensor, Tensor]] = []

        def work(span: slice) -> None:
            tile = (self.rows[span] @ self.columns.T).flatten()
            values, where = tile.topk(min(k, len(tile)))
            both = zip(*found, (values, where + span.start * n), strict=True)
            values, where = (torch.cat(parts) for parts in both)
            best = values.argsort(descending=True, stable=True)[:k]
            found[:] = [(values[best], where[best])]

        in_tiles(len(self.rows), n * self.rows.element_size(), self.rows.device, work)
        ((values, where),) = found
        return self._table(where // n, where % n, values)

    def of(self, token: int, k: int = 20) -> pd.DataFrame:
        """The k rows of largest value for one column: what attending to the token promotes (OV).

        Raises:
            ValueError: if there is no such token, or k is less than 1.
        """
        if not 0 <= token < len(self.columns):
            raise ValueError(f"there is no token {token}; ids are 0 to {len(self.columns) - 1}")
        if k < 1:
            raise ValueError(f"cannot name the top {k} tokens; 1 is the least")
        found = (self.rows @ self.columns[token]).topk(min(k, len(self.rows)))
        return self._table(found.indices, torch.full_like(found.indices, token), found.values)

    def _table(
        self,
        rows: Int[Tensor, " pair"],
        columns: Int[Tensor, " pair"],
        values: Float[Tensor, " pair"],
    ) -> pd.DataFrame:
        table: dict[str, object] = {}
        for axis, ids in zip(self.axes, (rows.tolist(), columns.tolist()), strict=True):
            table[axis] = token_texts(self.tokenizer, ids)
            table[f"{axis} id"] = ids
        return pd.DataFrame({**table, "value": values.double().cpu().numpy()})


def ov_circuit(model: Model, head: str) -> VocabularyCircuit:
    """What a head writes about the token it attends to: `W_U W_O W_V W_E`, norms included.

    Norms enter as their linear part (centring and gamma); token embeddings are divided by their own
    denominator, as if nothing else were in the stream. Biases and learned positions are left out.

    >>> ov_circuit(Model.load("truth/induction"), "a1.h3").eigenvalues[0] > 0
    tensor(True)

    Raises:
        ValueError: if there is no such head, or the family does something else to its values than
            mix them (norms, gates, latents).
    """
    block, h = _head(model, head)
    _require_mixed(model)
    values = _normed(block, token_embeddings(model)) @ widen(block.w_qkv[2][_group(model, h)])
    rows = _unembedding(model) @ _write(block)[h].T
    return VocabularyCircuit("OV", head, ("output", "source"), rows, values, model.tokenizer)


def qk_circuit(model: Model, head: str) -> VocabularyCircuit:
    """Which tokens a head's queries ask for: `W_E^T W_Q^T W_K W_E`, with norms and biases.

    As if the stream held nothing but each token's embedding, without learned positions; rotary
    positions cancel at distance 0, which is the distance meant. Norms of queries and keys are
    applied. Not in it: what earlier layers write, and how scores depend on distance.

    Raises:
        ValueError: if there is no such head, or its queries and keys are made of latents.
    """
    block, h = _head(model, head)
    if isinstance(getattr(block.bridge.attn, "original_component", None), LatentAttention):
        raise ValueError(
            f"{model.name} makes queries and keys of latents, by norms and projections behind what "
            "reads the stream: they are no one product over the vocabulary"
        )
    embedding = token_embeddings(model)
    norm = block.attention_norm
    stream = embedding if norm is None else norm.formula(embedding)
    queries, keys = (
        _project(block, stream, part, index) for part, index in ((0, h), (1, _group(model, h)))
    )
    return VocabularyCircuit("QK", head, ("query", "key"), queries, keys, model.tokenizer)


def copying_scores(model: Model) -> Grid:
    """How much each head's OV circuit raises the very token it attends to, from -1 to 1.

    The sum of the OV circuit's eigenvalues over the sum of their absolute values (complex ones
    count with their real part above): 1 where all are positive, as in copying heads. NaN where a
    head writes nothing that the unembedding reads. Elhage et al. 2021.

    >>> ((where, score),) = copying_scores(Model.load("truth/induction")).top(1)
    >>> where, round(score, 6)
    (('1', 'h3'), 1.0)

    Raises:
        ValueError: if the family does something else to its values than mix them.
    """
    _require_mixed(model)
    embedding, unembedding = token_embeddings(model), _unembedding(model)
    scores = torch.empty(model.graph.n_layers, model.graph.n_heads, dtype=torch.float64)
    for block in model.blocks:
        values, writes = widen(block.w_qkv[2]).double(), _write(block).double()
        through = _normed(block, embedding).T.double() @ unembedding.double()
        for h in range(model.graph.n_heads):
            product = values[_group(model, h)].T @ through @ writes[h].T
            found = torch.linalg.eigvals(product.cpu())
            size = values[_group(model, h)].norm() * through.norm() * writes[h].norm()
            silent = found.abs().sum() <= _ROUNDING * float(size)
            scores[block.index, h] = torch.nan if silent else found.real.sum() / found.abs().sum()
    quantity = "copying score (sum of eigenvalues / sum of their sizes)"
    return Grid(quantity, scores[None], head_axes(model), provenance={"model": model.name})


@without_gradients
def token_embeddings(model: Model) -> Float[Tensor, "vocab d_model"]:
    """What each token alone puts into the stream, without learned positions.

    As the model itself makes it, scaled and projected where the family does so.
    """
    vocab, parts = int(model.bridge.cfg.d_vocab), []
    kept: dict[str, Tensor] = {}

    def keep(name: str) -> Hook:
        return lambda tensor: kept.update({name: tensor.detach()})

    hooks = [(FINAL_STREAM, keep(FINAL_STREAM)), (UNEMBED_IN, lambda normed: normed[:, :0])]
    hooks += [(POSITIONS, keep(POSITIONS))] if model.learns_positions else []
    everything = skipping(model.bridge, len(model.blocks), as_tuple=model.blocks_return_tuples)
    with everything, model.hooked(hooks):
        for ids in torch.arange(vocab, device=model.device).split(_TOKENS_AT_ONCE):
            model.bridge(ids[:, None])
            embedding = widen(kept[FINAL_STREAM])
            positions = kept.get(POSITIONS, embedding.new_zeros(()))
            parts.append((embedding - positions)[:, 0])
    return torch.cat(parts)


def _head(model: Model, head: str) -> tuple[Block, int]:
    place = find(model, head)
    if place.kind != "z" or place.index is None:
        raise ValueError(f"{head!r} is no head; name one such as 'a0.h0'")
    return model.blocks[place.layer], place.index


def _require_mixed(model: Model) -> None:
    """One short run, in which heads must have mixed their values and done nothing else to them.

    Raises:
        ValueError: if they have not.
    """
    task = as_task(model, model.standing.tokens)
    read(model, next(task.batches(1)), lambda seen: None)


def _group(model: Model, head: int) -> int:
    """The key-value head of a query head."""
    return head * model.graph.n_kv_heads // model.graph.n_heads


def _normed(
    block: Block, embedding: Float[Tensor, "vocab d_model"]
) -> Float[Tensor, "vocab d_model"]:
    """The attention's norm without its beta."""
    norm = block.attention_norm
    if norm is None:
        return embedding
    x_hat = norm.x_hat(embedding)
    return x_hat if norm.gamma is None else x_hat * widen(norm.gamma)


def _write(block: Block) -> Float[Tensor, "head d_head d_model"]:
    """Output projections, with what a norm after the attention multiplies by."""
    w = widen(block.w_o)
    unit = torch.eye(w.shape[1], dtype=w.dtype, device=w.device)
    return block.head_writes(unit[:, None].expand(-1, len(w), -1))


def _unembedding(model: Model) -> Float[Tensor, "vocab d_model"]:
    """Rows of the unembedding, taken back through the linear part of the final norm."""
    weight = widen(model.bridge.unembed.W_U.detach().T)
    norm = find_norm(model.bridge.ln_final)
    return weight if norm is None else norm.pull_back(weight)


def _project(
    block: Block, stream: Float[Tensor, "vocab d_model"], part: int, index: int
) -> Float[Tensor, "vocab d_head"]:
    """Queries (part 0) or keys (1) of one head, through their own norm where there is one."""
    w, b = widen(block.w_qkv[part]), block.b_qkv[part]
    norm = find_norm(getattr(block.bridge.attn, ("q_norm", "k_norm")[part], None))
    own = w.shape[2] if norm is None or norm.gamma is None else len(norm.gamma)
    if norm is None or own <= w.shape[2]:  # less where zeros fill it up
        out = stream @ w[index] + (0.0 if b is None else widen(b[index].detach()))
        return out if norm is None else norm.formula(out[:, :own])
    return _project_and_norm_all(norm, w, b, stream)[:, index]


def _project_and_norm_all(
    norm: Norm,
    w: Float[Tensor, "head d_model d_head"],
    b: Float[Tensor, "head d_head"] | None,
    stream: Float[Tensor, "vocab d_model"],
) -> Float[Tensor, "vocab head d_head"]:
    """All heads at once, for norms that run over all of them (OLMo 2)."""
    out = torch.einsum("tm,hmd->thd", stream, w)
    out = out if b is None else out + widen(b.detach())
    return norm.formula(out.flatten(1)).view_as(out)
