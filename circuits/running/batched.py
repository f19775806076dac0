"""One pass over several circuits that first differ from the clean run at the same layer.

Rows of the batch are circuits x examples. The pass starts at that layer from the clean run's
stream. Per circuit it keeps how far each used writer is from its replacement; every touched
reader's input is one matrix product over those. Replaced inputs pass the model's own norm, so that
a row's numbers do not depend on which readers are replaced. MLPs run on the circuits and tokens
that need them alone. Only the answer positions of the final stream are ever read.
"""

from collections.abc import Sequence
from functools import partial

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from circuits.running.pair import Pair
from circuits.running.plan import STARTS, Plan
from circuits.running.sums import LIVE, REPLACED, Sums
from patching.anatomy.blocks import FINAL_STREAM, Block, widen
from patching.anatomy.stack import skipping
from patching.capture import Writes
from patching.model import Hook, Model
from patching.tasks.task import Batch


def run_pass(
    model: Model, batch: Batch, pair: Pair, plans: Sequence[Plan]
) -> Float[Tensor, "circuit asked vocab"]:
    """Logits at the answer positions of circuits with one `first_layer`."""
    layer, n = plans[0].first_layer, len(plans)
    assert layer is not None, "an untouched circuit needs no pass"
    name = FINAL_STREAM if layer == model.graph.n_layers else model.blocks[layer].stream_in
    start: tuple[str, Hook] = (name, lambda _: pair.streams[name].repeat(n, 1, 1))
    hooks = [start, *_Pass(model, batch, pair, plans, layer).hooks()]
    with skipping(model.bridge, layer, as_tuple=model.blocks_return_tuples):
        logits = model.answer_logits(batch.clean.repeat(n, 1), batch, hooks)
    return rearrange(logits, "(circuit asked) vocab -> circuit asked vocab", circuit=n)


class _Pass:
    """Hooks for one pass, in the order in which they fire."""

    def __init__(
        self, model: Model, batch: Batch, pair: Pair, plans: Sequence[Plan], layer: int
    ) -> None:
        self._model, self._graph, self._pair, self._first = model, model.graph, pair, layer
        self._n, self._tokens = len(plans), pair.places
        self._answers = batch.is_asked[pair.places].nonzero().squeeze(1)
        missing, span = pair.replaced - pair.clean.writes, pair.span
        if layer == self._graph.n_layers:  # nothing but the answer positions is ever read
            missing, span = missing[self._answers], None if span is None else span[self._answers]
        self._circuits = [Sums(plan, missing.embed, span) for plan in plans]
        self._fill_writers_before(missing)
        self._streams: dict[str, Tensor] = {}
        self._made: dict[str, list[tuple[int, Tensor, Tensor]]] = {}
        self._z: dict[int, Tensor] = {}
        self._room = self._make_room()

    def _make_room(self) -> Float[Tensor, "reader _"]:
        """Memory for the inputs of one layer's readers in one circuit: fresh pages cost time."""
        spans = [self._graph.attention_readers(i) for i in range(self._graph.n_layers)]
        most = max(len(sums.computed(span)) for sums in self._circuits for span in spans)
        missing = self._circuits[0].missing
        return missing.new_empty(most, missing[0].numel())

    def hooks(self) -> list[tuple[str, Hook]]:
        """All hooks, to be in place during the pass."""
        hooks: list[tuple[str, Hook]] = []
        for block in self._model.blocks[self._first :]:
            hooks += self._attention_hooks(block) + self._mlp_hooks(block)
            hooks += self._head_hooks(block)
        if any(bool(sums.plan.computed[-1]) for sums in self._circuits):
            hooks.append((FINAL_STREAM, self._on_final))
        return hooks

    # Writers: how far each is from its replacement.

    def _fill_writers_before(self, missing: Writes) -> None:
        """Replacement minus clean write of used writers that write before the pass begins."""
        graph = self._graph
        last = self._first == graph.n_layers
        n_before = len(graph.sources) if last else graph.sources_before_attention(self._first)
        used = [sums.plan.used[: sums.plan.n_used(n_before)] for sums in self._circuits]
        union = torch.cat(used).unique()
        out = missing.embed.new_empty(len(union), *missing.embed.shape)
        out[union == 0] = missing.embed
        for block in self._model.blocks[: self._first]:
            span = graph.head_sources(block.index)
            rows = (union >= span.start) & (union < span.stop)
            if rows.any():
                heads = union[rows] - span.start
                out[rows] = block.head_writes(missing.heads[block.index][:, heads], heads=heads)
            out[union == span.stop] = missing.mlps[block.index]
        for sums, mine in zip(self._circuits, used, strict=True):
            end = STARTS + len(mine)
            sums.missing[STARTS:end] = out[torch.searchsorted(union, mine)]

    def _head_hooks(self, block: Block) -> list[tuple[str, Hook]]:
        span = self._graph.head_sources(block.index)
        if not self._is_used(span):
            return []
        if block.post_attention_norm is None:
            return [(block.z, lambda z: self._on_heads(block, z, None))]
        return [
            (block.z, lambda z: self._z.update({block.index: z})),
            (
                block.attention_sum,
                lambda total: self._on_heads(block, self._z.pop(block.index), total),
            ),
        ]

    def _on_heads(
        self,
        block: Block,
        z: Float[Tensor, "row pos head d_head"],
        total: Float[Tensor, "row pos d_model"] | None,
    ) -> None:
        for i, sums in enumerate(self._circuits):
            rows, heads = sums.rows(self._graph.head_sources(block.index))
            if not len(heads):
                continue
            live = block.head_input(
                self._chosen(z, i), None if total is None else self._chosen(total, i)
            )
            missing = (self._pair.replaced.heads[block.index] - live)[:, heads]
            every = len(heads) == self._graph.n_heads
            block.head_writes(missing, heads=None if every else heads, out=rows)

    def _is_used(self, sources: slice) -> bool:
        return any(len(sums.plan.used_in(sources)[1]) for sums in self._circuits)

    def _chosen(self, x: Float[Tensor, "row pos ..."], i: int) -> Float[Tensor, "token ..."]:
        """What a circuit's rows hold at the tokens where anything can differ."""
        return x.unflatten(0, (self._n, -1))[i][self._tokens]

    # Readers: their inputs, put together.

    def _attention_hooks(self, block: Block) -> list[tuple[str, Hook]]:
        hooks: list[tuple[str, Hook]] = []
        if self._is_computed(self._graph.attention_readers(block.index)):
            hooks.append((block.stream_in, lambda live: self._project(block, live)))
        for name, span in zip(block.qkv, self._spans(block), strict=True):
            if self._is_computed(span) or self._is_replaced(span):
                hooks.append((name, partial(self._replace_projection, name, span)))
        return hooks

    def _spans(self, block: Block) -> tuple[slice, slice, slice]:
        """The queries, keys and values of a layer on the destination axis."""
        graph, i = self._graph, block.index
        return graph.q_readers(i), graph.k_readers(i), graph.v_readers(i)

    def _is_computed(self, readers: slice) -> bool:
        return any(bool(sums.plan.computed[readers].any()) for sums in self._circuits)

    def _is_replaced(self, readers: slice) -> bool:
        return any(bool(sums.plan.replaced[readers].any()) for sums in self._circuits)

    def _project(self, block: Block, live: Float[Tensor, "row pos d_model"]) -> None:
        """Queries, keys and values of all readers that are put together, one circuit at a time."""
        span = self._graph.attention_readers(block.index)
        n_sources = self._graph.sources_before_attention(block.index)
        for i, sums in enumerate(self._circuits):
            readers = span.start + sums.computed(span)
            if not len(readers):
                continue
            self._set_starts(i, block.stream_in, self._chosen(live, i))
            x = sums.inputs(readers, n_sources, out=self._room).to(live.dtype)
            x = x if block.attention_norm is None else block.attention_norm(x)
            for part, readers in enumerate(self._spans(block)):
                which = sums.computed(readers)
                if not len(which):
                    continue
                mine, x = x[: len(which)], x[len(which) :]
                made = block.projected(part, mine, which)
                self._made.setdefault(block.qkv[part], []).append((i, which, made))

    def _replace_projection(
        self, name: str, span: slice, live: Float[Tensor, "row pos head d_head"]
    ) -> Tensor:
        out = live.unflatten(0, (self._n, -1)).clone()
        rows, places = (part[:, None] for part in self._tokens)
        for i, sums in enumerate(self._circuits):
            which = sums.plan.replaced[span].nonzero().squeeze(1)
            if len(which):
                out[i, rows, places, which] = self._pair.nothing_kept[name][:, which]
        for i, which, made in self._made.pop(name, []):
            out[i, rows, places, which] = made.transpose(0, 1)
        return out.flatten(0, 1)

    def _mlp_hooks(self, block: Block) -> list[tuple[str, Hook]]:
        """The MLP runs on the circuits in which it is active, at tokens where anything differs."""
        mlp, reader = self._graph.mlp_source(block.index), self._graph.mlp_reader(block.index)
        ran = [i for i, sums in enumerate(self._circuits) if sums.plan.active[mlp]]
        hooks: list[tuple[str, Hook]] = []
        if self._is_computed(slice(reader, reader + 1)):
            hooks.append((block.mlp_stream, self._keep_stream(block.mlp_stream)))
        hooks.append((block.mlp_in, lambda live: self._mlp_input(block, live, ran)))
        hooks.append((block.mlp_out, lambda out: self._on_mlp_out(block, out, ran)))
        return hooks

    def _keep_stream(self, name: str) -> Hook:
        return lambda stream: self._streams.update({name: stream})

    def _mlp_input(
        self, block: Block, live: Float[Tensor, "row pos d_model"], ran: list[int]
    ) -> Float[Tensor, "one token d_model"]:
        reader = self._graph.mlp_reader(block.index)
        n_sources = self._graph.sources_before_mlp(block.index)
        stream, parts = self._streams.pop(block.mlp_stream, None), []
        for i in ran:
            sums, x = self._circuits[i], self._chosen(live, i)
            if sums.plan.computed[reader]:
                assert stream is not None, "the stream is kept for every reader put together"
                self._set_starts(i, block.mlp_stream, self._chosen(stream, i))
                x = sums.inputs(torch.tensor([reader]), n_sources)[0].to(live.dtype)
                x = x if block.mlp_norm is None else block.mlp_norm(x)
            parts.append(x)
        x = torch.cat(parts)[None] if parts else live[:1, :1]
        return _filled_up(x, live) if block.mlp_keeps_shape else x

    def _on_mlp_out(
        self, block: Block, out: Float[Tensor, "one token d_model"], ran: list[int]
    ) -> Float[Tensor, "row pos d_model"]:
        """Where it did not run, the MLP writes what it wrote in the clean run."""
        mlp = self._graph.mlp_source(block.index)
        clean = self._pair.mlp_outs[block.mlp_out]
        whole = clean.repeat(self._n, *[1] * clean.ndim).view(self._n, *clean.shape)
        tokens = out.flatten(0, 1)
        for i, part in zip(ran, tokens.split(len(self._tokens[0])), strict=False):
            whole[i][self._tokens] = part
        for i, sums in enumerate(self._circuits):
            rows, which = sums.rows(slice(mlp, mlp + 1))
            if len(which):
                live = widen(whole[i][self._tokens])
                rows[0] = self._pair.replaced.mlps[block.index] - live
        return whole.flatten(0, 1)

    def _set_starts(self, i: int, name: str, live: Float[Tensor, "token d_model"]) -> None:
        missing = self._circuits[i].missing
        missing[LIVE], missing[REPLACED] = live, self._pair.nothing_kept[name]

    def _on_final(self, live: Float[Tensor, "row pos d_model"]) -> Tensor:
        """Only the answer positions of the final stream are ever read."""
        out, start = live.unflatten(0, (self._n, -1)).clone(), self._pair.nothing_kept[FINAL_STREAM]
        reader = torch.tensor([len(self._graph.destinations) - 1])
        rows, places = (part[self._answers] for part in self._tokens)
        only_answers = self._first == self._graph.n_layers
        at = torch.arange(len(self._answers)) if only_answers else self._answers
        for i, sums in enumerate(self._circuits):
            if not sums.plan.computed[-1]:
                continue
            sums.missing[LIVE, at] = widen(out[i, rows, places])
            sums.missing[REPLACED, at] = widen(start[self._answers])
            x = sums.inputs(reader, len(self._graph.sources), None if only_answers else at)
            out[i, rows, places] = x[0].to(out.dtype)
        return out.flatten(0, 1)


def _filled_up(
    x: Float[Tensor, "one token d_model"], live: Float[Tensor, "row pos d_model"]
) -> Float[Tensor, "row pos d_model"]:
    """The tokens first, in a tensor of the shape of `live`."""
    whole = torch.zeros_like(live)
    whole.flatten(0, 1)[: x.shape[1]] = x[0]
    return whole
