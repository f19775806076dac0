"""Hook points inside a block's attention and MLP: its softmax and its neurons.

Not every family shows them; hook names of what all families show are spelled in `blocks`.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from transformer_lens.model_bridge.generalized_components.attention import AttentionBridge

from patching.anatomy.blocks import Block
from patching.anatomy.silent import is_silent


@dataclass(frozen=True)
class NeuronPoints:
    """Hook points of an MLP's neurons: before and after the activation (and gate).

    `linear` is the other factor of a gated product; None where there is no gate. `pre` is None
    where one projection makes both factors and nothing shows them apart (ModernBERT's decoder).
    """

    pre: str | None
    linear: str | None
    post: str


@dataclass(frozen=True)
class AttentionPoints:
    """Hook points of one layer's attention scores (masked, capped) and of their softmax."""

    scores: str
    pattern: str


def neurons(block: Block) -> NeuronPoints | None:
    """The layer's neurons; None where it has none, or no hook point shows them (experts)."""
    mlp = getattr(block.bridge, "mlp", None)
    if is_silent(mlp):
        return None
    if not hasattr(mlp, "in") or not hasattr(mlp, "out"):
        return None
    linear, gate, out = (f"blocks.{block.index}.mlp.{x}" for x in ("in", "gate", "out"))
    if hasattr(mlp, "gate"):
        return NeuronPoints(f"{gate}.hook_out", f"{linear}.hook_out", f"{out}.hook_in")
    makes, takes = (getattr(mlp, x).original_component.weight.numel() for x in ("in", "out"))
    return NeuronPoints(f"{linear}.hook_out" if makes == takes else None, None, f"{out}.hook_in")


def softmax(block: Block) -> AttentionPoints | None:
    """The layer's softmax; None where hooks do not reach it, or it sees more than the scores.

    Some attentions (OPT, GPT-J, GPT-Neo) run as Hugging Face wrote them, and their hook points
    fire only afterwards; sinks (GPT-OSS) join the softmax behind the hook point.
    """
    attention = getattr(block.bridge, "attn", None)
    inside = getattr(attention, "original_component", None)
    delegated = getattr(type(attention), "forward", None) is AttentionBridge.forward
    if delegated or getattr(inside, "sinks", None) is not None:
        return None
    prefix = f"blocks.{block.index}.attn"
    return AttentionPoints(f"{prefix}.hook_attn_scores", f"{prefix}.hook_pattern")


def mlp_sum(block: Block) -> str | None:
    """Where the MLP's output passes before its post-norm; None where there is no such norm."""
    has_norm = hasattr(block.bridge, "ln2_post")
    return f"blocks.{block.index}.ln2_post.hook_in" if has_norm else None


def shown_pattern(block: Block) -> str:
    """Where the layer's attention pattern can be read, `[batch head query key]`.

    Every family shows it, but where `softmax` is None only after the fact: to be read, not edited.
    """
    return f"blocks.{block.index}.attn.hook_pattern"


@contextmanager
def forgetting(blocks: Sequence[Block]) -> Iterator[None]:
    """On leaving, attentions forget the last pattern, which some keep together with its graph."""
    try:
        yield
    finally:
        for block in blocks:
            block.forget_pattern()
