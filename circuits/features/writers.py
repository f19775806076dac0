"""Everything that writes in a linear run, and what gradients make of it: rows of a graph."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.features.linear import Gradients, LinearRun
from circuits.features.units import Features, Units
from patching.anatomy.norms import widen

_MANY = 4
"""Units a position from which on gradients are multiplied position by position, and not copied."""


@dataclass(frozen=True, eq=False)
class Rows:
    """What the units of one layer write at one MLP's output.

    `first` is the number of the first of them among all units.
    """

    first: int
    units: Units
    vectors: Float[Tensor, "unit d_model"]

    def weigh(self, g: Float[Tensor, "target pos d_model"]) -> Float[Tensor, "target unit"]:
        """What each of them writes of what targets read, given their gradients here."""
        n_pos, units = g.shape[1], self.units
        if len(units) < _MANY * n_pos:
            return torch.einsum("tnd,nd->tn", g[:, units.positions], self.vectors)
        parts = [g[:, pos] @ self.vectors[span].T for pos, span in units.spans(n_pos)]
        return torch.cat(parts, dim=1)


@dataclass(frozen=True, eq=False)
class Writers:
    """All sources of a graph: units, errors `[layer pos]`, embeddings `[pos]`; and constants.

    In float32 or wider, whatever the model computes in.

    Where errors are None there are none. `rows[l]` are those who write at layer l. `dropped` says
    that errors of the first position were left out, so that sums are not whole.
    """

    units: tuple[Units, ...]
    rows: tuple[tuple[Rows, ...], ...]
    errors: Float[Tensor, "layer pos d_model"] | None
    embedding: Float[Tensor, "pos d_model"]
    constants: tuple[Float[Tensor, "pos d_model"], ...]
    dropped: bool

    @property
    def n_units(self) -> int:
        """How many units write."""
        return sum(map(len, self.units))

    @property
    def n_sources(self) -> int:
        """How many columns a row has."""
        n_errors = 0 if self.errors is None else self.errors.shape[0] * self.errors.shape[1]
        return self.n_units + n_errors + len(self.embedding)

    def weigh(self, gradients: Gradients) -> Float[Tensor, "target source"]:
        """What every source writes of what targets read: gradient times write."""
        n_targets, n_pos = gradients.embedding.shape[:2]
        out = self.embedding.new_zeros(n_targets, self.n_sources)
        for layer, g in enumerate(map(widen, gradients.outputs)):
            for rows in self.rows[layer]:
                out[:, rows.first : rows.first + len(rows.units)] += rows.weigh(g)
            if self.errors is not None:
                start = self.n_units + layer * n_pos
                out[:, start : start + n_pos] = (g * self.errors[layer]).sum(dim=-1)
        out[:, -n_pos:] = (widen(gradients.embedding) * self.embedding).sum(dim=-1)
        return out


def find_writers(
    run: LinearRun, features: Features, units: Sequence[Units], *, drop_first: bool, whole: bool
) -> Writers:
    """The writers of a run, given its units.

    What an MLP writes and units do not is an error; with `whole`, that is nothing but rounding,
    and left out. `drop_first` takes the errors of the first position away.
    """
    rows = _rows(run, features, units)
    constants = tuple(features.constant(run, layer) for layer in range(len(run.outputs)))
    errors = None
    if not whole:
        errors = torch.stack([_error(run, features, constants, rows, i) for i in range(len(rows))])
        if drop_first:
            errors[:, 0] = 0
    embedding = widen((run.embedding.detach() - run.positions)[0])
    return Writers(tuple(units), rows, errors, embedding, constants, drop_first and not whole)


def choose_units(
    units: Sequence[Units], effects: Sequence[Float[Tensor, " _unit"]], *, most: int
) -> list[Units]:
    """At most so many units, those of largest effect in all layers together."""
    together = torch.cat([effect.abs() for effect in effects])
    if len(together) <= most:
        return list(units)
    chosen = torch.zeros_like(together, dtype=torch.bool)
    chosen[together.topk(most).indices] = True
    parts = chosen.split([len(some) for some in units])
    return [some[part] for some, part in zip(units, parts, strict=True)]


def effects_of(
    run: LinearRun, features: Features, units: Sequence[Units], gradients: Gradients
) -> list[Float[Tensor, " unit"]]:
    """What each unit's write is worth to the targets, in the sum of absolute values."""
    n_pos = gradients.embedding.shape[1]
    found: list[Tensor] = []
    for some in units:
        effect = some.values.new_zeros(len(some))
        for pos, span in some.spans(n_pos):
            here = some[span]
            worth = effect.new_zeros(len(gradients.embedding), len(here))
            for to in features.reached(some.layer):
                rows = features.writes(run, here, to).to(worth)
                worth += widen(gradients.outputs[to][:, pos]) @ rows.T
            effect[span] = worth.abs().sum(dim=0)
        found.append(effect)
    return found


def _rows(
    run: LinearRun, features: Features, units: Sequence[Units]
) -> tuple[tuple[Rows, ...], ...]:
    rows: list[list[Rows]] = [[] for _ in units]
    first = 0
    for some in units:
        for to in features.reached(some.layer) if len(some) else ():
            rows[to].append(Rows(first, some, features.writes(run, some, to).to(some.values)))
        first += len(some)
    return tuple(map(tuple, rows))


def _error(
    run: LinearRun,
    features: Features,
    constants: Sequence[Float[Tensor, "pos d_model"]],
    rows: Sequence[Sequence[Rows]],
    layer: int,
) -> Float[Tensor, "pos d_model"]:
    """What a layer's MLP wrote less all that is accounted for."""
    inputs = [x.detach() for x in run.inputs[: layer + 1]]
    out = widen(run.outputs[layer].detach())
    passed = features.passing(layer, inputs, out, run.frozen.sigma_after(layer))
    left = (out[0] if passed is None else out[0] - passed[0].to(out)) - constants[layer]
    for some in rows[layer]:
        left = left.index_add(0, some.units.positions, -some.vectors.to(left))
    return left


def numbered(units: Sequence[Units]) -> Iterator[tuple[int, Units]]:
    """Units of each layer with the number of the first of them."""
    first = 0
    for some in units:
        yield first, some
        first += len(some)
