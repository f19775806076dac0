"""Places: named activations of a model, and where its hook points show them.

    embed                       the token embedding, without learned positions  [batch pos d_model]
    r3.pre  r3.mid  r3.post     the residual stream before layer 3, between its attention and its
                                MLP, and after it                               [batch pos d_model]
    a3  m3                      what attention and MLP add to the stream        [batch pos d_model]
    a3.h1.z (or a3.h1)          a head's mixed values                           [batch pos d_head]
    a3.h1.q  a3.h1.k  a3.h1.v   its queries, keys and values, before any norm or rotation; where
                                heads share keys and values, a3.g0.k and a3.g0.v are a group's
    a3.h1.pattern               its attention, from each position to each       [batch pos pos]
    m3.n17                      an MLP neuron: an input of the output projection     [batch pos]
    m3.in                       what an MLP reads, after its norm               [batch pos d_model]
    m3.out                      its output before a norm that follows it; m3 where none does
    a3.z  a3.q  ...  m3.neurons all heads, groups or neurons of a layer: one axis more, which comes
                                second in a3.pattern and third elsewhere

Knows nothing of what is done at a place.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Protocol, runtime_checkable

from jaxtyping import Shaped
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from patching.anatomy.blocks import EMBEDDING, POSITIONS, Block
from patching.anatomy.insides import mlp_sum, neurons, softmax
from patching.graph import Graph


@runtime_checkable
class Anatomy(Protocol):
    """What of a `Model` says where its places are."""

    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def bridge(self) -> TransformerBridge: ...  # noqa: D102
    @property
    def graph(self) -> Graph: ...  # noqa: D102
    @property
    def blocks(self) -> tuple[Block, ...]: ...  # noqa: D102
    @property
    def learns_positions(self) -> bool: ...  # noqa: D102


@dataclass(frozen=True)
class Place:
    """A named activation: a slice of the tensor at one hook point, plus an offset where it has one.

    `hook` is where it is read and changed, and where its gradient is found. `axis` and `index`
    say which slice it is (a head, a key-value group, a neuron); None for the whole tensor.

    `offset` names the hook point of another tensor, seen earlier in the run, and the sign with
    which that is added to give the value. The stream after attention is what attention writes
    plus the stream before it (the library's own hook point there is a branch, whose edits never
    reach the stream); the token embedding is the embedding minus the learned positions.
    """

    name: str
    kind: str
    layer: int
    hook: str
    axis: int | None = None
    index: int | None = None
    offset: tuple[str, int] | None = None

    @property
    def pos_axis(self) -> int:
        """Which axis of `view` counts positions (in a pattern: those that attend)."""
        return 2 if self.kind == "pattern" and self.index is None else 1

    @property
    def hooks(self) -> tuple[str, ...]:
        """The hook points whose tensors make the value, in the order in which they fire."""
        return (self.hook,) if self.offset is None else (self.offset[0], self.hook)

    def view(self, tensor: Shaped[Tensor, "..."]) -> Shaped[Tensor, "..."]:
        """This place's part of the tensor at its hook point, sharing its memory."""
        if self.axis is None or self.index is None:
            return tensor
        return tensor.select(self.axis, self.index)

    def value(
        self, tensor: Shaped[Tensor, "..."], offset: Shaped[Tensor, "..."] | None = None
    ) -> Shaped[Tensor, "..."]:
        """The activation, from the tensors at `hook` and (where there is one) at the offset's."""
        if self.offset is None:
            return self.view(tensor)
        assert offset is not None, f"{self.name} is made of two tensors"
        return tensor + self.offset[1] * offset


def find(model: Anatomy, name: str) -> Place:
    """The place with this name, as the table above spells them.

    >>> from patching import Model
    >>> find(Model.load("truth/induction"), "a1.h2.z").hook
    'blocks.1.attn.o.hook_in'

    Raises:
        ValueError: if no place is named so, the model has no such layer, head or neuron, or its
            family hides the place.
    """
    if name == "embed":
        offset = (POSITIONS, -1) if model.learns_positions else None
        return Place("embed", "embed", -1, EMBEDDING, offset=offset)
    parts = _parse(name)
    if parts is None:
        raise ValueError(_unknown(model, name))
    n_layers = len(model.blocks)
    if parts.layer >= n_layers:
        raise ValueError(
            f"there is no place {name!r}: {model.name} has {n_layers} layers, 0 to {n_layers - 1}"
        )
    whole = {**_WHOLE, **_INSIDE_MLPS}[parts.kind](model, model.blocks[parts.layer])
    if parts.index is None:
        return whole
    letter = _check_unit(model, name, parts)
    spelled = f"{name[0]}{parts.layer}.{letter}{parts.index}"
    spelled += "" if parts.kind == "neurons" else f".{parts.kind}"
    axis = 1 if parts.kind == "pattern" else 2
    return Place(spelled, parts.kind, parts.layer, whole.hook, axis, parts.index)


def of_kind(model: Anatomy, kind: str) -> tuple[Place, ...]:
    """The places of one of `KINDS`, one per layer, each the whole tensor (all heads or neurons).

    >>> from patching import Model
    >>> [place.name for place in of_kind(Model.load("truth/induction"), "resid_pre")]
    ['r0.pre', 'r1.pre']

    Raises:
        ValueError: if there is no such kind, or the family hides it.
    """
    if kind not in _WHOLE:
        near = get_close_matches(kind, KINDS, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"there is no kind of place {kind!r}: one of {', '.join(KINDS)}{hint}")
    return tuple(_WHOLE[kind](model, block) for block in model.blocks)


def units(model: Anatomy, kind: str) -> tuple[str, ...]:
    """Labels of the heads, key-value heads or neurons along the unit axis of a kind; else empty."""
    count = {
        **dict.fromkeys(("z", "q", "pattern"), model.graph.n_heads),
        **dict.fromkeys(("k", "v"), model.graph.n_kv_heads),
    }
    n = _n_neurons(model) if kind == "neurons" else count.get(kind, 0)
    return tuple(f"{_letter(model, kind)}{i}" for i in range(n))


def _n_neurons(model: Anatomy) -> int:
    """By the weights: the library's count is wrong for some families (OPT)."""
    block = model.blocks[0]
    out = getattr(block.bridge.mlp, "out", None)
    if out is None:
        return 0
    return out.original_component.weight.numel() // block.w_o.shape[2]


@dataclass(frozen=True)
class _Parts:
    kind: str
    layer: int
    letter: str = ""
    index: int | None = None


_STREAM = re.compile(r"r(\d+)\.(pre|mid|post)")
_WRITE = re.compile(r"([am])(\d+)")
_HEAD = re.compile(r"a(\d+)\.([hg])(\d+)(?:\.(z|q|k|v|pattern))?")
_HEADS = re.compile(r"a(\d+)\.(z|q|k|v|pattern)")
_MLP = re.compile(r"m(\d+)\.(in|out)")
_NEURON = re.compile(r"m(\d+)\.(?:n(\d+)|neurons)")


def _parse(name: str) -> _Parts | None:
    if found := _STREAM.fullmatch(name):
        return _Parts(f"resid_{found[2]}", int(found[1]))
    if found := _WRITE.fullmatch(name):
        return _Parts("attn_out" if found[1] == "a" else "mlp_out", int(found[2]))
    if found := _HEAD.fullmatch(name):
        return _Parts(found[4] or "z", int(found[1]), found[2], int(found[3]))
    if found := _HEADS.fullmatch(name) or _MLP.fullmatch(name):
        return _Parts({"in": "mlp_in", "out": "mlp_sum"}.get(found[2], found[2]), int(found[1]))
    if found := _NEURON.fullmatch(name):
        return _Parts("neurons", int(found[1]), "n", None if found[2] is None else int(found[2]))
    return None


def _letter(model: Anatomy, kind: str) -> str:
    shared = kind in ("k", "v") and model.graph.n_kv_heads < model.graph.n_heads
    return "n" if kind == "neurons" else "g" if shared else "h"


def _check_unit(model: Anatomy, name: str, parts: _Parts) -> str:
    """The letter of the unit.

    Raises:
        ValueError: if there is no such unit.
    """
    letter, n = _letter(model, parts.kind), len(units(model, parts.kind))
    assert parts.index is not None, "only names with a unit come here"
    if letter != parts.letter:
        why = "no heads share these" if letter == "h" else f"heads share these, in {n} groups"
        raise ValueError(
            f"there is no place {name!r}: in {model.name} {why}; "
            f"name one such as 'a{parts.layer}.{letter}0.{parts.kind}'"
        )
    if parts.index >= n:
        what = {"h": "heads", "g": "key-value heads", "n": "neurons"}[letter]
        raise ValueError(
            f"there is no place {name!r}: layer {parts.layer} of {model.name} has {n} {what}, "
            f"{letter}0 to {letter}{n - 1}"
        )
    return letter


def _stream_after_attention(model: Anatomy, block: Block) -> Place:
    i = block.index
    if block.parallel:
        raise ValueError(
            f"there is no place 'r{i}.mid': attention and MLP of {model.name} read the same "
            f"stream, and none lies between them; take r{i}.pre or r{i}.post"
        )
    return Place(f"r{i}.mid", "resid_mid", i, block.attention_out, offset=(block.stream_in, 1))


def _pattern(model: Anatomy, block: Block) -> Place:
    points = softmax(block)
    if points is None:
        raise ValueError(
            f"there is no place 'a{block.index}.pattern': no hook point reaches inside the "
            f"attention of {model.name}; take z, q, k or v"
        )
    return Place(f"a{block.index}.pattern", "pattern", block.index, points.pattern)


def _neurons(model: Anatomy, block: Block) -> Place:
    points = neurons(block)
    if points is None:
        raise ValueError(
            f"there is no place 'm{block.index}.neurons': no hook point reaches inside the MLPs "
            f"of {model.name} (mixtures of experts); take m{block.index}, the whole MLP"
        )
    return Place(f"m{block.index}.neurons", "neurons", block.index, points.post)


def _before_post_norm(model: Anatomy, block: Block) -> Place:
    if (hook := mlp_sum(block)) is None:
        return _WHOLE["mlp_out"](model, block)
    return Place(f"m{block.index}.out", "mlp_sum", block.index, hook)


_WHOLE: dict[str, Callable[[Anatomy, Block], Place]] = {
    "resid_pre": lambda _, b: Place(f"r{b.index}.pre", "resid_pre", b.index, b.stream_in),
    "resid_mid": _stream_after_attention,
    "resid_post": lambda _, b: Place(f"r{b.index}.post", "resid_post", b.index, b.stream_out),
    "attn_out": lambda _, b: Place(f"a{b.index}", "attn_out", b.index, b.attention_out),
    "mlp_out": lambda _, b: Place(f"m{b.index}", "mlp_out", b.index, b.mlp_out),
    "z": lambda _, b: Place(f"a{b.index}.z", "z", b.index, b.z),
    "q": lambda _, b: Place(f"a{b.index}.q", "q", b.index, b.qkv[0]),
    "k": lambda _, b: Place(f"a{b.index}.k", "k", b.index, b.qkv[1]),
    "v": lambda _, b: Place(f"a{b.index}.v", "v", b.index, b.qkv[2]),
    "pattern": _pattern,
    "neurons": _neurons,
}
KINDS: tuple[str, ...] = tuple(_WHOLE)
"""Kinds of places of which every layer has one, and that sweeps go over."""

_INSIDE_MLPS: dict[str, Callable[[Anatomy, Block], Place]] = {
    "mlp_in": lambda _, b: Place(f"m{b.index}.in", "mlp_in", b.index, b.mlp_in),
    "mlp_sum": _before_post_norm,
}


def _unknown(model: Anatomy, name: str) -> str:
    near = get_close_matches(name, _names(model), n=3, cutoff=0.5)
    hint = (
        f"did you mean {' or '.join(near)}?"
        if near
        else "names look like r0.pre, a0.h1.z, a0, m0.n7"
    )
    return f"there is no place {name!r} in {model.name}; {hint}"


def _names(model: Anatomy) -> list[str]:
    """Names to suggest: all but single neurons."""
    names = ["embed"]
    for i in range(len(model.blocks)):
        names += [f"r{i}.{when}" for when in ("pre", "mid", "post")]
        names += [f"a{i}", f"m{i}", f"m{i}.in", f"m{i}.out", f"m{i}.neurons"]
        for kind in ("z", "q", "k", "v", "pattern"):
            names += [f"a{i}.{kind}", *(f"a{i}.{unit}.{kind}" for unit in units(model, kind))]
    return names
