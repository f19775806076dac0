"""Proof that a model is what its graph says: the writers' sum rebuilds the residual stream.

Done when a model is loaded, on a few random tokens. A family with a part that the graph does not
know (another branch, a hidden scale, a different norm, another reader) fails here and is refused,
so that it can never be scored wrongly.
"""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from itertools import pairwise

import torch
from einops import einsum
from jaxtyping import Float
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from patching.anatomy.answer import answer_of
from patching.anatomy.blocks import FINAL_STREAM, Block, find_blocks
from patching.anatomy.claims import Claim, Probe, Seen, tolerance_in
from patching.anatomy.held import held_claims, row_alone, row_claim, see
from patching.anatomy.ignored import find_ignored, refuse_ignored
from patching.anatomy.norms import Norm, find_norm
from patching.anatomy.refusing import refusing
from patching.anatomy.silent import is_silent
from patching.anatomy.wrappers import refuse_foreign
from patching.graph import Graph

PLAIN_OUTPUT = "the plain model's output"


def graph_of(name: str, blocks: tuple[Block, ...]) -> Graph:
    """The graph of a model with these blocks.

    Raises:
        ValueError: if their numbers of heads differ, or queries, keys and values are no projections
            of the stream.
    """
    with refusing(name, "its attention shows no projection of the stream for each head's q, k, v"):
        graphs = {
            Graph(
                len(blocks),
                len(block.w_qkv[0]),
                len(block.w_qkv[1]),
                parallel=block.parallel,
                attention_only=is_silent(block.bridge.mlp),
                gated=block.gated,
            )
            for block in blocks
        }
    if len(graphs) > 1:
        raise ValueError(f"{name} is refused: its layers differ in their numbers of heads")
    return graphs.pop()


def found_and_proven(
    name: str, bridge: TransformerBridge, probe: Probe
) -> tuple[tuple[Block, ...], Graph, Probe]:
    """The blocks of a model and their graph, held against three short runs; and one of these.

    Raises:
        ValueError: naming what is not as this workbench understands.
    """
    with refusing(name, "its layers are not built as this workbench understands", own=True):
        blocks = find_blocks(bridge)
        graph = graph_of(name, blocks)
        alone = prove(name, bridge, blocks, probe)
    return blocks, graph, alone


def prove(name: str, bridge: TransformerBridge, blocks: tuple[Block, ...], probe: Probe) -> Probe:
    """Hold every claim about the model's structure against three short runs of it.

    That of one short row without any hook is handed back.

    Raises:
        ValueError: naming the first claim that fails, or what no run reads; or that weights hold
            NaN.
    """
    with refusing(name, "the wrapped model does not run on a few tokens"):
        logits, seen = _watch(bridge, blocks, probe)
    _refuse_bad_parameters(name, bridge)
    refuse_foreign(name, bridge)
    if not bool(logits.isfinite().all()):
        raise ValueError(f"{name}: the model's output is NaN or infinite")
    tolerance = tolerance_in(next(bridge.parameters()).dtype)
    for claim in _all_claims(bridge, blocks, probe, logits, seen):
        claim.check(name, tolerance)
    alone = answer_of(bridge, row_alone(bridge, probe.tokens))
    assert alone.logits is not None, "it has just been run"
    row_claim(logits, alone.logits).check(name, tolerance)
    for claim in held_claims(bridge, blocks, logits, seen, probe.tokens):
        claim.check(name, tolerance)
    refuse_ignored(name, find_ignored(bridge))
    return alone


def make_claims(
    bridge: TransformerBridge, blocks: tuple[Block, ...], probe: Probe
) -> Iterator[Claim]:
    """What must hold of one run of the probe, layer by layer, then behind all layers.

    The last claim, where the probe knows the plain model's output, is that it is still the same.
    """
    return _all_claims(bridge, blocks, probe, *_watch(bridge, blocks, probe))


def _all_claims(
    bridge: TransformerBridge, blocks: tuple[Block, ...], probe: Probe, logits: Tensor, seen: Seen
) -> Iterator[Claim]:
    for block in blocks:
        yield from (replace(claim, layer=block.index) for claim in _claims(block, seen))
    for before, after in pairwise(blocks):
        what = f"layer {after.index}'s input, from the layer before,"
        yield Claim(what, seen[before.stream_out], seen[after.stream_in], after.index)
    last = seen[blocks[-1].stream_out]
    final_norm = find_norm(bridge.ln_final)
    yield Claim("the final norm's input", last, seen[FINAL_STREAM])
    if final_norm is not None:
        yield _norm_claim("the final norm", final_norm, last)
    if probe.logits is not None:
        yield Claim(PLAIN_OUTPUT, probe.logits, logits)


def _claims(block: Block, seen: Seen) -> list[Claim]:
    i = block.index
    stream, writes = seen[block.stream_in], _head_writes(block, seen)
    attention, mlp = seen[block.attention_out], seen[block.mlp_out]
    writes = writes if block.attention_bias is None else writes + block.attention_bias.to(writes)
    mid = stream if block.parallel else stream + attention
    claims = [
        Claim(f"layer {i}'s attention output, from its heads", writes, attention),
        Claim(
            f"layer {i}'s stream, from its writers",
            stream + attention + mlp,
            seen[block.stream_out],
        ),
        Claim(f"layer {i}'s MLP input", _apply(block.mlp_norm, mid), seen[block.mlp_in]),
    ]
    normed = _apply(block.attention_norm, stream)
    letters = ("q", "k", "v", "gate")[: len(block.projections)]
    ways = zip(letters, block.w_projections, block.b_projections, block.projections, strict=True)
    for letter, w, b, name in ways:
        made = einsum(
            normed.to(w.device),
            w,
            "batch pos d_model, head d_model d_head -> batch pos head d_head",
        )
        made = (made if b is None else made + b).to(normed.device)
        claims.append(Claim(f"layer {i}'s {letter}", made, seen[name]))
    for what, norm, x in (
        (f"layer {i}'s attention norm", block.attention_norm, stream),
        (f"layer {i}'s MLP norm", block.mlp_norm, mid),
        (
            f"layer {i}'s attention post-norm",
            block.post_attention_norm,
            seen.get(block.attention_sum),
        ),
    ):
        if norm is not None and x is not None:
            claims.append(_norm_claim(what, norm, x))
    return claims


def _head_writes(block: Block, seen: Seen) -> Float[Tensor, "batch pos d_model"]:
    z, total = seen[block.z], seen.get(block.attention_sum)
    batch, pos = z.shape[:2]
    head_input = block.head_input(z.flatten(0, 1), None if total is None else total.flatten(0, 1))
    return block.head_writes(head_input).sum(dim=0).unflatten(0, (batch, pos))


def _apply(norm: Norm | None, x: Tensor) -> Tensor:
    return x if norm is None else norm(x)


def _norm_claim(what: str, norm: Norm, x: Tensor) -> Claim:
    return Claim(f"{what}, by its formula", norm.formula(x), norm(x))


@torch.no_grad()
def _watch(
    bridge: TransformerBridge, blocks: tuple[Block, ...], probe: Probe
) -> tuple[Tensor, Seen]:
    seen: Seen = {}
    home = next(bridge.parameters()).device

    names = [FINAL_STREAM]
    for block in blocks:
        names += [block.stream_in, *block.projections, block.z, block.attention_out, block.mlp_in]
        names += [block.mlp_out, block.stream_out]
        names += [block.attention_sum] if block.post_attention_norm is not None else []
    with bridge.hooks(fwd_hooks=[(name, partial(see, seen, name, home)) for name in names]):
        logits = bridge(probe.tokens.to(home)).to(home)
    return logits, seen


def _refuse_bad_parameters(name: str, bridge: TransformerBridge) -> None:
    for parameter_name, parameter in bridge.named_parameters():
        if not _all_finite(parameter):
            raise ValueError(
                f"{name}: its weights hold NaN or infinite values, first in {parameter_name}"
            )


def _all_finite(x: Tensor) -> bool:
    """By the ends alone, in one pass: both are NaN where any value is."""
    return x.numel() == 0 or bool(torch.stack(x.aminmax()).isfinite().all())
