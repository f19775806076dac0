"""Where backward rules act: hook points inside a model's norms, attentions and MLPs.

The hook names that only rules need are spelled here, all others in `patching.anatomy.blocks` and
`patching.anatomy.insides`.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from torch import Tensor

from patching.anatomy.insides import AttentionPoints as AttentionPoints
from patching.anatomy.insides import NeuronPoints as NeuronPoints
from patching.anatomy.insides import neurons as neurons
from patching.anatomy.insides import softmax as softmax
from patching.anatomy.latent import LatentAttention
from patching.anatomy.norms import Norm, find_norm, has_formula
from patching.model import Hook, Model

LOGITS_BEFORE_SOFTCAP = "unembed.hook_out"

_STREAM_NORMS = ("ln1", "ln1_post", "ln2", "ln2_post")
_HEAD_NORMS = ("q_norm", "k_norm", "v_norm")


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


def stream_norms(model: Model) -> Iterator[NormPoints]:
    """Every norm over the residual stream or over a write to it, the final one included."""
    for block in model.blocks:
        yield from _norms(block.bridge, f"blocks.{block.index}", _STREAM_NORMS)
    yield from _norms(model.bridge, "", ("ln_final",))


def head_norms(model: Model) -> Iterator[NormPoints | Unruled]:
    """Norms of queries, keys (Qwen 3, Gemma 3, OLMo 2, ...) and values (Gemma 4)."""
    for block in model.blocks:
        attention, prefix = getattr(block.bridge, "attn", None), f"blocks.{block.index}.attn"
        if isinstance(getattr(attention, "original_component", None), LatentAttention):
            why = "norms of its latents lie behind its readers; plain gradient there"
            yield Unruled("head norm", prefix, why)
        for name in _HEAD_NORMS:
            norm = getattr(attention, name, None)
            if norm is not None and not has_formula(norm):
                why = "each head has a norm of its own; plain gradient there"
                yield Unruled("head norm", f"{prefix}.{name}", why)
            else:
                yield from _norms(attention, prefix, (name,))


def value_norms(model: Model) -> Iterator[NormPoints]:
    """Norms of values, in families that have them (Gemma 4)."""
    for block in model.blocks:
        yield from _norms(block.bridge.attn, f"blocks.{block.index}.attn", ("v_norm",))


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


def two_point_site(
    part: str,
    place: str,
    ends: tuple[str, str],
    *,
    replace: Callable[[Tensor, Tensor], Tensor],
    at_first: Callable[[Tensor], Tensor] | None = None,
) -> Site:
    """A site that needs a module's input as well as its output, and changes the output's gradient.

    `ends` are the hook points before and after the module; `replace(before, after)` has the value
    of `after` and another gradient, see `graft`. `at_first` makes what the module gets.

    >>> import torch
    >>> from patching.rules.parts import graft
    >>> twice = two_point_site("twice", "m0", ("in", "out"), replace=lambda x, y: graft(y, 2 * x))
    >>> (_, keep), (_, change) = twice.hooks
    >>> x = torch.tensor(3.0, requires_grad=True)
    >>> keep(x), change(x * x).backward(), x.grad.item()
    (None, None, 2.0)
    """
    kept = _Kept(replace, at_first)
    return Site(part, place, ((ends[0], kept.keep), (ends[1], kept.change)))


@dataclass
class _Kept:
    """A module's input, kept until its output comes by."""

    replace: Callable[[Tensor, Tensor], Tensor]
    at_first: Callable[[Tensor], Tensor] | None
    input: Tensor | None = None

    def keep(self, x: Tensor) -> Tensor | None:
        self.input = x
        return None if self.at_first is None else self.at_first(x)

    def change(self, y: Tensor) -> Tensor | None:
        x, self.input = self.input, None
        assert x is not None, "a module's input comes before its output"
        return self.replace(x, y) if x.requires_grad else None
