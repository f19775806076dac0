"""A run in which every edge is kept in part, and which can be differentiated by the parts.

    x_j = live stream + sum_s removed[s, j] * (replacement_s - live_s)

        = replaced stream + sum_s (removed[s, j] - 1) * (replacement_s - live_s)

is each reader's input: one number, but not in floating point (see `starts`). Sums start from the
end with fewer terms, and under constants, which are quiet, from the second if anything is removed.
The gradient goes to `removed`, to the replacements and through all live writers;
`many.run_circuits` computes the same for many fixed circuits, faster and without it. Writers are
kept at a window of the tokens, see `window`.
"""

from dataclasses import replace
from functools import partial

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from circuits.running.missing import Missing
from circuits.running.rewiring import Layout, Reading, rewired, whole_layout
from circuits.running.starts import replaced_streams
from circuits.running.window import Apart, Whole, Window, spread
from patching.ablations import Prepared
from patching.anatomy.blocks import Block, widen
from patching.capture import capture
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
    model: Model, batch: Batch, ends: Ends, removed: Float[Tensor, "..."]
) -> Float[Tensor, "asked vocab"]:
    """Logits at the answer positions with edges removed in part: 0 is kept, 1 is replaced.

    `removed` `[source dest]` is one matrix for all examples or, with a first axis, one for each;
    with a last axis, one for the tokens of each span that the batch keeps apart. Entries that are
    no edges are not read. All removed is the corrupt run, nothing removed the clean one.

    Raises:
        ValueError: if `removed` has another shape than the model's edges.
    """
    edges, n = model.graph.exists.shape, len(batch.apart)
    by_span = bool(n) and removed.shape[-3:] == (*edges, n)
    expected = (*edges, n) if by_span else tuple(edges)
    if removed.shape not in (expected, (len(batch), *expected)):
        axes = "[source, dest, span]" if n else "[source, dest]"
        raise ValueError(
            f"masks of this model have the shape {[*edges, n] if n else list(edges)} {axes}, or "
            f"one such matrix for each of {len(batch)} examples; got {list(removed.shape)}"
        )
    removed = batch.by_row(removed) if removed.ndim > len(expected) else removed
    if by_span:
        assert batch.span is not None, "spans that are apart are numbered"
        window = Apart.of(ends.tokens, batch.span)
        removed = removed.movedim(-1, 0)[[*window.spans]]
    else:
        window, removed = Whole.of(ends.tokens), removed[None]
    layout = whole_layout(model.graph, tells=True)
    mix = _Masks(model, ends, window, removed.to(ends.replaced.writes.embed), layout)
    return model.answer_logits(batch.clean, batch, rewired(model, layout, mix))


class _Masks:
    """Live differences, weighed by masks, at a window's tokens of every example; a `Mix`.

    Where nothing can differ within the window, differences are 0 and the live stream is seen.
    """

    def __init__(
        self,
        model: Model,
        ends: Ends,
        window: Window,
        removed: Float[Tensor, "part ... source dest"],
        layout: Layout,
    ) -> None:
        self._window = window
        spread_out = partial(spread, window)
        self._differs = spread_out(torch.ones_like(window.at, dtype=torch.bool))[:, None]
        self._replaced = ends.replaced.writes.map(spread_out)
        positions = self.chosen(ends.clean.positions)
        self._streams = replaced_streams(model, self._replaced, positions)
        least = 0.0 if ends.replaced.constant else 0.5
        replaced = _start_from_replaced(removed, model.graph, least=least)
        self._set_terms(removed - replaced.to(removed)[..., None, :], replaced, layout)
        self._missing = Missing(len(model.graph.sources))
        self._missing.add(spread_out(ends.replaced.writes.embed - ends.clean.writes.embed)[None])

    def _set_terms(
        self,
        weights: Float[Tensor, "part ... source dest"],
        replaced: Bool[Tensor, "part ... dest"],
        layout: Layout,
    ) -> None:
        """Of every reading, the terms of its sums, and where these start from the replaced."""
        n_readers = [len(reading.readers) for reading in layout.readings]
        starts = []
        for n, one in zip(self._window.sizes, replaced, strict=True):
            masks = one.view(-1, one.shape[-1])
            starts.append(masks.T.repeat_interleave(n // len(masks), dim=1))
        self._weights = weights.split(n_readers, dim=-1)
        self._starts = (torch.cat(starts, dim=1)[..., None] & self._differs).split(n_readers)

    def chosen(self, x: Float[Tensor, "batch pos ..."]) -> Float[Tensor, "window_token ..."]:
        return self._window.chosen(x)

    def put(
        self,
        name: str,
        live: Float[Tensor, "batch pos ..."],
        made: Float[Tensor, "window_token ..."],
        heads: Int[Tensor, " some"] | None,
    ) -> Float[Tensor, "batch pos ..."]:
        assert heads is None, "every reader is given its input"
        return self._window.put(live, made)

    def inputs(
        self, reading: Reading, name: str, stream: Float[Tensor, "token d_model"]
    ) -> Float[Tensor, "reader token d_model"]:
        starts, weights = self._starts[reading.number], self._weights[reading.number]
        start = torch.where(starts, self._streams[name], widen(stream))
        weights, sizes = weights[..., : reading.n_sources, :], self._window.sizes
        if len(sizes) == 1:
            return start + self._missing.weighed(weights[0])
        return start + self._missing.weighed(weights, sizes)

    def on_heads(self, block: Block, head_input: Float[Tensor, "token head d_head"]) -> None:
        missing = self._replaced.heads[block.index] - head_input
        self._missing.add(block.head_writes(missing.where(self._differs[..., None], 0.0)))

    def on_mlp(self, block: Block, write: Float[Tensor, "token d_model"]) -> None:
        missing = self._replaced.mlps[block.index] - write
        self._missing.add(missing.where(self._differs, 0.0)[None])


def _start_from_replaced(
    removed: Float[Tensor, "part ... source dest"], graph: Graph, *, least: float
) -> Bool[Tensor, "part ... dest"]:
    """From which readers more than a share is removed; entries that are no edges are not read."""
    exists = graph.exists.to(removed)
    return (removed.detach() * exists).sum(dim=-2) > least * exists.sum(dim=0)
