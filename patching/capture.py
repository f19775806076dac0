"""What one run leaves behind: logits, the embedding, and what every writer wrote.

Writers are kept as small as they are: heads before their output projection, in d_head, where the
difference of two runs is taken; `expand_writes` makes d_model of a few tokens at a time.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from patching.anatomy.blocks import EMBEDDING, POSITIONS, Block, widen
from patching.anatomy.devices import AtLayer, Hook, rows_at
from patching.files.brief import briefly
from patching.model import Model
from patching.modes import without_gradients
from patching.tasks.task import Batch

_NOTHING: Mapping[str, int] = {}


@dataclass(frozen=True)
class Writes:
    """What the writers add to the stream at some tokens, in float32 or wider.

    `embed` is the token embedding alone, without learned positions. `heads[l]` is the
    `Block.head_input` of layer l. All of it is linear: differences are taken part by part.
    Each part lies where its layer lies.
    """

    embed: Float[Tensor, "token d_model"]
    heads: tuple[Float[Tensor, "token head d_head"], ...]
    mlps: tuple[Float[Tensor, "token d_model"], ...]

    def map(self, change: Callable[[Tensor], Tensor]) -> "Writes":
        """The same change made to every part."""
        return Writes(
            change(self.embed), tuple(map(change, self.heads)), tuple(map(change, self.mlps))
        )

    def to(self, device: torch.device) -> "Writes":
        """All parts on one device."""
        return self.map(lambda part: part.to(device))

    def like(self, other: "Writes") -> "Writes":
        """Each part in the type of the other's, and where that one lies."""
        return self._pairwise(other, lambda part, there: part.to(there))

    def _pairwise(self, other: "Writes", join: Callable[[Tensor, Tensor], Tensor]) -> "Writes":
        return Writes(
            join(self.embed, other.embed),
            tuple(map(join, self.heads, other.heads)),
            tuple(map(join, self.mlps, other.mlps)),
        )

    def __sub__(self, other: "Writes") -> "Writes":
        return self._pairwise(other, torch.sub)

    def __add__(self, other: "Writes") -> "Writes":
        return self._pairwise(other, torch.add)

    def __getitem__(self, tokens: slice | Int[Tensor, " chosen"]) -> "Writes":
        if isinstance(tokens, slice):
            return self.map(lambda part: part[tokens])
        return self.map(lambda part: part[tokens.to(part.device)])

    def __len__(self) -> int:
        return len(self.embed)


@briefly
@dataclass(frozen=True)
class Run:
    """A finished run: logits at the answer positions, the whole embedding, chosen writes.

    `positions` is the part of the embedding that learned position embeddings add (else zeros).
    `seen` are values at further hook points that were asked for, at the chosen tokens.
    """

    logits: Float[Tensor, "asked vocab"]
    embedding: Float[Tensor, "batch pos d_model"]
    positions: Float[Tensor, "batch pos d_model"]
    writes: Writes
    seen: Mapping[str, Float[Tensor, "token ..."]]


def indices(chosen: Bool[Tensor, "batch pos"]) -> tuple[Tensor, ...]:
    """Row and position of each chosen token, found once for each mask: a device waits for that."""
    if chosen not in _INDICES:
        _INDICES[chosen] = chosen.nonzero(as_tuple=True)
    return _INDICES[chosen]


_INDICES = WeakTensorKeyDictionary()


def at_tokens(
    x: Shaped[Tensor, "batch pos ..."], chosen: tuple[Tensor, ...]
) -> Shaped[Tensor, "token ..."]:
    """Activations at tokens that `indices` found: a view of them, where those are all."""
    every = len(chosen[0]) == x.shape[:2].numel()
    return x.flatten(0, 1) if every else rows_at(x, chosen)


class Recorder:
    """Hooks that keep what the writers write at the chosen tokens; `finish` hands it over.

    `seen` are further hook points whose values are wanted, with the axis that counts positions.
    """

    def __init__(
        self, model: Model, tokens: Bool[Tensor, "batch pos"], seen: Mapping[str, int] = _NOTHING
    ) -> None:
        self._model = model
        self._tokens = indices(tokens)
        self._kept: dict[str, Tensor] = {}
        self._axes = seen
        self._seen: dict[str, Tensor] = {}

    @property
    def hooks(self) -> list[tuple[str, Hook]]:
        """To be in place during the run."""
        whole = [EMBEDDING, POSITIONS] if self._model.learns_positions else [EMBEDDING]
        hooks: list[tuple[str, Hook]] = [(name, partial(self._keep_whole, name)) for name in whole]
        for block in self._model.blocks:
            hooks.append((block.z, AtLayer(partial(self._keep, block.z))))
            if block.post_attention_norm is not None:
                divide = AtLayer(partial(self._divide_by_sigma, block))
                hooks.append((block.attention_sum, divide))
            hooks.append((block.mlp_out, AtLayer(partial(self._keep, block.mlp_out))))
        return hooks + [(name, AtLayer(partial(self._see, name))) for name in self._axes]

    def finish(self, logits: Float[Tensor, "asked vocab"]) -> Run:
        """The run, after it has happened."""
        embedding, kept = self._kept[EMBEDDING], self._kept
        positions = kept.get(POSITIONS, embedding.new_zeros(())).expand_as(embedding)
        writes = Writes(
            widen(embedding[self._tokens]) - positions[self._tokens],
            tuple(widen(kept[block.z]) for block in self._model.blocks),
            tuple(widen(kept[block.mlp_out]) for block in self._model.blocks),
        )
        return Run(logits.detach(), embedding, positions, writes, self._seen)

    def _keep_whole(self, name: str, tensor: Tensor) -> None:
        self._kept[name] = tensor.detach()

    def _keep(self, name: str, tensor: Tensor) -> None:
        self._kept[name] = at_tokens(tensor.detach(), self._tokens)

    def _see(self, name: str, tensor: Tensor) -> None:
        chosen = at_tokens(tensor.detach().movedim(self._axes[name], 1), self._tokens)
        self._seen[name] = widen(chosen.to(self._model.device))

    def _divide_by_sigma(self, block: Block, total: Tensor) -> None:
        chosen = at_tokens(total.detach(), self._tokens)
        self._kept[block.z] = block.head_input(self._kept[block.z], chosen)


@without_gradients
def capture(
    model: Model,
    tokens: Int[Tensor, "batch pos"],
    batch: Batch,
    *,
    at: Bool[Tensor, "batch pos"] | None = None,
    seen: Mapping[str, int] = _NOTHING,
    hooks: Sequence[tuple[str, Hook]] = (),
) -> Run:
    """Run `tokens` (the clean or corrupt ones of `batch`) and keep what its writers wrote.

    Writes are kept at `batch.can_differ` unless told otherwise: the only tokens where the two
    runs of a pair can differ and still reach the answer. `seen` as `Recorder` has it; `hooks` act
    after what is kept.
    """
    recorder = Recorder(model, batch.can_differ if at is None else at, seen)
    return recorder.finish(model.answer_logits(tokens, batch, [*recorder.hooks, *hooks]))


def expand_writes(model: Model, writes: Writes) -> Float[Tensor, "source token d_model"]:
    """Writes (or differences of them) in d_model, one row per writer of the graph.

    Takes `sources * tokens * d_model` values of memory: give few tokens at a time.
    """
    graph = model.graph
    out = writes.embed.new_empty(len(graph.sources), *writes.embed.shape)
    out[0] = writes.embed
    for block, heads, mlp in zip(model.blocks, writes.heads, writes.mlps, strict=True):
        block.head_writes(heads, out=out[graph.head_sources(block.index)])
        out[graph.mlp_source(block.index)] = mlp
    return out
