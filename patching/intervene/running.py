"""Putting interventions in place, for as long as a `with` lasts."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol, cast, runtime_checkable

import torch
from jaxtyping import Int
from torch import Tensor, nn

from patching.anatomy.places import Place, find, units
from patching.anatomy.turns import turn
from patching.intervene.changes import Intervention, positions_of
from patching.model import Hook, Model


@runtime_checkable
class _Cache(Protocol):
    """Keys and values of earlier tokens, as Hugging Face keeps them."""

    def get_seq_length(self) -> int: ...  # noqa: D102


@contextmanager
def intervening(model: Model, *interventions: Intervention) -> Iterator[None]:
    """Runs inside have these activations changed, one after the other where they share a place.

    Holds for whatever runs the model: `model.run`, `model.answer_logits`, `model.bridge(...)`,
    its `run_with_hooks` and its `generate`, with a key-value cache or without. What is cached or
    hooked inside sees the changed activations. On leaving, however, all is as before.

    Positions are those of the prompt, also while tokens are generated after it: an intervention
    with positions then acts on the prompt alone, one without acts on every new token too (but a
    patch from a run has nothing to put there). A run whose tokens go on from those of the run
    before counts as generating. Sweeps run inside too, where no MLP is changed.

    >>> from patching.intervene import zero
    >>> model = Model.load("truth/induction")
    >>> with intervening(model, zero("a1.z")):
    ...     seen = model.run([0, 5, 6, 5], cache=["a1.h0.z"])
    >>> float(seen["a1.h0.z"].abs().max())
    0.0

    Raises:
        ValueError: if there is no such place; and from a run inside, before it starts: if a prompt
            has no such position or another length than the patch, the shapes do not fit, or text
            is generated with a key-value cache that is not filled.
    """
    _ = model.blocks_return_tuples  # found out by a run of its own, which must not be changed
    watch = _Watch(tuple(_Ready(model, find(model, i.place), i) for i in interventions))
    seen = cast(nn.Module, model.bridge.original_model)
    with turn(model.bridge):
        handle = seen.register_forward_pre_hook(watch.before, with_kwargs=True)
        try:
            with model.hooked(watch.hooks()):
                yield
        finally:
            handle.remove()


@dataclass(frozen=True)
class _Call:
    """One forward call: its rows and columns, and where it stands in each prompt.

    `first` is the prompt position of the first column: more than 0 where earlier tokens come from
    a key-value cache. `starts` is the column of each row's first real token.
    """

    n_rows: int
    n_columns: int
    first: int
    starts: Int[Tensor, " row"]


@dataclass(frozen=True)
class _Ready:
    """An intervention with its place in a model."""

    model: Model
    place: Place
    wish: Intervention

    def columns(self, call: _Call) -> Int[Tensor, "row chosen"] | None:
        """The columns to change, row by row; None for all of them."""
        if self.wish.positions is not None:
            positions = torch.tensor(positions_of(self.wish.positions), device=call.starts.device)
            return call.starts[:, None] + positions - call.first
        if self.wish.length is not None:
            positions = torch.arange(self.wish.length, device=call.starts.device)
            return positions.expand(call.n_rows, -1) - call.first
        return None

    def check(self, call: _Call) -> None:
        """Refuse a prompt that the intervention does not fit.

        Raises:
            ValueError: saying what does not fit.
        """
        name, wish = self.wish.place, self.wish
        if wish.length is not None and wish.length != call.n_columns:
            raise ValueError(
                f"the patch of {name!r} comes from prompts of {wish.length} tokens, and this run "
                f"has {call.n_columns}; take prompts of one length, or name positions"
            )
        columns = self.columns(call)
        if columns is not None and int(columns.max()) >= call.n_columns:
            row = int(columns.amax(dim=1).argmax())
            start = int(call.starts[row])
            n, wanted = call.n_columns - start, int(columns[row].max()) - start
            raise ValueError(
                f"{name!r} is to be changed at position {wanted}, and the prompt in row {row} "
                f"has {n} positions, 0 to {n - 1}"
            )
        n_chosen = call.n_columns if columns is None else columns.shape[1]
        self._check_shape(call, n_chosen)

    def _check_shape(self, call: _Call, n_chosen: int) -> None:
        if self.wish.brings is None:
            return
        expected = _shape(self.model, self.place, call, n_chosen)
        brings = self.wish.brings
        fits = len(brings) == len(expected) and all(
            b in (1, e) for b, e in zip(brings, expected, strict=True)
        )
        if not fits:
            raise ValueError(
                f"what is put at {self.wish.place!r} has shape {list(brings)}; with this run's "
                f"{call.n_rows} prompts and {n_chosen} positions to change, {list(expected)} would "
                "fit, or 1 on any axis"
            )

    def apply(self, tensor: Tensor, offset: Tensor | None, call: _Call) -> Tensor:
        """The tensor at the place's hook point, changed where it is to be.

        Raises:
            ValueError: inside a sweep, whose MLPs see only some tokens.
        """
        if len(tensor) != call.n_rows:
            raise ValueError(
                f"{self.wish.place!r} cannot be changed during a sweep, whose MLPs leave out the "
                "tokens that no patch reaches; change attention or the stream, or use loops"
            )
        columns = self.columns(call)
        if columns is not None and not 0 <= int(columns.max()) < call.n_columns:
            return tensor  # generating: the prompt has passed
        out = tensor.clone()
        axis = self.place.pos_axis
        value = self.place.view(out).movedim(axis, 1)
        at: tuple[Tensor | slice, ...] = (slice(None),)
        if columns is not None:
            at = torch.arange(len(value), device=value.device)[:, None], columns.to(value.device)
        start = 0 if offset is None else offset.expand_as(value)[at]
        changed = self.wish.change((value[at] + start).movedim(1, axis))
        value[at] = changed.movedim(axis, 1).to(value.dtype) - start
        return out


class _Watch:
    """Knows the forward call at hand, and keeps what its hooks need of each other."""

    def __init__(self, ready: tuple[_Ready, ...]) -> None:
        self._ready = ready
        self._offsets: dict[str, Tensor] = {}
        self._call: _Call | None = None
        self._tokens: Tensor | None = None

    def hooks(self) -> list[tuple[str, Hook]]:
        """Changes in their order; what they start from is kept after it has been changed."""
        changes = [(ready.place.hook, self._change(ready)) for ready in self._ready]
        offsets = {ready.place.offset[0] for ready in self._ready if ready.place.offset}
        return [*changes, *((name, self._keep(name)) for name in sorted(offsets))]

    def before(
        self, module: nn.Module, args: tuple[object, ...], kwargs: dict[str, object]
    ) -> None:
        """A look at what is about to run, with checks; a hook of the plain model."""
        tokens = next(
            x
            for x in (kwargs.get("input_ids"), kwargs.get("inputs_embeds"), *args)
            if x is not None
        )
        assert isinstance(tokens, Tensor), "a model reads tokens or embeddings"
        cache, mask = kwargs.get("past_key_values"), kwargs.get("attention_mask")
        first = 0 if cache is None else int(cast(_Cache, cache).get_seq_length())
        if cache is not None:
            _refuse_unfilled(mask, first + tokens.shape[1])
        starts = torch.zeros(len(tokens), dtype=torch.long, device=tokens.device)
        if isinstance(mask, Tensor) and mask.ndim == 2:
            starts = mask.long().argmax(dim=1)
        self._call = _Call(tokens.shape[0], tokens.shape[1], first, starts)
        if first == 0 and not self._goes_on(tokens):
            for ready in self._ready:
                ready.check(self._call)
        self._tokens = tokens

    def _goes_on(self, tokens: Tensor) -> bool:
        """Whether the tokens are those of the last run and some more: they are being generated."""
        last = self._tokens
        if last is None or len(last) != len(tokens) or last.shape[1] >= tokens.shape[1]:
            return False
        return torch.equal(tokens[:, : last.shape[1]], last)

    def _change(self, ready: _Ready) -> Hook:
        place = ready.place
        sign = 0 if place.offset is None else place.offset[1]

        def hook(tensor: Tensor) -> Tensor:
            assert self._call is not None, "the plain model has been called"
            offset = None if place.offset is None else sign * self._offsets[place.offset[0]]
            return ready.apply(tensor, offset, self._call)

        return hook

    def _keep(self, name: str) -> Hook:
        def hook(tensor: Tensor) -> None:
            self._offsets[name] = tensor

        return hook


def _refuse_unfilled(mask: object, n: int) -> None:
    """Refuse a cache that holds less than the mask speaks of: earlier runs have not filled it.

    Raises:
        ValueError: saying what would be right.
    """
    if isinstance(mask, Tensor) and mask.ndim == 2 and mask.shape[1] != n:
        raise ValueError(
            f"the attention mask is of {mask.shape[1]} tokens, and the key-value cache with what "
            f"is run now of {n}: this version of transformers does not fill the cache that "
            "generate goes by; use_past_kv_cache=False would be right"
        )


def _shape(model: Model, place: Place, call: _Call, n_chosen: int) -> tuple[int, ...]:
    """The shape of the activation at the chosen positions."""
    block = model.blocks[max(place.layer, 0)]
    n_units = () if place.index is not None else (len(units(model, place.kind)),)
    if place.kind == "pattern":
        return (call.n_rows, *n_units, n_chosen, call.first + call.n_columns)
    widths = {"z": block.w_o.shape[1]}
    widths |= {kind: w.shape[2] for kind, w in zip("qkv", block.w_qkv, strict=True)}
    if place.kind in widths:
        return (call.n_rows, n_chosen, *n_units, widths[place.kind])
    return (call.n_rows, n_chosen, *(n_units if place.kind == "neurons" else (block.w_o.shape[2],)))
