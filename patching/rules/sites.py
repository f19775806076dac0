"""Where backward rules act: hook points inside a model's norms, attentions and MLPs.

The hook names that only rules need are spelled here, all others in `patching.blocks`.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from transformer_lens.model_bridge.generalized_components.attention import AttentionBridge

from patching.blocks import Block, Norm, find_norm
from patching.model import Hook, Model

LOGITS_BEFORE_SOFTCAP = "unembed.hook_out"

_STREAM_NORMS = ("ln1", "ln1_post", "ln2", "ln2_post")
_HEAD_NORMS = ("q_norm", "k_norm")


@dataclass(frozen=True)
class Site:
    """A place where a part of a rule replaces the backward pass.

    The last of `hooks` does the replacing; those before it keep what it needs.
    """

    part: str
    place: str
    hooks: tuple[tuple[str, Hook], ...]


@dataclass(frozen=True)
class Unruled:
    """A place where a part of a rule belongs but cannot act, so that gradients stay plain there."""

    part: str
    place: str
    why: str

    def __str__(self) -> str:
        return f"{self.part} at {self.place}: {self.why}"


Part = Callable[[Model], list[Site | Unruled]]


@dataclass(frozen=True)
class NormPoints:
    """A norm of the model and the hook points before and after it."""

    place: str
    norm: Norm
    before: str
    after: str


@dataclass(frozen=True)
class NeuronPoints:
    """Hook points of an MLP's neurons: before and after the activation (and gate).

    `linear` is the other factor of a gated product; None where there is no gate.
    """

    pre: str
    linear: str | None
    post: str


@dataclass(frozen=True)
class AttentionPoints:
    """Hook points of one layer's attention scores (masked, capped) and of their softmax."""

    scores: str
    pattern: str


def stream_norms(model: Model) -> Iterator[NormPoints]:
    """Every norm over the residual stream or over a write to it, the final one included."""
    for block in model.blocks:
        yield from _norms(block.bridge, f"blocks.{block.index}", _STREAM_NORMS)
    yield from _norms(model.bridge, "", ("ln_final",))


def head_norms(model: Model) -> Iterator[NormPoints]:
    """Norms of queries and keys (Qwen 3, Gemma 3, OLMo 2, ...)."""
    for block in model.blocks:
        yield from _norms(
            getattr(block.bridge, "attn", None), f"blocks.{block.index}.attn", _HEAD_NORMS
        )


def neurons(block: Block) -> NeuronPoints | None:
    """The layer's neurons; None where no hook point shows them (mixtures of experts)."""
    mlp = getattr(block.bridge, "mlp", None)
    if not hasattr(mlp, "in") or not hasattr(mlp, "out"):
        return None
    linear, gate, out = (f"blocks.{block.index}.mlp.{x}" for x in ("in", "gate", "out"))
    if hasattr(mlp, "gate"):
        return NeuronPoints(f"{gate}.hook_out", f"{linear}.hook_out", f"{out}.hook_in")
    return NeuronPoints(f"{linear}.hook_out", None, f"{out}.hook_in")


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


def softcap(model: Model) -> float | None:
    """The cap `c` of logits `c * tanh(logits / c)`; None where there is none."""
    cap = getattr(model.bridge.cfg, "output_logits_soft_cap", None)
    return float(cap) if cap is not None and cap > 0 else None


def _norms(owner: object, prefix: str, names: tuple[str, ...]) -> Iterator[NormPoints]:
    for name in names:
        norm = find_norm(getattr(owner, name, None))
        if norm is not None:
            place = f"{prefix}.{name}" if prefix else name
            yield NormPoints(place, norm, f"{place}.hook_in", f"{place}.hook_out")
