"""One pass over a group of circuits: as many operations for many circuits as for one.

Rows of the batch are circuits x examples. The pass starts from the clean run's stream at the
group's first layer. How far each used writer is from its replacement is kept for all circuits in
one tensor; the inputs of all readers at one place are one batched product over it, pass the model's
own norm once, and are projected at once. What a circuit does not put together stays as it is. Where
operations are cheap and arithmetic is not, `batched` skips what this does for all.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor

from circuits.running.groups import LIVE, REPLACED, Group, make_group
from circuits.running.pair import Pair
from circuits.running.plan import Plan
from circuits.running.rewiring import Reading, rewired
from circuits.running.sums import cuts
from patching.anatomy.blocks import FINAL_STREAM, Block
from patching.anatomy.stack import skipping
from patching.model import Hook, Model
from patching.tasks.task import Batch


def run_group(
    model: Model, batch: Batch, pair: Pair, plans: Sequence[Plan]
) -> Float[Tensor, "circuit asked vocab"]:
    """Logits at the answer positions of all circuits of a group."""
    group = make_group(model, plans, pair.replaced.embed.dtype)
    layer, n = group.first_layer, group.n_circuits
    name = FINAL_STREAM if layer == model.graph.n_layers else model.blocks[layer].stream_in
    start: tuple[str, Hook] = (name, lambda _: pair.streams[name].repeat(n, 1, 1))
    hooks = [start, *SideBySide(model, pair, group).hooks()]
    with skipping(model.bridge, layer, as_tuple=model.blocks_return_tuples):
        logits = model.answer_logits(batch.clean.repeat(n, 1), batch, hooks)
    return rearrange(logits, "(circuit asked) vocab -> circuit asked vocab", circuit=n)


@dataclass(eq=False)
class SideBySide:
    """What readers of a group's circuits see: a `Mix` whose tokens are circuits x tokens.

    `here` is the hook point that the walk is at.
    """

    model: Model
    pair: Pair
    group: Group
    here: str = ""

    def hooks(self) -> list[tuple[str, Hook]]:
        """All hooks of one pass."""
        self._fill_writers_before()
        walk = rewired(self.model, self.group.layout, self)
        hooks: list[tuple[str, Hook]] = [
            (name, partial(self._at, name, hook)) for name, hook in walk
        ]
        put_at = {name for name, _ in walk}
        for name in self.group.replaced:
            if name not in put_at:
                hooks.append((name, partial(self._put_replaced, name)))
        return hooks

    def _at(self, name: str, hook: Hook, tensor: Tensor) -> Tensor | None:
        self.here = name
        return hook(tensor)

    @cached_property
    def _tokens(self) -> Int[Tensor, " token"]:
        """The tokens where anything can differ, counted through the batch."""
        rows, places = self.pair.places
        return rows * self.pair.tokens.shape[1] + places

    @cached_property
    def _missing(self) -> Float[Tensor, "row circuit token d_model"]:
        """Two streams to start from, then replacement minus live write of each used writer."""
        like, group = self.pair.replaced.embed, self.group
        n = group.n_rows(len(self.model.graph.sources))
        return like.new_empty(n, group.n_circuits, *like.shape)

    # Tokens of all circuits.

    def chosen(self, x: Float[Tensor, "row pos ..."]) -> Float[Tensor, "circuits_x_token ..."]:
        """Activations at the tokens where anything can differ, of all circuits."""
        return self._by_circuit(x).index_select(1, self._tokens).flatten(0, 1)

    def put(
        self,
        live: Float[Tensor, "row pos ..."],
        made: Float[Tensor, "circuits_x_token ..."],
        heads: Int[Tensor, " some"] | None,
    ) -> Float[Tensor, "row pos ..."]:
        """Live activations with what was made in place of them, in the circuits that ask for it."""
        group, name, whole = self.group, self.here, self._by_circuit(live)
        made = made.unflatten(0, (group.n_circuits, -1)).to(live.dtype)
        computed = group.computed.get(name)
        if heads is not None or computed is not None:
            kept = whole.index_select(1, self._tokens)
            mine = kept if heads is None else kept.index_select(2, heads)
            made = made if computed is None else torch.where(computed, made, mine)
            made = made if heads is None else kept.index_copy(2, heads, made)
        if name in group.replaced:
            made = torch.where(group.replaced[name], self.pair.nothing_kept[name], made)
        return whole.index_copy(1, self._tokens, made).view_as(live)

    def _put_replaced(
        self, name: str, live: Float[Tensor, "row pos head d_head"]
    ) -> Float[Tensor, "row pos head d_head"]:
        whole = self._by_circuit(live)
        kept = whole.index_select(1, self._tokens)
        made = torch.where(self.group.replaced[name], self.pair.nothing_kept[name], kept)
        return whole.index_copy(1, self._tokens, made).view_as(live)

    def _by_circuit(
        self, x: Float[Tensor, "row pos ..."]
    ) -> Float[Tensor, "circuit batch_x_pos ..."]:
        return x.reshape(self.group.n_circuits, -1, *x.shape[2:])

    # Readers.

    def inputs(
        self, reading: Reading, name: str, stream: Float[Tensor, "circuits_x_token d_model"]
    ) -> Float[Tensor, "reader circuits_x_token d_model"]:
        """All sums of a reading, of all circuits: one product."""
        missing = self._missing[: self.group.n_rows(reading.n_sources)]
        missing[LIVE] = stream.view_as(missing[LIVE])
        missing[REPLACED] = self.pair.nothing_kept[name]
        terms = self.group.terms[reading.number]
        if terms.ndim == 4:
            return self._by_span(terms, missing).reshape(terms.shape[2], *stream.shape)
        x = torch.bmm(terms, missing.flatten(2).transpose(0, 1))
        x = x.unflatten(2, missing.shape[2:]).transpose(0, 1)
        return x.reshape(len(x), *stream.shape)

    @cached_property
    def _parts(self) -> list[slice]:
        """Where each span stands among the tokens."""
        assert self.pair.span is not None, "the group keeps spans apart"
        return cuts(self.pair.span, len(self.group.terms[0]))

    def _by_span(
        self,
        terms: Float[Tensor, "span circuit reader row"],
        missing: Float[Tensor, "row circuit token d_model"],
    ) -> Float[Tensor, "reader circuit token d_model"]:
        """The same, each span's tokens by its own terms."""
        x = missing.new_empty(terms.shape[2], *missing.shape[1:])
        for mine, part in zip(terms, self._parts, strict=True):
            if part.start < part.stop:
                seen = missing[:, :, part].flatten(2).transpose(0, 1)
                made = torch.bmm(mine, seen).unflatten(2, (-1, x.shape[-1]))
                x[:, :, part] = made.transpose(0, 1)
        return x

    # Writers: how far each is from its replacement.

    def on_heads(
        self, block: Block, head_input: Float[Tensor, "circuits_x_token head d_head"]
    ) -> None:
        """Keep what the used heads of all circuits lack."""
        group, heads = self.group, self.group.heads[block.index]
        replaced = self.pair.replaced.heads[block.index]
        live = head_input.unflatten(0, (group.n_circuits, -1))
        which = None if len(heads) == live.shape[2] else heads
        if which is not None:
            replaced, live = replaced.index_select(1, heads), live.index_select(2, heads)
        rows = self._missing[group.rows(self.model.graph.head_sources(block.index))]
        block.head_writes((replaced - live).flatten(0, 1), heads=which, out=rows.flatten(1, 2))

    def on_mlp(self, block: Block, write: Float[Tensor, "circuits_x_token d_model"]) -> None:
        """Keep what the MLP of all circuits lacks."""
        mlp = self.model.graph.mlp_source(block.index)
        (row,) = self._missing[self.group.rows(slice(mlp, mlp + 1))]
        torch.sub(self.pair.replaced.mlps[block.index], write.view_as(row), out=row)

    def _fill_writers_before(self) -> None:
        """What writers lack that write before the pass begins: in all circuits the same."""
        clean, replaced, graph = self.pair.clean.writes, self.pair.replaced, self.model.graph
        self._fill(slice(0, 1), replaced.embed, clean.embed)
        for block in self.model.blocks[: self.group.first_layer]:
            i, span = block.index, graph.head_sources(block.index)
            rows, heads = self.group.rows(span), self.group.heads[i]
            if len(heads):
                lack = replaced.heads[i][:, heads] - clean.heads[i][:, heads]
                self._missing[rows] = block.head_writes(lack, heads=heads)[:, None]
            self._fill(slice(span.stop, span.stop + 1), replaced.mlps[i], clean.mlps[i])

    def _fill(
        self,
        source: slice,
        replaced: Float[Tensor, "token d_model"],
        clean: Float[Tensor, "token d_model"],
    ) -> None:
        rows = self.group.rows(source)
        if rows.stop > rows.start:
            self._missing[rows] = replaced - clean
