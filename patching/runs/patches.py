"""Many patches of one batch, each exact, run together from the layer they touch.

A *patch* gives one example the activation of another run at some positions of one place: it is one
row of a pass. Rows start at the patched layer, from the stream of the run that is patched; MLPs
work only on the tokens that a patch can have changed; only answer positions are unembedded.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from patching.anatomy.blocks import FINAL_STREAM
from patching.anatomy.places import Place, units
from patching.anatomy.stack import skipping
from patching.memory import in_tiles
from patching.metrics import Metric, measure
from patching.model import Hook, Model
from patching.tasks.task import Batch

DIRECTIONS = ("denoising", "noising")
"""Denoising runs the corrupt prompts and patches clean activations in, noising the reverse."""


@dataclass(frozen=True)
class Base:
    """The run that is patched, as far as passes need it, and the activations that are put in.

    `streams` are those that enter each block and the final norm; `differs` says where the two
    runs can differ and reach the answer.
    """

    batch: Batch
    tokens: Int[Tensor, "example pos"]
    differs: Bool[Tensor, "example pos"]
    streams: tuple[Float[Tensor, "example pos d_model"], ...]
    mlps: tuple[Float[Tensor, "example pos d_model"], ...]
    sources: Mapping[str, Float[Tensor, "example ..."]]


@dataclass(frozen=True)
class Spots:
    """Where to patch, whatever the layer: some positions of one example in every row.

    `where` is the row's number on the axis of positions or spans (0 where there is none).
    """

    example: Int[Tensor, " spot"]
    where: Int[Tensor, " spot"]
    cells: Bool[Tensor, "spot pos"]


def record(
    model: Model,
    tokens: Int[Tensor, "example pos"],
    batch: Batch,
    before: tuple[tuple[str, Hook], ...] = (),
) -> tuple[Tensor, tuple[Tensor, ...], tuple[Tensor, ...]]:
    """Run prompts: logits at the answers, all streams, and what MLPs write."""
    streams: dict[int, Tensor] = {}
    mlps: dict[int, Tensor] = {}

    def keep(store: dict[int, Tensor], i: int) -> Hook:
        return lambda tensor: store.update({i: tensor})

    names = [*(block.stream_in for block in model.blocks), FINAL_STREAM]
    kept = [(name, keep(streams, i)) for i, name in enumerate(names)]
    kept += [(block.mlp_out, keep(mlps, block.index)) for block in model.blocks]
    logits = model.answer_logits(tokens, batch, [*before, *kept])
    return logits, tuple(streams[i] for i in range(len(names))), tuple(mlps.values())


@dataclass(frozen=True)
class Pass:
    """Patches of one layer's place, to be run and measured: `values` goes over spots and units.

    `places` are patched together (one layer's, or a window of layers), the first one's layer is
    where rows start. With `each_unit`, every head (group, neuron) is patched alone.
    """

    model: Model
    metric: Metric
    base: Base
    places: tuple[Place, ...]
    each_unit: bool = False

    def values(self, spots: Spots) -> Float[Tensor, "spot unit"]:
        """The metric of each spot's example with that spot patched, in float64."""
        n_units = len(units(self.model, self.places[0].kind)) if self.each_unit else 1
        out = torch.empty(len(spots.example) * n_units, dtype=torch.float64)

        def work(span: slice) -> None:
            rows = torch.arange(span.start, span.stop, device=spots.example.device)
            at = rows // n_units
            unit = rows % n_units if self.each_unit else None
            some = Spots(spots.example[at], spots.where[at], spots.cells[at])
            out[span] = self._measure(some, unit)

        in_tiles(len(out), self._bytes_each(), spots.example.device, work)
        return out.view(-1, n_units)

    def _bytes_each(self) -> int:
        """About what one row needs at its peak: some streams, an MLP's neurons, the patterns."""
        tokens, d_model = self.base.streams[0].shape[1:]
        d_mlp = len(units(self.model, "neurons")) or 4 * d_model
        values = tokens * (8 * d_model + 3 * d_mlp + 3 * self.model.graph.n_heads * tokens)
        return values * self.base.streams[0].element_size()

    def _measure(self, spots: Spots, unit: Int[Tensor, " row"] | None) -> Tensor:
        model, base = self.model, self.base
        batch = base.batch.at(spots.example)
        first = self._start
        touched = spots.cells.int().cummax(dim=1).values.bool() & base.differs[spots.example]
        names = [*(block.stream_in for block in model.blocks), FINAL_STREAM]
        hooks: list[tuple[str, Hook]] = [
            (names[first], lambda _: base.streams[first][spots.example])
        ]
        for layer in range(first, len(model.blocks)):
            hooks += self._mlp_hooks(layer, spots.example, touched)
        hooks += [self._patch(place, spots, unit) for place in self.places]
        with skipping(model.bridge, first, as_tuple=model.blocks_return_tuples):
            logits = model.answer_logits(base.tokens[spots.example], batch, hooks)
        return measure(self.metric, logits, batch).double().cpu()

    @property
    def _start(self) -> int:
        place = self.places[0]
        return place.layer + (place.kind == "resid_post")

    def _patch(
        self, place: Place, spots: Spots, unit: Int[Tensor, " row"] | None
    ) -> tuple[str, Hook]:
        """The hook that puts the other run's activation in, row by row."""
        source, axis = self.base.sources[place.name], place.pos_axis
        name = place.hook
        if place.kind == "resid_post":
            blocks = self.model.blocks
            last = place.layer + 1 == len(blocks)
            name = FINAL_STREAM if last else blocks[place.layer + 1].stream_in
        row, column = spots.cells.nonzero(as_tuple=True)

        def hook(live: Tensor) -> Tensor:
            out = live.clone()
            by_position = out.movedim(axis, 1)
            values = source.movedim(axis, 1)[spots.example[row], column]
            if unit is None:
                by_position[row, column] = values
            else:
                one = torch.arange(len(row), device=row.device)
                by_position[row, column, unit[row]] = values[one, unit[row]]
            return out

        return name, hook

    def _mlp_hooks(
        self, layer: int, example: Int[Tensor, " row"], touched: Bool[Tensor, "row pos"]
    ) -> list[tuple[str, Hook]]:
        """An MLP works on its own on each token: leave out those where nothing has changed.

        After the last layer nothing but the answer is read.
        """
        block = self.model.blocks[layer]
        if layer == len(self.model.blocks) - 1:
            columns = torch.arange(touched.shape[1], device=touched.device)
            touched = touched & (columns == self.base.batch.answer_pos[example][:, None])
        at = touched.nonzero(as_tuple=True)

        def take(x: Tensor) -> Tensor:
            return x[at][None]

        def put(y: Tensor) -> Tensor:
            out = self.base.mlps[layer][example]
            out[at] = y[0]
            return out

        if any(place.layer == layer and place.kind == "neurons" for place in self.places):
            return []
        return [(block.mlp_in, take), (block.mlp_out, put)]
