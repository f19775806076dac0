"""One pass over several circuits: side by side in one group, or each in a group of its own.

Rows of the batch are circuits x examples. The pass starts from the clean run's stream at its first
layer. How far each used writer of a group is from its replacement is kept for all its circuits in
one tensor; the inputs of all readers at one place are one batched product over it, pass the model's
own norm, so that a row's numbers do not depend on which readers are replaced, and are projected at
once. What a circuit does not put together stays as it is. Many circuits in one group are as many
operations as one. Groups of one are less arithmetic: each leaves out what its circuit does not
need, its last layer works at the answers, and MLPs run on the circuits and tokens that need them.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor

from circuits.running.groups import (
    LIVE,
    REPLACED,
    Group,
    first_layer,
    make_groups,
    members,
    n_before,
)
from circuits.running.pair import Pair
from circuits.running.plan import STARTS, Plan
from circuits.running.rewiring import Reading, rewired
from patching.anatomy.blocks import FINAL_STREAM, Block
from patching.anatomy.stack import skipping
from patching.model import Hook, Model
from patching.tasks.task import Batch


def run_pass(
    model: Model, batch: Batch, pair: Pair, plans: Sequence[Plan], *, together: bool
) -> Float[Tensor, "circuit asked vocab"]:
    """Logits at the answer positions of all circuits, `together` in one group or each in its own.

    Each in its own, they have one `first_layer`.
    """
    layer, n = first_layer(plans), len(plans)
    name = FINAL_STREAM if layer == model.graph.n_layers else model.blocks[layer].stream_in
    start: tuple[str, Hook] = (name, lambda _: pair.streams[name].repeat(n, 1, 1))
    groups = make_groups(model, batch, pair, plans, together=together)
    shared = Shared(n, pair.replaced.embed.new_empty(0))
    mixes = [Side(model, pair, group, shared) for group in groups]
    hooks = _hooks(model, pair, layer, mixes, skips=not together)
    with skipping(model.bridge, layer, as_tuple=model.blocks_return_tuples):
        logits = model.answer_logits(batch.clean.repeat(n, 1), batch, [start, *hooks])
    return rearrange(logits, "(circuit asked) vocab -> circuit asked vocab", circuit=n)


def _hooks(
    model: Model, pair: Pair, layer: int, mixes: Sequence["Side"], *, skips: bool
) -> list[tuple[str, Hook]]:
    """All hooks of one pass that begins at a layer."""
    for mix in mixes if layer == model.graph.n_layers else ():
        mix.narrow()
    _fill_before(model, pair, layer, mixes)
    hooks = [hook for mix in mixes for hook in mix.hooks()]
    if not skips:
        return hooks
    blocks = model.blocks[layer:]
    mlps = [_Mlp(block, pair.mlp_outs[block.mlp_out], mixes) for block in blocks]
    leaving: list[tuple[str, Hook]] = [(mlp.block.mlp_out, mlp.leave) for mlp in mlps]
    entering: list[tuple[str, Hook]] = [(mlp.block.mlp_in, mlp.enter) for mlp in mlps]
    narrowing = [(model.blocks[-1].z, mix.narrow) for mix in mixes]
    return [*leaving, *narrowing, *hooks, *entering]


def _fill_before(model: Model, pair: Pair, layer: int, mixes: Sequence["Side"]) -> None:
    """What writers lack that write before the pass begins: in all circuits the same."""
    clean, replaced, graph = pair.clean.writes, pair.replaced, model.graph
    first = n_before(model, layer)
    mine = [mix.group.used.numbers[: mix.group.used.n_before[first]] for mix in mixes]
    used = members(graph, mine)
    if not len(used.numbers):
        return
    lack = replaced.embed.new_empty(len(used.numbers), *replaced.embed.shape)
    if used.any(slice(0, 1)):
        torch.sub(replaced.embed, clean.embed, out=lack[0])
    for block in model.blocks[:layer]:
        i, span = block.index, graph.head_sources(block.index)
        heads = mixes[0].group.heads[i] if len(mixes) == 1 else used.among(span).to(model.device)
        if len(heads):
            some = replaced.heads[i][:, heads] - clean.heads[i][:, heads]
            block.head_writes(some, heads=heads, out=lack[used.span(span)])
        if used.any(slice(span.stop, span.stop + 1)):
            torch.sub(replaced.mlps[i], clean.mlps[i], out=lack[used.n_before[span.stop]])
    for mix, some in zip(mixes, mine, strict=True):
        rows = lack if len(mixes) == 1 else lack[torch.searchsorted(used.numbers, some)]
        mix.missing[STARTS : STARTS + len(some)] = rows[:, None, mix.where]


@dataclass
class Shared:
    """What the groups of a pass share.

    `written` are the hook points where one of them has put something already.
    """

    n_circuits: int
    _room: Float[Tensor, " room"]
    written: set[str] = field(default_factory=set)

    def room(self, shape: Sequence[int], like: Tensor) -> Tensor:
        """Memory for what is soon done with, a norm's copy made: fresh pages cost time."""
        n = torch.Size(shape).numel()
        if len(self._room) < n:
            self._room = like.new_empty(n)
        return self._room[:n].view(shape)


class _Mlp:
    """A layer's MLP, on the circuits and tokens that need it alone.

    Elsewhere it writes what it wrote in the clean run.
    """

    def __init__(
        self, block: Block, clean: Float[Tensor, "row pos d_model"], mixes: Sequence["Side"]
    ) -> None:
        self.block, self._clean, self._n = block, clean, mixes[0].shared.n_circuits
        self._ran = [mix for mix in mixes if mix.group.runs[block.index]]
        self._tokens: Tensor | None = None

    def enter(self, live: Float[Tensor, "row pos d_model"]) -> Float[Tensor, "one token d_model"]:
        """What it reads, of all circuits."""
        ran = [mix for mix in self._ran if len(mix.tokens)]
        if not ran:
            return live if self.block.mlp_keeps_shape else live[:1, :1]
        x = torch.cat([mix.mlp_input(self.block, live) for mix in ran])
        self._tokens = torch.cat([mix.tokens_in_pass for mix in ran])
        if not self.block.mlp_keeps_shape:
            return x[None]
        rest = live.flatten(0, 1)[len(x) :]
        return torch.cat([x, torch.zeros_like(rest)]).view_as(live)

    def leave(self, out: Float[Tensor, "one token d_model"]) -> Float[Tensor, "row pos d_model"]:
        """What it writes."""
        whole = self._clean.repeat(self._n, 1, 1)
        if self._tokens is not None:
            made = out.flatten(0, 1)[: len(self._tokens)]
            whole.flatten(0, 1).index_copy_(0, self._tokens, made)
        return whole


class Side:
    """What readers of a group's circuits see: a `Mix` whose tokens are circuits x tokens.

    `tokens` are those it works at, `where` their place among the pair's. `missing` holds two
    streams to start from, then replacement minus live write of each used writer.
    """

    def __init__(self, model: Model, pair: Pair, group: Group, shared: Shared) -> None:
        self.model, self.pair, self.group, self.shared = model, pair, group, shared
        self.tokens: Int[Tensor, " token"] = group.tokens
        self.where: slice | Tensor = group.where
        self._n = group.circuits.stop - group.circuits.start
        n_rows = STARTS + len(group.used.numbers)
        width = pair.replaced.embed.shape[1]
        self._kept_back = {b.mlp_in: b.mlp_norm is None for b in model.blocks if group.skips}
        self._mlp_inputs: dict[str, Tensor] = {}
        self.missing = pair.replaced.embed.new_empty(n_rows, self._n, len(group.tokens), width)

    def hooks(self) -> list[tuple[str, Hook]]:
        """All hooks of one pass."""
        known = [(name, partial(self._put_replaced, name)) for name in self.group.replaced]
        return [*known, *rewired(self.model, self.group.layout, self)]

    def narrow(self, _: Tensor | None = None) -> None:
        """Go on at the asked tokens alone, where these are known: nothing else is ever read."""
        asked = self.group.asked
        if asked is not None and len(asked) < len(self.tokens):
            self.tokens, self.where = self.tokens[asked], self.group.where.start + asked
            self.missing = self.missing.index_select(2, asked)

    # Tokens of all circuits.

    def chosen(self, x: Float[Tensor, "row pos ..."]) -> Float[Tensor, "circuits_x_token ..."]:
        """Activations at the tokens where anything can differ, of the group's circuits."""
        return self._mine(x).index_select(1, self.tokens).flatten(0, 1)

    def put(
        self,
        name: str,
        live: Float[Tensor, "row pos ..."],
        made: Float[Tensor, "circuits_x_token ..."],
        heads: Int[Tensor, " some"] | None,
    ) -> Float[Tensor, "row pos ..."]:
        """Live activations with what was made in place of them, in the circuits that ask for it."""
        made = made.unflatten(0, (self._n, -1)).to(live.dtype)
        if name in self._kept_back:
            self._mlp_inputs[name] = made[0].clone() if self._kept_back[name] else made[0]
            return live
        some, alone = self.group.computed.get(name), self._n == self.shared.n_circuits
        if alone and some is None and heads is None and name not in self.group.replaced:
            return self._mine(live).index_copy(1, self.tokens, made).view_as(live)
        out, mine = self._open(name, live)
        if some is not None:
            circuit, *rank_and_head = some
            made = made[(circuit, slice(None), *rank_and_head[:1])]
            mine[(circuit[:, None], self.tokens, *(x[:, None] for x in rank_and_head[1:]))] = made
        elif heads is None:
            mine.index_copy_(1, self.tokens, made)
        else:
            mine[:, self.tokens[:, None], heads] = made
        return out

    def _put_replaced(
        self, name: str, live: Float[Tensor, "row pos head d_head"]
    ) -> Float[Tensor, "row pos head d_head"]:
        """Put what is known of readers that see nothing but replacements."""
        (circuit, head), (out, mine) = self.group.replaced[name], self._open(name, live)
        nothing = self.pair.nothing_kept[name][self.where]
        mine[circuit[:, None], self.tokens, head[:, None]] = nothing[:, head].transpose(0, 1)
        return out

    def _open(
        self, name: str, live: Float[Tensor, "row pos ..."]
    ) -> tuple[Float[Tensor, "row pos ..."], Float[Tensor, "circuit batch_x_pos ..."]]:
        """Live activations that may be written to, and those of the group's circuits in them."""
        if name not in self.shared.written:
            self.shared.written.add(name)
            live = live.clone(memory_format=torch.contiguous_format)
        return live, self._mine(live)

    def _mine(self, x: Float[Tensor, "row pos ..."]) -> Float[Tensor, "circuit batch_x_pos ..."]:
        return x.reshape(self.shared.n_circuits, -1, *x.shape[2:])[self.group.circuits]

    # Readers.

    @property
    def tokens_in_pass(self) -> Int[Tensor, " token"]:
        """The tokens of a group of one, counted through all rows of the pass."""
        return self.group.circuits.start * self.pair.tokens.numel() + self.tokens

    def mlp_input(
        self, block: Block, live: Float[Tensor, "row pos d_model"]
    ) -> Float[Tensor, "token d_model"]:
        """What an MLP reads at these tokens, put together or live."""
        made = self._mlp_inputs.pop(block.mlp_in, None)
        return self.chosen(live) if made is None else made

    def inputs(
        self, reading: Reading, name: str, stream: Float[Tensor, "circuits_x_token d_model"]
    ) -> Float[Tensor, "reader circuits_x_token d_model"]:
        """All sums of a reading, of all circuits: one product."""
        terms = self.group.terms[reading.number]
        missing = self.missing[: terms.shape[-1]]
        missing[LIVE] = stream.view_as(missing[LIVE])
        missing[REPLACED] = self.pair.nothing_kept[name][self.where]
        if terms.ndim == 4:
            return self._by_span(terms, missing).reshape(terms.shape[2], *stream.shape)
        seen = missing.flatten(2).transpose(0, 1)
        shape = *terms.shape[:2], seen.shape[2]
        room = self.shared.room(shape, seen) if self.group.skips else None
        x = torch.bmm(terms, seen, out=room)
        x = x.unflatten(2, missing.shape[2:]).transpose(0, 1)
        return x.reshape(len(x), *stream.shape)

    def _by_span(
        self,
        terms: Float[Tensor, "span circuit reader row"],
        missing: Float[Tensor, "row circuit token d_model"],
    ) -> Float[Tensor, "reader circuit token d_model"]:
        """The same, each span's tokens by its own terms."""
        x = missing.new_empty(terms.shape[2], *missing.shape[1:])
        for mine, part in zip(terms, self.group.spans, strict=True):
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
        replaced = self.pair.replaced.heads[block.index][self.where]
        live = head_input.unflatten(0, (self._n, -1))
        which = None if len(heads) == live.shape[2] else heads
        if which is not None:
            replaced, live = replaced.index_select(1, heads), live.index_select(2, heads)
        rows = self.missing[group.rows(self.model.graph.head_sources(block.index))]
        block.head_writes((replaced - live).flatten(0, 1), heads=which, out=rows.flatten(1, 2))

    def on_mlp(self, block: Block, write: Float[Tensor, "circuits_x_token d_model"]) -> None:
        """Keep what the MLP of all circuits lacks."""
        mlp = self.model.graph.mlp_source(block.index)
        (row,) = self.missing[self.group.rows(slice(mlp, mlp + 1))]
        torch.sub(self.pair.replaced.mlps[block.index][self.where], write.view_as(row), out=row)
