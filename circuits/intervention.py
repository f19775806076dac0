"""Exact edge interventions: many circuits at once, as rows of one batch.

Every row runs the clean prompt; readers take what the live writers sum to, with the writers of
removed edges replaced (see `plan`). A pass starts at the first layer where some circuit removes
something, from the clean run's stream. Readers with nothing removed are left alone, q, k and v
readers with everything removed take the corrupt run's values, and only writers that some sum needs
are expanded to d_model. Replaced inputs pass the model's own norm, so that a row's numbers do not
depend on which other rows are in the batch.
"""

from dataclasses import dataclass

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor

from circuits.plan import Plan, make_plan
from patching.ablations import Prepared
from patching.blocks import FINAL_STREAM, Block, widen
from patching.capture import Recorder, Run, Writes, indices
from patching.model import Hook, Model
from patching.stack import skipping
from patching.tasks.task import Batch


@dataclass(frozen=True)
class Pair:
    """The clean run and what replaces removed writers, for use in `run_circuits`.

    `tokens` are those where the two differ; `missing` is replacement minus clean write there.
    `streams` are the clean run's, whole, by hook point. Where removed writers come from a corrupt
    run, `corrupt` is that run and `corrupt_streams` and `corrupt_projections` hold, at `tokens`,
    what a reader sees when everything is removed.
    """

    tokens: Bool[Tensor, "batch pos"]
    clean: Run
    replaced: Writes
    streams: dict[str, Float[Tensor, "batch pos d_model"]]
    corrupt: Run | None
    corrupt_streams: dict[str, Float[Tensor, "token d_model"]]
    corrupt_projections: dict[str, Float[Tensor, "token head d_head"]]


@torch.no_grad()
def run_pair(model: Model, batch: Batch, ablation: Prepared) -> Pair:
    """Run the clean prompts, and the corrupt ones where the ablation uses them."""
    tokens = ablation.tokens(batch)
    chosen = indices(tokens)
    streams: dict[str, Tensor] = {}
    corrupt_streams: dict[str, Tensor] = {}
    projections: dict[str, Tensor] = {}

    def keep(store: dict[str, Tensor], name: str) -> tuple[str, Hook]:
        return name, lambda tensor: store.update({name: tensor})

    def keep_chosen(store: dict[str, Tensor], name: str) -> tuple[str, Hook]:
        return name, lambda tensor: store.update({name: tensor[chosen]})

    recorder = Recorder(model, tokens)
    hooks = [keep(streams, name) for name in [b.stream_in for b in model.blocks] + [FINAL_STREAM]]
    clean = recorder.finish(model.answer_logits(batch.clean, batch, [*recorder.hooks, *hooks]))
    corrupt = None
    if ablation.paired:
        recorder = Recorder(model, tokens)
        hooks = [keep_chosen(corrupt_streams, FINAL_STREAM)]
        for block in model.blocks:
            for name in {block.stream_in, block.mlp_stream}:
                hooks.append(keep_chosen(corrupt_streams, name))
            hooks += [keep_chosen(projections, name) for name in block.qkv]
        logits = model.answer_logits(batch.corrupt, batch, [*recorder.hooks, *hooks])
        corrupt = recorder.finish(logits)
    replaced = ablation.replace(batch, clean, corrupt).writes
    return Pair(tokens, clean, replaced, streams, corrupt, corrupt_streams, projections)


@torch.no_grad()
def run_circuits(
    model: Model, batch: Batch, pair: Pair, removed: Float[Tensor, "circuit source dest"]
) -> Float[Tensor, "circuit batch vocab"]:
    """Logits at the answer positions of every circuit, all run in one pass.

    `removed` is 1 for removed edges, 0 for kept ones and non-edges; values between blend both.
    """
    n = len(removed)
    paired = pair.corrupt is not None
    plan = make_plan(removed.to(pair.replaced.embed), model.graph, have_corrupt_run=paired)
    layer = plan.first_layer
    if layer is None:
        return pair.clean.logits.expand(n, -1, -1)
    name = FINAL_STREAM if layer == model.graph.n_layers else model.blocks[layer].stream_in
    start: tuple[str, Hook] = (name, lambda _: pair.streams[name].repeat(n, 1, 1))
    hooks = [start, *_Interventions(model, batch, pair, plan).hooks()]
    with skipping(model.bridge, layer, as_tuple=model.blocks_return_tuples):
        logits = model.answer_logits(batch.clean.repeat(n, 1), batch, hooks)
    return rearrange(logits, "(circuit batch) vocab -> circuit batch vocab", circuit=n)


class _Interventions:
    """Hooks for one pass. They keep how far each used writer is from its replacement.

    Writers before the first layer are the clean run's in every row: they are kept once.
    """

    def __init__(self, model: Model, batch: Batch, pair: Pair, plan: Plan) -> None:
        self._model, self._graph, self._pair, self._plan = model, model.graph, pair, plan
        self._n = len(plan.coefficient)
        self._tokens = indices(pair.tokens.repeat(self._n, 1))
        at_answer = _is_answer(batch, pair.tokens)
        self._answers = indices(at_answer.repeat(self._n, 1))
        self._answer_tokens = at_answer[pair.tokens]
        self._shared = self._shared_missing()
        n_own = len(plan.used) - plan.n_shared
        self._own = self._shared.new_empty(self._n, n_own, *self._shared.shape[1:])
        self._stream: dict[str, Tensor] = {}
        self._z: dict[int, Tensor] = {}

    def hooks(self) -> list[tuple[str, Hook]]:
        """All hooks, to be in place during the pass."""
        hooks: list[tuple[str, Hook]] = []
        for block in self._model.blocks[self._plan.first_layer :]:
            hooks += self._attention_hooks(block) + self._mlp_hooks(block)
            hooks += self._writer_hooks(block)
        if not self._plan.untouched[-1]:
            hooks.append((FINAL_STREAM, self._on_final))
        return hooks

    # Writers: how far each is from its replacement.

    def _shared_missing(self) -> Float[Tensor, "source token d_model"]:
        """Replacement minus clean write of the used writers before the first layer."""
        missing, plan = self._pair.replaced - self._pair.clean.writes, self._plan
        out = missing.embed.new_empty(plan.n_shared, *missing.embed.shape)
        out[plan.used_in(slice(0, 1))[0]] = missing.embed
        for block in self._model.blocks[: plan.first_layer]:
            rows, heads = plan.used_in(self._graph.head_sources(block.index))
            if len(heads):
                out[rows] = block.head_writes(missing.heads[block.index][:, heads], heads=heads)
            mlp = self._graph.mlp_source(block.index)
            out[plan.used_in(slice(mlp, mlp + 1))[0]] = missing.mlps[block.index]
        return out

    def _writer_hooks(self, block: Block) -> list[tuple[str, Hook]]:
        hooks: list[tuple[str, Hook]] = []
        if self._is_used(self._graph.head_sources(block.index)):
            if block.post_attention_norm is None:
                hooks.append((block.z, lambda z: self._on_heads(block, z[self._tokens], None)))
            else:
                hooks.append((block.z, lambda z: self._z.update({block.index: z[self._tokens]})))
                hooks.append((block.attention_sum, lambda total: self._on_sum(block, total)))
        mlp = self._graph.mlp_source(block.index)
        if self._is_used(slice(mlp, mlp + 1)):
            hooks.append((block.mlp_out, lambda out: self._on_mlp_out(block, out[self._tokens])))
        return hooks

    def _is_used(self, sources: slice) -> bool:
        return len(self._plan.used_in(sources)[1]) > 0

    def _on_sum(self, block: Block, total: Tensor) -> None:
        self._on_heads(block, self._z.pop(block.index), total[self._tokens])

    def _on_heads(
        self,
        block: Block,
        z: Float[Tensor, "circuit_token head d_head"],
        total: Float[Tensor, "circuit_token d_model"] | None,
    ) -> None:
        rows, heads = self._own_rows(self._graph.head_sources(block.index))
        live = self._by_circuit(block.head_input(z, total)[:, heads])
        missing = self._pair.replaced.heads[block.index][:, heads] - live
        writes = block.head_writes(missing.flatten(0, 1), heads=heads)
        self._own[:, rows] = rearrange(
            writes, "head (circuit t) d -> circuit head t d", circuit=self._n
        )

    def _on_mlp_out(self, block: Block, live: Float[Tensor, "circuit_token d_model"]) -> None:
        mlp = self._graph.mlp_source(block.index)
        rows, _ = self._own_rows(slice(mlp, mlp + 1))
        missing = self._pair.replaced.mlps[block.index] - self._by_circuit(widen(live))
        self._own[:, rows] = missing[:, None]

    def _own_rows(self, sources: slice) -> tuple[slice, Int[Tensor, " some"]]:
        rows, which = self._plan.used_in(sources)
        n = self._plan.n_shared
        return slice(rows.start - n, rows.stop - n), which

    def _by_circuit(self, x: Float[Tensor, "circuit_token ..."]) -> Float[Tensor, "circuit t ..."]:
        return x.unflatten(0, (self._n, -1))

    # Readers: their inputs, put together.

    def _attention_hooks(self, block: Block) -> list[tuple[str, Hook]]:
        graph, i = self._graph, block.index
        if bool(self._plan.untouched[graph.attention_readers(i)].all()):
            return []
        hooks: list[tuple[str, Hook]] = [(block.stream_in, self._keep_stream(block.stream_in))]
        spans = (graph.q_readers(i), graph.k_readers(i), graph.v_readers(i))
        for part, span in enumerate(spans):
            if not bool(self._plan.untouched[span].all()):
                hooks.append((block.qkv[part], self._replace_projection(block, part, span)))
        return hooks

    def _mlp_hooks(self, block: Block) -> list[tuple[str, Hook]]:
        reader = self._graph.mlp_reader(block.index)
        if self._plan.untouched[reader]:
            return []

        def on_mlp_in(live: Tensor) -> Tensor:
            readers = torch.tensor([reader], device=live.device)
            n_sources = self._graph.sources_before_mlp(block.index)
            x = self._inputs(block.mlp_stream, readers, n_sources)[:, 0].to(live.dtype)
            normed = x if block.mlp_norm is None else block.mlp_norm(x)
            return self._put(live, normed.flatten(0, 1))

        return [(block.mlp_stream, self._keep_stream(block.mlp_stream)), (block.mlp_in, on_mlp_in)]

    def _keep_stream(self, name: str) -> Hook:
        def hook(stream: Tensor) -> None:
            self._stream[name] = stream[self._tokens]

        return hook

    def _replace_projection(self, block: Block, part: int, span: slice) -> Hook:
        computed = self._plan.computed[span].nonzero().squeeze(1)
        replaced = self._plan.replaced[span].nonzero().squeeze(1)
        name, w, b = block.qkv[part], block.w_qkv[part], block.b_qkv[part]

        def hook(live: Tensor) -> Tensor:
            values = live[self._tokens]
            if len(replaced):
                corrupt = self._pair.corrupt_projections[name][:, replaced]
                values[:, replaced] = corrupt.repeat(self._n, 1, 1)
            if len(computed):
                n_sources = self._graph.sources_before_attention(block.index)
                x = self._inputs(block.stream_in, span.start + computed, n_sources)
                x = x.to(live.dtype)
                x = x if block.attention_norm is None else block.attention_norm(x)
                x = rearrange(x, "circuit reader t d -> reader (circuit t) d")
                made = torch.bmm(x, w[computed])
                made = made if b is None else made + b[computed][:, None]
                values[:, computed] = made.transpose(0, 1)
            return self._put(live, values)

        return hook

    def _on_final(self, live: Tensor) -> Tensor:
        """Only the answer positions of the final stream are ever read."""
        self._stream[FINAL_STREAM] = live[self._answers]
        reader = torch.tensor([len(self._graph.destinations) - 1], device=live.device)
        x = self._inputs(FINAL_STREAM, reader, len(self._graph.sources), self._answer_tokens)
        out = live.clone()
        out[self._answers] = x[:, 0].flatten(0, 1).to(live.dtype)
        return out

    def _inputs(
        self,
        name: str,
        readers: Int[Tensor, " reader"],
        n_sources: int,
        tokens: Bool[Tensor, " token"] | None = None,
    ) -> Float[Tensor, "circuit reader t d_model"]:
        """The stream at `name` as some readers see it, at all or only some of the tokens."""
        plan, n_shared = self._plan, self._plan.n_shared
        n_used = plan.used_in(slice(0, n_sources))[0].stop
        coefficient = plan.coefficient[:, plan.used[:n_used]][:, :, readers]
        shared, own = self._shared[:n_used], self._own[:, : max(0, n_used - n_shared)]
        if tokens is not None:
            shared, own = shared[:, tokens], own[:, :, tokens]
        n, t, d = self._n, *shared.shape[1:]
        first, rest = coefficient[:, :n_shared], coefficient[:, n_shared:]
        x = rearrange(first, "circuit source reader -> (circuit reader) source") @ shared.flatten(1)
        x = x.view(n, len(readers), t * d)
        if own.shape[1]:
            x = torch.baddbmm(x, rest.transpose(1, 2), own.flatten(2))
        return x.view(n, len(readers), t, d) + self._start(name, readers, tokens)

    def _start(
        self, name: str, readers: Int[Tensor, " reader"], tokens: Bool[Tensor, " token"] | None
    ) -> Float[Tensor, "circuit reader_or_one t d_model"]:
        """The stream to start from: the live one, or the corrupt one where that is nearer."""
        live = widen(self._by_circuit(self._stream[name])[:, None])
        if self._pair.corrupt is None:
            return live
        corrupt = self._pair.corrupt_streams[name]
        corrupt = widen(corrupt if tokens is None else corrupt[tokens])
        return torch.where(self._plan.from_corrupt[:, readers][..., None, None], corrupt, live)

    def _put(self, live: Tensor, values: Tensor) -> Tensor:
        out = live.clone()
        out[self._tokens] = values
        return out


def _is_answer(batch: Batch, tokens: Bool[Tensor, "batch pos"]) -> Bool[Tensor, "batch pos"]:
    """Answer positions, of the rows where anything can differ."""
    positions = torch.arange(batch.clean.shape[1], device=batch.clean.device)
    return (positions == batch.answer_pos[:, None]) & tokens
