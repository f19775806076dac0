"""One pass over several circuits that first differ from the clean run at the same layer.

Rows of the batch are circuits x examples. The pass starts at that layer from the clean run's
stream. Per circuit it keeps how far each used writer is from its replacement; every touched
reader's input is one matrix product over those. Replaced inputs pass the model's own norm, so that
a row's numbers do not depend on which readers are replaced. MLPs run on the circuits and tokens
that need them alone. Where spans are kept apart, a circuit has a part for the tokens of each, which
is made like a circuit of its own: what one span does not need is skipped there. Only the answer
positions of the final stream are ever read.
"""

from collections.abc import Sequence
from functools import partial

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor

from circuits.running.pair import Pair
from circuits.running.parts import Part, make_parts, room_for
from circuits.running.plan import STARTS, Plan
from circuits.running.sums import LIVE, REPLACED
from patching.anatomy.blocks import FINAL_STREAM, Block, widen
from patching.anatomy.stack import skipping
from patching.capture import Writes
from patching.model import Hook, Model
from patching.tasks.task import Batch

Places = tuple[Int[Tensor, " token"], Int[Tensor, " token"]]
"""Row and position of some tokens."""


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
        self._n, self._only_asked = len(plans), layer == model.graph.n_layers
        chosen = slice(None)
        self._nothing_kept = pair.nothing_kept
        if self._only_asked:  # nothing but the answer positions is ever read
            chosen = batch.is_asked[pair.places].nonzero().squeeze(1)
            self._nothing_kept = {FINAL_STREAM: pair.nothing_kept[FINAL_STREAM][chosen]}
        missing = (pair.replaced - pair.clean.writes)[chosen]
        self._parts = make_parts(plans, pair, batch.is_asked, missing.embed, chosen)
        self._fill_writers_before(missing)
        self._streams: dict[str, Tensor] = {}
        self._made: dict[str, list[tuple[Part, Tensor, Tensor]]] = {}
        self._z: dict[int, Tensor] = {}
        readers = map(self._graph.attention_readers, range(self._graph.n_layers))
        self._room = room_for(self._parts, [*readers])

    def hooks(self) -> list[tuple[str, Hook]]:
        """All hooks, to be in place during the pass."""
        hooks: list[tuple[str, Hook]] = []
        for block in self._model.blocks[self._first :]:
            hooks += self._attention_hooks(block) + self._mlp_hooks(block)
            hooks += self._head_hooks(block)
        if any(bool((part.plan.computed | part.plan.replaced)[-1]) for part in self._parts):
            hooks.append((FINAL_STREAM, self._on_final))
        return hooks

    # Writers: how far each is from its replacement.

    def _fill_writers_before(self, missing: Writes) -> None:
        """Replacement minus clean write of used writers that write before the pass begins."""
        graph = self._graph
        n_before = len(graph.sources)
        if not self._only_asked:
            n_before = graph.sources_before_attention(self._first)
        used = [part.plan.used[: part.plan.n_used(n_before)] for part in self._parts]
        union = torch.cat(used).unique()
        out = missing.embed.new_empty(len(union), *missing.embed.shape)
        out[union == 0] = missing.embed
        for block in self._model.blocks[: self._first]:
            heads_of = graph.head_sources(block.index)
            rows = (union >= heads_of.start) & (union < heads_of.stop)
            if rows.any():
                heads = union[rows] - heads_of.start
                out[rows] = block.head_writes(missing.heads[block.index][:, heads], heads=heads)
            out[union == heads_of.stop] = missing.mlps[block.index]
        for part, mine in zip(self._parts, used, strict=True):
            end = STARTS + len(mine)
            part.sums.missing[STARTS:end] = out[:, part.span][torch.searchsorted(union, mine)]

    def _head_hooks(self, block: Block) -> list[tuple[str, Hook]]:
        heads = self._graph.head_sources(block.index)
        if not any(len(part.plan.used_in(heads)[1]) for part in self._parts):
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
        for part in self._parts:
            rows, heads = part.sums.rows(self._graph.head_sources(block.index))
            if not len(heads):
                continue
            live = block.head_input(
                self._chosen(z, part), None if total is None else self._chosen(total, part)
            )
            missing = (self._pair.replaced.heads[block.index][part.span] - live)[:, heads]
            every = len(heads) == self._graph.n_heads
            block.head_writes(missing, heads=None if every else heads, out=rows)

    def _chosen(self, x: Float[Tensor, "row pos ..."], part: Part) -> Float[Tensor, "token ..."]:
        """What a circuit's rows hold at the tokens of a part."""
        return self._by_circuit(x)[part.circuit][part.places]

    def _by_circuit(self, x: Float[Tensor, "row pos ..."]) -> Float[Tensor, "circuit n pos ..."]:
        return x.unflatten(0, (self._n, -1))

    # Readers: their inputs, put together.

    def _attention_hooks(self, block: Block) -> list[tuple[str, Hook]]:
        hooks: list[tuple[str, Hook]] = []
        if self._is_computed(self._graph.attention_readers(block.index)):
            hooks.append((block.stream_in, lambda live: self._project(block, live)))
        for name, readers in zip(block.projections, self._readers(block), strict=True):
            if self._is_computed(readers) or self._is_replaced(readers):
                hooks.append((name, partial(self._replace_projection, name, readers)))
        return hooks

    def _readers(self, block: Block) -> tuple[slice, ...]:
        """What a layer's attention reads, on the destination axis."""
        return self._graph.projected_readers(block.index)

    def _is_computed(self, readers: slice) -> bool:
        return any(bool(part.plan.computed[readers].any()) for part in self._parts)

    def _is_replaced(self, readers: slice) -> bool:
        return any(bool(part.plan.replaced[readers].any()) for part in self._parts)

    def _project(self, block: Block, live: Float[Tensor, "row pos d_model"]) -> None:
        """What attention makes of all readers that are put together, one part at a time."""
        every = self._graph.attention_readers(block.index)
        n_sources = self._graph.sources_before_attention(block.index)
        for part in self._parts:
            readers = every.start + part.sums.computed(every)
            if not len(readers):
                continue
            self._set_starts(part, block.stream_in, self._chosen(live, part))
            x = part.sums.inputs(readers, n_sources, room=self._room).to(live.dtype)
            x = x if block.attention_norm is None else block.attention_norm(x)
            for number, readers in enumerate(self._readers(block)):
                which = part.sums.computed(readers)
                if not len(which):
                    continue
                mine, x = x[: len(which)], x[len(which) :]
                made = block.projected(number, mine, which)
                self._made.setdefault(block.projections[number], []).append((part, which, made))

    def _replace_projection(
        self, name: str, readers: slice, live: Float[Tensor, "row pos head d_head"]
    ) -> Tensor:
        out = self._by_circuit(live).clone()
        for part in self._parts:
            which = part.plan.replaced[readers].nonzero().squeeze(1)
            if len(which):
                rows, places = (some[:, None] for some in part.places)
                nothing = self._nothing_kept[name][part.span]
                out[part.circuit, rows, places, which] = nothing[:, which]
        for part, which, made in self._made.pop(name, []):
            rows, places = (some[:, None] for some in part.places)
            out[part.circuit, rows, places, which] = made.transpose(0, 1)
        return out.flatten(0, 1)

    def _mlp_hooks(self, block: Block) -> list[tuple[str, Hook]]:
        """The MLP runs on the parts in which it is active, at tokens where anything differs.

        The last at the answers alone: nothing else sees what it writes.
        """
        mlp, reader = self._graph.mlp_source(block.index), self._graph.mlp_reader(block.index)
        ran = [
            part
            for part in self._parts
            if part.plan.active[mlp] and (len(part.asked) or not self._is_last(block))
        ]
        hooks: list[tuple[str, Hook]] = []
        if self._is_computed(slice(reader, reader + 1)):
            hooks.append((block.mlp_stream, self._keep_stream(block.mlp_stream)))
        hooks.append((block.mlp_in, lambda live: self._mlp_input(block, live, ran)))
        hooks.append((block.mlp_out, lambda out: self._on_mlp_out(block, out, ran)))
        return hooks

    def _is_last(self, block: Block) -> bool:
        return block.index == self._graph.n_layers - 1

    def _mlp_tokens(self, block: Block, part: Part) -> tuple[Tensor | slice, Places]:
        """Where an MLP works: among a part's tokens, and their rows and positions."""
        if self._is_last(block):
            return part.asked, part.asked_places
        return slice(None), part.places

    def _keep_stream(self, name: str) -> Hook:
        return lambda stream: self._streams.update({name: stream})

    def _mlp_input(
        self, block: Block, live: Float[Tensor, "row pos d_model"], ran: list[Part]
    ) -> Float[Tensor, "one token d_model"]:
        reader = self._graph.mlp_reader(block.index)
        n_sources = self._graph.sources_before_mlp(block.index)
        stream, made = self._streams.pop(block.mlp_stream, None), []
        for part in ran:
            at, places = self._mlp_tokens(block, part)
            x = self._by_circuit(live)[part.circuit][places]
            if part.plan.computed[reader]:
                assert stream is not None, "the stream is kept for every reader put together"
                self._set_starts(part, block.mlp_stream, self._chosen(stream, part))
                some = None if isinstance(at, slice) else at
                x = part.sums.inputs(torch.tensor([reader]), n_sources, some)[0].to(live.dtype)
                x = x if block.mlp_norm is None else block.mlp_norm(x)
            made.append(x)
        x = torch.cat(made)[None] if made else live[:1, :1]
        return _filled_up(x, live) if block.mlp_keeps_shape else x

    def _on_mlp_out(
        self, block: Block, out: Float[Tensor, "one token d_model"], ran: list[Part]
    ) -> Float[Tensor, "row pos d_model"]:
        """Where it did not run, the MLP writes what it wrote in the clean run."""
        mlp = self._graph.mlp_source(block.index)
        clean = self._pair.mlp_outs[block.mlp_out]
        whole = clean.repeat(self._n, *[1] * clean.ndim).view(self._n, *clean.shape)
        sizes = [len(self._mlp_tokens(block, part)[1][0]) for part in ran]
        tokens = out.flatten(0, 1)[: sum(sizes)].split(sizes) if ran else []
        for part, made in zip(ran, tokens, strict=True):
            whole[part.circuit][self._mlp_tokens(block, part)[1]] = made
        for part in self._parts:
            rows, which = part.sums.rows(slice(mlp, mlp + 1))
            if len(which):
                at, places = self._mlp_tokens(block, part)
                replaced = self._pair.replaced.mlps[block.index][part.span][at]
                rows[0, at] = replaced - widen(whole[part.circuit][places])
        return whole.flatten(0, 1)

    def _set_starts(self, part: Part, name: str, live: Float[Tensor, "token d_model"]) -> None:
        missing = part.sums.missing
        missing[LIVE], missing[REPLACED] = live, self._nothing_kept[name][part.span]

    def _on_final(self, live: Float[Tensor, "row pos d_model"]) -> Tensor:
        """Only the answer positions of the final stream are ever read."""
        out, start = self._by_circuit(live).clone(), self._nothing_kept[FINAL_STREAM]
        reader, n_sources = torch.tensor([-1]), len(self._graph.sources)
        for part in self._parts:
            at, missing = part.asked, part.sums.missing
            where, nothing = (part.circuit, *part.asked_places), widen(start[part.span][at])
            if part.plan.replaced[-1]:
                out[where] = nothing.to(out.dtype)
            elif part.plan.computed[-1] and len(at):
                missing[LIVE, at], missing[REPLACED, at] = widen(out[where]), nothing
                x = part.sums.inputs(reader, n_sources, None if self._only_asked else at)
                out[where] = x[0].to(out.dtype)
        return out.flatten(0, 1)


def _filled_up(
    x: Float[Tensor, "one token d_model"], live: Float[Tensor, "row pos d_model"]
) -> Float[Tensor, "row pos d_model"]:
    """The tokens first, in a tensor of the shape of `live`."""
    whole = torch.zeros_like(live)
    whole.flatten(0, 1)[: x.shape[1]] = x[0]
    return whole
