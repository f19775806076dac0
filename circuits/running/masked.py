"""A run in which every edge is kept in part, and which can be differentiated by the parts.

    x_j = live stream + sum_s removed[s, j] * (replacement_s - live_s)

        = replaced stream + sum_s (removed[s, j] - 1) * (replacement_s - live_s)

is each reader's input: one number, but not in floating point (see `starts`). Sums start from the
end with fewer terms, and under constants, which are quiet, from the second if anything is removed.
The gradient goes to `removed`, to the replacements and through all live writers;
`many.run_circuits` computes the same for many fixed circuits, faster and without it. Writers are
kept at the positions between the first and the last where anything can differ.
"""

from dataclasses import replace

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from circuits.running.missing import Missing
from circuits.running.rewiring import Layout, Reading, rewired, whole_layout
from circuits.running.starts import replaced_streams
from patching.ablations import Prepared
from patching.anatomy.blocks import Block, widen
from patching.capture import capture, indices
from patching.graph import Graph
from patching.model import Model
from patching.paths import Ends
from patching.tasks.task import Batch


def run_ends(model: Model, batch: Batch, ablation: Prepared) -> Ends:
    """The clean run, and the replacements: differentiable by the constants of an ablation."""
    tokens = ablation.tokens(batch)
    clean = capture(model, batch.clean, batch, at=tokens)
    corrupt = capture(model, batch.corrupt, batch, at=tokens) if ablation.paired else None
    replaced = ablation.replace(batch, clean, corrupt)
    home = replace(replaced, writes=replaced.writes.to(model.device))
    return Ends(model, batch, tokens, clean, home)


def run_masked(
    model: Model, batch: Batch, ends: Ends, removed: Float[Tensor, "*batch source dest"]
) -> Float[Tensor, "asked vocab"]:
    """Logits at the answer positions with edges removed in part: 0 is kept, 1 is replaced.

    `removed` is one matrix for all examples or one for each; entries that are no edges are not
    read. All removed is the corrupt run, nothing removed the clean one.

    Raises:
        ValueError: if `removed` has another shape than the model's edges.
    """
    expected = model.graph.exists.shape
    if removed.shape not in (expected, (len(batch), *expected)):
        raise ValueError(
            f"masks of this model have the shape {list(expected)} [source, dest], or one such "
            f"matrix for each of {len(batch)} examples; got {list(removed.shape)}"
        )
    layout = whole_layout(model.graph, tells=True)
    removed = batch.by_row(removed) if removed.ndim > 2 else removed
    mix = _Masks(model, ends, removed.to(ends.replaced.writes.embed), layout)
    return model.answer_logits(batch.clean, batch, rewired(model, layout, mix))


class _Masks:
    """Live differences, weighed by masks, at the window's positions of every example; a `Mix`.

    Where nothing can differ within the window, differences are 0 and the live stream is seen.
    """

    def __init__(
        self,
        model: Model,
        ends: Ends,
        removed: Float[Tensor, "*batch source dest"],
        layout: Layout,
    ) -> None:
        rows, places = indices(ends.tokens)
        first, last = int(places.min()), int(places.max())
        self._window, self._shape = slice(first, last + 1), (len(ends.tokens), last + 1 - first)
        self._at = rows * self._shape[1] + places - first
        self._differs = self._spread(torch.ones_like(places, dtype=torch.bool))[:, None]
        self._replaced = ends.replaced.writes.map(self._spread)
        positions = self.chosen(ends.clean.positions)
        self._streams = replaced_streams(model, self._replaced, positions)
        least = 0.0 if ends.replaced.constant else 0.5
        replaced = _start_from_replaced(removed, model.graph, least=least)
        self._set_terms(removed - replaced.to(removed)[..., None, :], replaced, layout)
        self._missing = Missing(len(model.graph.sources))
        self._missing.add(self._spread(ends.replaced.writes.embed - ends.clean.writes.embed)[None])

    def _set_terms(
        self,
        weights: Float[Tensor, "*batch source dest"],
        replaced: Bool[Tensor, "*batch dest"],
        layout: Layout,
    ) -> None:
        """Of every reading, the terms of its sums, and where these start from the replaced."""
        sizes = [len(reading.readers) for reading in layout.readings]
        n_positions = 1 if replaced.ndim == 1 else self._shape[1]
        starts = replaced.view(-1, replaced.shape[-1]).T.repeat_interleave(n_positions, dim=1)
        self._weights = weights.split(sizes, dim=-1)
        self._starts = (starts[..., None] & self._differs).split(sizes)

    def _spread(self, x: Shaped[Tensor, "token ..."]) -> Shaped[Tensor, "window_token ..."]:
        """Values at tokens as values of the whole window: 0 where nothing can differ."""
        empty = x.new_zeros(self._shape[0] * self._shape[1], *x.shape[1:])
        return empty.index_put((self._at,), x)

    def chosen(self, x: Float[Tensor, "batch pos ..."]) -> Float[Tensor, "window_token ..."]:
        return x[:, self._window].flatten(0, 1)

    def put(
        self,
        live: Float[Tensor, "batch pos ..."],
        made: Float[Tensor, "window_token ..."],
        heads: Int[Tensor, " some"] | None,
    ) -> Float[Tensor, "batch pos ..."]:
        assert heads is None, "every reader is given its input"
        start, stop = self._window.start, self._window.stop
        made = made.unflatten(0, self._shape)
        return torch.cat([live[:, :start], made, live[:, stop:]], dim=1)

    def inputs(
        self, reading: Reading, name: str, stream: Float[Tensor, "token d_model"]
    ) -> Float[Tensor, "reader token d_model"]:
        starts, weights = self._starts[reading.number], self._weights[reading.number]
        start = torch.where(starts, self._streams[name], widen(stream))
        return start + self._missing.weighed(weights[..., : reading.n_sources, :])

    def on_heads(self, block: Block, head_input: Float[Tensor, "token head d_head"]) -> None:
        missing = self._replaced.heads[block.index] - head_input
        self._missing.add(block.head_writes(missing.where(self._differs[..., None], 0.0)))

    def on_mlp(self, block: Block, write: Float[Tensor, "token d_model"]) -> None:
        missing = self._replaced.mlps[block.index] - write
        self._missing.add(missing.where(self._differs, 0.0)[None])


def _start_from_replaced(
    removed: Float[Tensor, "*batch source dest"], graph: Graph, *, least: float
) -> Bool[Tensor, "*batch dest"]:
    """From which readers more than a share is removed; entries that are no edges are not read."""
    exists = graph.exists.to(removed)
    return (removed.detach() * exists).sum(dim=-2) > least * exists.sum(dim=0)
