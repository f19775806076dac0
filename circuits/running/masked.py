"""A run in which every edge is kept in part, and which can be differentiated by the parts.

    x_j = live stream + sum_s removed[s, j] * (replacement_s - live_s)

is each reader's input. The gradient goes to `removed`, to the replacements and through all live
writers; `intervention.run_circuits` computes the same for many fixed circuits, faster and without
it. Writers are kept at the positions between the first and the last where anything can differ.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import torch
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor

from patching.ablations import Prepared
from patching.anatomy.blocks import FINAL_STREAM, Block, widen
from patching.capture import Run, Writes, capture, indices
from patching.model import Hook, Model
from patching.tasks.task import Batch


@dataclass(frozen=True)
class Ends:
    """What a masked run lies between: the clean run and what replaces its writes at `tokens`."""

    tokens: Bool[Tensor, "batch pos"]
    clean: Run
    replaced: Writes


def run_ends(model: Model, batch: Batch, ablation: Prepared) -> Ends:
    """The clean run, and the replacements: differentiable by the constants of an ablation."""
    tokens = ablation.tokens(batch)
    clean = capture(model, batch.clean, batch, at=tokens)
    corrupt = capture(model, batch.corrupt, batch, at=tokens) if ablation.paired else None
    replaced = ablation.replace(batch, clean, corrupt).writes
    return Ends(tokens, clean, replaced.to(model.device))


def run_masked(
    model: Model, batch: Batch, ends: Ends, removed: Float[Tensor, "*batch source dest"]
) -> Float[Tensor, "batch vocab"]:
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
    run = _Pass(model, ends, removed.to(ends.replaced.embed))
    return model.answer_logits(batch.clean, batch, run.hooks())


class _Pass:
    """Hooks of one run, in the order in which they fire, and what writers have written so far."""

    def __init__(
        self, model: Model, ends: Ends, removed: Float[Tensor, "*batch source dest"]
    ) -> None:
        self._model, self._graph, self._ends = model, model.graph, ends
        self._removed = removed
        rows, places = indices(ends.tokens)
        first, last = int(places.min()), int(places.max())
        self._window = slice(first, last + 1)
        self._tokens, self._targets = (rows, places), (rows, places - first)
        self._shape = (len(ends.tokens), last + 1 - first)
        embed = self._spread(ends.replaced.embed - ends.clean.writes.embed)
        self._missing: list[Tensor] = [embed[None]]
        self._z: dict[int, Tensor] = {}
        self._streams: dict[str, Tensor] = {}
        self._made: dict[str, Tensor] = {}

    def hooks(self) -> list[tuple[str, Hook]]:
        """To be in place during the run."""
        hooks: list[tuple[str, Hook]] = []
        for block in self._model.blocks:
            hooks.append((block.stream_in, partial(self._read_attention, block)))
            hooks += [(name, partial(self._replace, name)) for name in block.qkv]
            hooks.append((block.mlp_stream, partial(self._keep_stream, block)))
            hooks.append((block.mlp_in, partial(self._read_mlp, block)))
            hooks.append((block.z, partial(self._on_z, block)))
            if block.post_attention_norm is not None:
                hooks.append((block.attention_sum, partial(self._on_attention_sum, block)))
            hooks.append((block.mlp_out, partial(self._on_mlp_out, block)))
        return [*hooks, (FINAL_STREAM, self._read_logits)]

    # Writers: replacement minus live write, [source batch window d_model].

    def _on_z(self, block: Block, z: Float[Tensor, "batch pos head d_head"]) -> None:
        if block.post_attention_norm is None:
            self._on_heads(block, z, None)
        else:
            self._z[block.index] = z

    def _on_attention_sum(self, block: Block, total: Float[Tensor, "batch pos d_model"]) -> None:
        self._on_heads(block, self._z.pop(block.index), total)

    def _on_heads(
        self,
        block: Block,
        z: Float[Tensor, "batch pos head d_head"],
        total: Float[Tensor, "batch pos d_model"] | None,
    ) -> None:
        chosen = None if total is None else total[self._tokens]
        live = block.head_input(z[self._tokens], chosen)
        missing = self._spread(self._ends.replaced.heads[block.index] - live)
        writes = block.head_writes(missing.flatten(0, 1))
        self._missing.append(writes.unflatten(1, self._shape))

    def _on_mlp_out(self, block: Block, out: Float[Tensor, "batch pos d_model"]) -> None:
        live = widen(out[self._tokens])
        self._missing.append(self._spread(self._ends.replaced.mlps[block.index] - live)[None])

    def _spread(self, x: Float[Tensor, "token ..."]) -> Float[Tensor, "batch window ..."]:
        """Values at tokens as a dense tensor of the window: 0 where nothing can differ."""
        empty = x.new_zeros(*self._shape, *x.shape[1:])
        return empty.index_put(self._targets, x)

    # Readers: their inputs, put together.

    def _inputs(
        self, stream: Float[Tensor, "batch pos d_model"], readers: slice, n_sources: int
    ) -> Float[Tensor, "dest batch window d_model"]:
        """What some readers see within the window, after the first writers."""
        total = widen(stream[:, self._window])[None]
        for sources, missing in self._written(n_sources):
            removed = self._removed[..., sources, readers]
            total = total + _weighted(removed, missing)
        return total.to(stream.dtype)

    def _written(self, n_sources: int) -> Iterator[tuple[slice, Tensor]]:
        start = 0
        for part in self._missing:
            if start < n_sources:
                yield slice(start, start + len(part)), part
            start += len(part)

    def _read_attention(self, block: Block, stream: Float[Tensor, "batch pos d_model"]) -> None:
        graph, i = self._graph, block.index
        x = self._inputs(stream, graph.attention_readers(i), graph.sources_before_attention(i))
        x = x if block.attention_norm is None else block.attention_norm(x)
        x = rearrange(x, "dest batch pos d_model -> dest (batch pos) d_model")
        readers = (graph.q_readers(i), graph.k_readers(i), graph.v_readers(i))
        for part, (name, span) in enumerate(zip(block.qkv, readers, strict=True)):
            n = span.stop - span.start
            mine, x = x[:n], x[n:]
            made = block.projected(part, mine, torch.arange(n))
            self._made[name] = rearrange(
                made, "head (batch pos) d_head -> batch pos head d_head", batch=self._shape[0]
            )

    def _replace(
        self, name: str, live: Float[Tensor, "batch pos head d_head"]
    ) -> Float[Tensor, "batch pos head d_head"]:
        return self._within(live, self._made.pop(name))

    def _keep_stream(self, block: Block, stream: Float[Tensor, "batch pos d_model"]) -> None:
        self._streams[block.mlp_stream] = stream

    def _read_mlp(
        self, block: Block, live: Float[Tensor, "batch pos d_model"]
    ) -> Float[Tensor, "batch pos d_model"]:
        reader = self._graph.mlp_reader(block.index)
        n_sources = self._graph.sources_before_mlp(block.index)
        stream = self._streams.pop(block.mlp_stream)
        x = self._inputs(stream, slice(reader, reader + 1), n_sources)[0]
        x = x if block.mlp_norm is None else block.mlp_norm(x)
        return self._within(live, x)

    def _read_logits(
        self, stream: Float[Tensor, "batch pos d_model"]
    ) -> Float[Tensor, "batch pos d_model"]:
        last = len(self._graph.destinations) - 1
        x = self._inputs(stream, slice(last, last + 1), len(self._graph.sources))[0]
        return self._within(stream, x)

    def _within(
        self, live: Float[Tensor, "batch pos ..."], made: Float[Tensor, "batch window ..."]
    ) -> Float[Tensor, "batch pos ..."]:
        """The live values, with those made in place of them within the window."""
        start, stop = self._window.start, self._window.stop
        return torch.cat([live[:, :start], made, live[:, stop:]], dim=1)


def _weighted(
    removed: Float[Tensor, "*batch source dest"],
    missing: Float[Tensor, "source batch window d_model"],
) -> Float[Tensor, "dest batch window d_model"]:
    if removed.ndim == 2:
        return (removed.T @ missing.flatten(1)).unflatten(1, missing.shape[1:])
    rows = missing.transpose(0, 1).flatten(2)
    found = torch.bmm(removed.transpose(1, 2), rows).unflatten(2, missing.shape[2:])
    return found.transpose(0, 1)
