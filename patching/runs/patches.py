"""Many patches of one batch, each exact, run together from the layer they touch.

A *patch* gives one example the activation of another run at some positions of one place, or of
several layers' together: it is one row of a pass. On the CPU a pass has the patches of one layer:
its rows start there, and MLPs work only on the tokens that a patch can have changed. Where
launches are what costs, a pass has as many patches as fit, of any layers: its rows start at the
lowest of these, and everything works on all of them. Only answer positions are unembedded. What
goes where is worked out before the pass, on the host.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from jaxtyping import Float, Int
from torch import Tensor

from patching.anatomy.places import Place, units
from patching.memory import in_tiles, takes_many
from patching.metrics import Metric, measure
from patching.model import Hook, Model
from patching.progress import within
from patching.runs.pairs import BothRuns
from patching.runs.recorded import Tokens, stream_points
from patching.runs.spots import Reach, Spots

DIRECTIONS = ("denoising", "noising")
"""Denoising runs the corrupt prompts and patches clean activations in, noising the reverse."""

Target = tuple[Place, ...]
"""Places that are patched together: one layer's, or a window of layers', the lowest first."""


@dataclass(frozen=True, eq=False)
class Patching:
    """Patches of targets in one batch; with `each_unit`, every head (group, neuron) alone."""

    both: BothRuns
    metric: Metric
    targets: Sequence[Target]
    each_unit: bool = False

    @property
    def model(self) -> Model:
        """Whose activations are patched."""
        return self.both.base.model

    def effects(self, spots: Sequence[Spots]) -> list[Float[Tensor, "spot unit"]]:
        """What patching each target changes, at spots of its own, in float64 on the CPU."""
        n_units = len(units(self.model, self.targets[0][0].kind)) if self.each_unit else 1
        rows = _Rows.of(spots, n_units if self.each_unit else None)
        ends = [n_units * end for end in rows.ends]
        device = self.model.device
        values = torch.empty(ends[-1], dtype=torch.float64, device=device)
        groups = (
            [(0, ends[-1])] if takes_many(device) else list(zip([0, *ends], ends, strict=False))
        )
        for start, stop in within(groups):
            work = partial(self._run, rows, values, start)
            in_tiles(stop - start, self._bytes_each(), device, work)
        found = values.cpu().view(-1, n_units).split([len(some) for some in spots])
        return [self.both.effects(some, at.example) for some, at in zip(found, spots, strict=True)]

    def _run(self, rows: "_Rows", values: Tensor, start: int, span: slice) -> None:
        span = slice(start + span.start, start + span.stop)
        some = rows.at(torch.arange(span.start, span.stop))
        base, device = self.both.base, self.model.device
        targets = range(int(some.target[0]), int(some.target[-1]) + 1)
        first = min(_start(self.targets[i]) for i in targets)
        mlps_at = {} if takes_many(device) else self._changed(some, first, targets[0])
        example = some.spots.example.to(device)
        hooks = self._hooks(some.by_row(self.both.reach), targets)
        logits = base.go_on(first, example, hooks, mlps_at)
        values[span] = measure(self.metric, logits, base.batch.at(example)).double()

    def _hooks(self, some: "_Some", targets: range) -> list[tuple[str, Hook]]:
        """What puts the other run's activations in, at each place of the targets."""
        of_place: dict[Place, list[int]] = {}
        for i in targets:
            for place in self.targets[i]:
                of_place.setdefault(place, []).append(i)
        names, hooks = stream_points(self.model), []
        for place, those in of_place.items():
            name = names[place.layer + 1] if place.kind == "resid_post" else place.hook
            hooks.append((name, self._put(place, some, those)))
        return hooks

    def _put(self, place: Place, some: "_Some", targets: Sequence[int]) -> "_Put":
        mine = (some.target >= targets[0]) & (some.target <= targets[-1])
        row, column = (some.spots.cells & mine[:, None]).nonzero(as_tuple=True)
        unit = () if some.unit is None else (some.unit[row],)
        there = [(row, column, *unit), (some.spots.example[row], column, *unit)]
        into, out_of = (tuple(index.to(self.model.device) for index in at) for at in there)
        return _Put(self.both.sources[place.name], place.pos_axis, into, out_of)

    def _changed(self, some: "_Some", first: int, target: int) -> dict[int, Tokens]:
        """By layer, the tokens at which an MLP sees something else than in the run before.

        After the last layer nothing but the answer is read. Where neurons are patched, all are
        needed.
        """
        reach = self.both.reach
        touched = reach.touched(some.spots)
        last = touched & reach.is_answer[some.spots.example]
        touched, last = (x[reach.by_row(some.spots)[0]] for x in (touched, last))
        n, device = len(self.model.blocks), self.model.device
        everywhere, at_answer = (
            tuple(index.to(device) for index in at.nonzero(as_tuple=True)) for at in (touched, last)
        )
        at = {i: at_answer if i == n - 1 else everywhere for i in range(first, n)}
        for place in self.targets[target]:
            if place.kind == "neurons":
                at.pop(place.layer, None)
        return at

    def _bytes_each(self) -> int:
        """About what one row needs at its peak: some streams, an MLP's neurons, the patterns."""
        tokens, d_model = self.both.base.streams[0].shape[1:]
        d_mlp = len(units(self.model, "neurons")) or 4 * d_model
        values = tokens * (8 * d_model + 3 * d_mlp + 3 * self.model.graph.n_heads * tokens)
        return values * self.both.base.streams[0].element_size()


def _start(target: Target) -> int:
    return target[0].layer + (target[0].kind == "resid_post")


@dataclass(frozen=True)
class _Rows:
    """The spots of all targets, one after another, and where each target's end."""

    spots: Spots
    target: Int[Tensor, " spot"]
    ends: Sequence[int]
    n_units: int | None

    @staticmethod
    def of(spots: Sequence[Spots], n_units: int | None) -> "_Rows":
        parts = ([getattr(s, name) for s in spots] for name in ("example", "where", "cells"))
        lengths = torch.tensor([len(some) for some in spots])
        target = torch.arange(len(spots)).repeat_interleave(lengths)
        return _Rows(Spots(*map(torch.cat, parts)), target, lengths.cumsum(0).tolist(), n_units)

    def at(self, rows: Int[Tensor, " row"]) -> "_Some":
        """Some rows: a spot's units are next to each other."""
        n_units = self.n_units or 1
        spot, unit = rows // n_units, None if self.n_units is None else rows % n_units
        return _Some(self.spots[spot], self.target[spot], unit)


@dataclass(frozen=True)
class _Some:
    spots: Spots
    target: Int[Tensor, " row"]
    unit: Int[Tensor, " row"] | None

    def by_row(self, reach: Reach) -> "_Some":
        """The same in rows of the batch, of which an example may have several."""
        which, rows = reach.by_row(self.spots)
        unit = None if self.unit is None else self.unit[which]
        return _Some(replace(self.spots[which], example=rows), self.target[which], unit)


@dataclass(frozen=True)
class _Put:
    """A hook that puts the other run's activation into some cells of some rows."""

    source: Float[Tensor, "example ..."]
    axis: int
    into: tuple[Int[Tensor, " cell"], ...]
    out_of: tuple[Int[Tensor, " cell"], ...]

    def __call__(self, live: Float[Tensor, "row ..."]) -> Float[Tensor, "row ..."]:
        out = live.clone()
        out.movedim(self.axis, 1)[self.into] = self.source.movedim(self.axis, 1)[self.out_of]
        return out
