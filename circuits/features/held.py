"""The same linear function forwards: runs with attention and norms held at those of a first run.

Queries and keys are put back, which holds the pattern in every family, also where no hook reaches
its softmax; norms are rebuilt from the first run's denominators. What MLPs write is up to the
caller. Any change of a write then changes every reader linearly.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from patching.anatomy.blocks import EMBEDDING, UNEMBED_IN
from patching.anatomy.norms import Norm, widen
from patching.model import Hook, Model
from patching.modes import without_gradients
from patching.rules.sites import NormPoints, stream_norms, value_norms

Key = TypeVar("Key")
Write = Callable[[int, Tensor], Tensor]
"""What a layer's MLP writes, `[row pos d_model]`, given what it reads."""


@dataclass(frozen=True, eq=False)
class Frozen:
    """What is held of a first run: queries and keys by hook point, denominators by norm.

    Those of norms that follow an MLP are kept too, though nothing has to hold these norms.
    """

    model: Model
    projections: Mapping[str, Float[Tensor, "1 pos head d_head"]]
    sigmas: Mapping[str, Float[Tensor, "1 pos *head 1"]]

    def hold_attention(self) -> list[tuple[str, Hook]]:
        """Hooks that put the first run's queries and keys in."""
        return [(name, partial(_put, x)) for name, x in self.projections.items()]

    def hold_norms(self) -> list[tuple[str, Hook]]:
        """Hooks that rebuild norms; not those after an MLP, whose output is the MLP's write."""
        hooks: list[tuple[str, Hook]] = []
        for points in _held_norms(self.model):
            rebuilt = _Rebuilt(points.norm, self.sigmas[points.place])
            hooks += [(points.before, rebuilt.keep), (points.after, rebuilt.make)]
        return hooks

    def sigma_after(self, layer: int) -> Float[Tensor, "1 pos 1"] | None:
        """The denominator of the norm that follows an MLP; None where there is none."""
        return self.sigmas.get(_after_mlp(layer))


@dataclass(frozen=True, eq=False)
class Readings:
    """What every MLP reads, and the unembedding, in some rows; and what else was asked for."""

    inputs: tuple[Float[Tensor, "row pos d_model"], ...]
    final: Float[Tensor, "row pos d_model"]
    seen: Mapping[str, Tensor] = field(default_factory=dict)


@without_gradients
def read_held(
    frozen: Frozen,
    embedding: Float[Tensor, "row pos d_model"],
    write: Write,
    *,
    seen: Sequence[str] = (),
) -> Readings:
    """Run rows of the prompt with all held, another embedding, and other writes of MLPs.

    `seen` are hook points whose tensors are wanted as well.
    """
    model = frozen.model
    inputs: dict[int, Tensor] = {}
    final: list[Tensor] = []
    kept: dict[str, Tensor] = {}
    hooks: list[tuple[str, Hook]] = [
        (EMBEDDING, partial(_put, embedding)),
        *frozen.hold_attention(),
        *frozen.hold_norms(),
        *((block.mlp_in, partial(_keep, inputs, block.index)) for block in model.blocks),
        *((block.mlp_out, partial(_write, inputs, block.index, write)) for block in model.blocks),
        (UNEMBED_IN, partial(_append, final)),
        *((name, partial(_keep, kept, name)) for name in seen),
    ]
    n_pos = embedding.shape[1]
    tokens = torch.zeros(len(embedding), n_pos, dtype=torch.long, device=model.device)
    with model.hooked(hooks):
        model.bridge(tokens)
    return Readings(tuple(inputs[block.index] for block in model.blocks), final[0], kept)


class Keeping:
    """Hooks that keep what `Frozen` holds."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self._projections: dict[str, Tensor] = {}
        self._sigmas: dict[str, Tensor] = {}

    @property
    def hooks(self) -> list[tuple[str, Hook]]:
        """To be in place during the first run."""
        blocks = self._model.blocks
        names = [name for b in blocks for name in (*b.qkv[:2], *b.projections[3:])]
        found: list[tuple[str, Hook]] = [(name, partial(self._project, name)) for name in names]
        norms = (*stream_norms(self._model), *value_norms(self._model))
        return found + [(points.before, partial(self._divide, points)) for points in norms]

    def sigma_after(self, layer: int) -> Float[Tensor, "1 pos 1"] | None:
        """The denominator of the norm that follows an MLP, once it has been passed."""
        return self._sigmas.get(_after_mlp(layer))

    def finish(self) -> Frozen:
        """What was kept."""
        return Frozen(self._model, self._projections, self._sigmas)

    def _project(self, name: str, x: Tensor) -> None:
        self._projections[name] = x.detach().clone()

    def _divide(self, points: NormPoints, x: Tensor) -> None:
        self._sigmas[points.place] = points.norm.sigma(x.detach())


class _Rebuilt:
    """A norm's output from its input and another run's denominator."""

    def __init__(self, norm: Norm, sigma: Float[Tensor, "1 pos *head 1"]) -> None:
        self._norm, self._sigma = norm, sigma
        self._input: Tensor | None = None

    def keep(self, x: Tensor) -> None:
        self._input = x.detach()

    def make(self, y: Tensor) -> Tensor:
        assert self._input is not None, "a norm's input comes before its output"
        x, beta = self._norm.at(self._input, self._sigma), self._norm.beta
        return (x if beta is None else x + widen(beta).to(x.device)).to(y.dtype)


def _after_mlp(layer: int) -> str:
    return f"blocks.{layer}.ln2_post"


def _held_norms(model: Model) -> list[NormPoints]:
    after_mlp = {_after_mlp(block.index) for block in model.blocks}
    norms = (*stream_norms(model), *value_norms(model))
    return [points for points in norms if points.place not in after_mlp]


def _put(value: Tensor, x: Tensor) -> Tensor:
    return value.to(x).expand_as(x)


def _keep(kept: dict[Key, Tensor], name: Key, x: Tensor) -> None:
    kept[name] = x.detach()


def _append(kept: list[Tensor], x: Tensor) -> None:
    kept.append(x.detach())


def _write(inputs: dict[int, Tensor], layer: int, write: Write, y: Tensor) -> Tensor:
    return write(layer, inputs[layer]).to(y).expand_as(y)
