"""Dictionaries brought to a model's own places: names, widths, and norms that are not folded.

Nothing is run here. What is read before a norm's gamma and beta (`m3.x_hat`) is read after them
(`m3.in`) by an encoder that takes them out again, which is exact: `x_hat = (x - beta) / gamma`.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from patching.anatomy.blocks import Block, widen
from patching.anatomy.places import Place, find
from patching.dictionaries.dictionary import Dictionary
from patching.dictionaries.several import Dictionaries
from patching.files.parsing import naming
from patching.model import Model

_LEAST_GAMMA = 1e-6  # of the largest: smaller ones cannot be divided by in float32


def fitted(model: Model, several: Dictionaries) -> Dictionaries:
    """The dictionaries with places that this model has.

    Raises:
        ValueError: if it is one dictionary, or none; if a place is not there, of another width, or
            its norm cannot be taken out.
    """
    if not isinstance(several, Dictionaries):
        one = f"one, {several.name!r}: Dictionaries(name, (one,)) holds it"
        got = one if isinstance(several, Dictionary) else f"{several!r}"
        raise ValueError(f"dictionaries are needed; got {got}")
    return replace(several, members=tuple(_fitted(model, one) for one in several))


def flat(values: Float[Tensor, "batch pos ..."]) -> Float[Tensor, "batch pos width"]:
    """A place's values as dictionaries take them: all heads of a token in one row."""
    return values.flatten(2)


def after_first(
    tokens: Int[Tensor, "batch pos"], lengths: Sequence[int]
) -> Bool[Tensor, "batch pos"]:
    """Which tokens dictionaries are trained and measured on: all but a row's first, no padding."""
    chosen = torch.zeros(tokens.shape, dtype=torch.bool, device=tokens.device)
    for row, length in zip(chosen, lengths, strict=False):
        row[1:length] = True
    return chosen


def _fitted(model: Model, one: Dictionary) -> Dictionary:
    with naming(f"the dictionary {one.name!r}"):
        if one.reads.endswith(".x_hat"):
            block = model.blocks[find(model, one.reads.replace(".x_hat", ".in")).layer]
            one = _reading_after_norm(model, block, one)
        own = find(model, one.writes)
        later = {find(model, place).name: w for place, w in one.later.items()}
        if one.writes == f"m{own.layer}.out" and own.kind == "mlp_out":
            one = _written_to_the_stream(one, model.blocks[own.layer].scale)
        reads = find(model, one.reads)
        one = replace(one, reads=reads.name, writes=own.name, later=later)
        for place, width in ((reads, one.w_enc.shape[0]), (own, len(one.b_dec))):
            _check_width(model, place, width)
    return one


def _check_width(model: Model, place: Place, width: int) -> None:
    """Refuse a place of another width.

    Raises:
        ValueError: naming both.
    """
    n_heads, d_head, d_model = model.blocks[max(place.layer, 0)].w_o.shape
    if place.kind == "neurons":
        return
    wanted = n_heads * d_head if place.kind == "z" else d_model
    if place.kind in ("q", "k", "v", "pattern") or place.index is not None:
        raise ValueError(f"dictionaries are of whole places, and {place.name} is none of them")
    if width != wanted:
        raise ValueError(
            f"it takes {width} numbers at {place.name}, where {model.name} has {wanted}: it "
            "belongs to another model, or to another place"
        )


def _reading_after_norm(model: Model, block: Block, one: Dictionary) -> Dictionary:
    """`x_hat W + b` as `x (W / gamma) + (b - beta / gamma W)`.

    Raises:
        ValueError: if there is no norm, or its gamma is almost zero somewhere.
    """
    norm, place = block.mlp_norm, f"m{block.index}.in"
    if norm is None:
        raise ValueError(
            f"it reads the normalised input of an MLP, and {model.name} has no norm there; "
            f"{place} is what it reads"
        )
    _check_width(model, find(model, place), one.w_enc.shape[0])
    gamma = torch.ones(one.w_enc.shape[0]) if norm.gamma is None else widen(norm.gamma).cpu()
    beta = torch.zeros_like(gamma) if norm.beta is None else widen(norm.beta).cpu()
    if float(gamma.abs().min()) <= _LEAST_GAMMA * float(gamma.abs().max()):
        raise ValueError(
            f"it reads the input of {place} before its norm's gamma, which is almost 0 in "
            f"{int((gamma.abs() <= _LEAST_GAMMA * gamma.abs().max()).sum())} of {len(gamma)} "
            "coordinates, so that nothing shows them"
        )
    w_enc = widen(one.w_enc) / gamma[:, None]
    b_enc, b_dec, skip = one.b_enc - beta.to(w_enc) @ w_enc, one.b_dec, one.skip
    if skip is not None:
        skip = widen(skip) / gamma[:, None]
        b_dec = b_dec - beta.to(skip) @ skip
    return replace(one, reads=place, w_enc=w_enc, b_enc=b_enc, b_dec=b_dec, skip=skip)


def _written_to_the_stream(one: Dictionary, scale: float) -> Dictionary:
    """What an MLP returns as what reaches the stream, which some families scale (Granite)."""
    if scale == 1.0:
        return one
    return replace(
        one,
        w_dec=one.w_dec * scale,
        b_dec=one.b_dec * scale,
        skip=None if one.skip is None else one.skip * scale,
        later={place: w * scale for place, w in one.later.items()},
    )
