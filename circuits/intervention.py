"""Exact edge interventions: many circuits at once, as rows of one batch.

Every row runs the clean prompt; readers take what the live writers sum to, with the writers of
removed edges replaced by their corrupt writes (see `plan`). Readers with nothing removed are left
alone, q, k and v readers with everything removed take the corrupt run's values, and only writers
that some sum needs are expanded to d_model. Replaced inputs pass the model's own norm, so that a
row's numbers do not depend on which other rows are in the batch.
"""

from dataclasses import dataclass

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor

from circuits.plan import Plan, make_plan
from patching.blocks import EMBEDDING, FINAL_STREAM, Block, widen
from patching.capture import Recorder, Run, indices
from patching.model import Hook, Model
from patching.tasks.task import Batch


@dataclass(frozen=True)
class Corrupt:
    """The corrupt run, with all that a removed edge may ask for, at the tokens that can differ.

    `streams` and `projections` are by hook point: the stream before each norm, and q, k and v.
    """

    run: Run
    streams: dict[str, Float[Tensor, "token d_model"]]
    projections: dict[str, Float[Tensor, "token head d_head"]]


@torch.no_grad()
def run_corrupt(model: Model, batch: Batch) -> Corrupt:
    """Run the corrupt prompts of a batch, for use in `run_circuits`."""
    recorder, tokens = Recorder(model, batch.can_differ), indices(batch.can_differ)
    streams: dict[str, Tensor] = {}
    projections: dict[str, Tensor] = {}

    def keep(store: dict[str, Tensor], name: str) -> tuple[str, Hook]:
        return name, lambda tensor: store.update({name: tensor[tokens]})

    hooks = [keep(streams, FINAL_STREAM)]
    for block in model.blocks:
        hooks += [keep(streams, name) for name in {block.stream_in, block.mlp_stream}]
        hooks += [keep(projections, name) for name in block.qkv]
    logits = model.answer_logits(batch.corrupt, batch, [*recorder.hooks, *hooks])
    return Corrupt(recorder.finish(logits), streams, projections)


@torch.no_grad()
def run_circuits(
    model: Model, batch: Batch, corrupt: Corrupt, removed: Float[Tensor, "circuit source dest"]
) -> Float[Tensor, "circuit batch vocab"]:
    """Logits at the answer positions of every circuit, all run in one pass.

    `removed` is 1 for removed edges, 0 for kept ones and non-edges; values between blend both.
    """
    plan = make_plan(removed.to(corrupt.run.writes.embed), model.graph.exists.to(removed.device))
    hooks = _Interventions(model, batch, corrupt, plan).hooks()
    logits = model.answer_logits(batch.clean.repeat(len(removed), 1), batch, hooks)
    return rearrange(logits, "(circuit batch) vocab -> circuit batch vocab", circuit=len(removed))


class _Interventions:
    """Hooks for one pass. They keep how far each used writer is from its corrupt write."""

    def __init__(self, model: Model, batch: Batch, corrupt: Corrupt, plan: Plan) -> None:
        self._model, self._graph, self._corrupt, self._plan = model, model.graph, corrupt, plan
        self._n = len(plan.coefficient)
        self._tokens = indices(batch.can_differ.repeat(self._n, 1))
        at_answer = _is_answer(batch)
        self._answers = indices(at_answer.repeat(self._n, 1))
        self._answer_tokens = at_answer[batch.can_differ]
        writes = corrupt.run.writes.embed
        self._missing = writes.new_empty(self._n, len(plan.used), *writes.shape)
        self._stream: dict[str, Tensor] = {}
        self._z: dict[int, Tensor] = {}

    def hooks(self) -> list[tuple[str, Hook]]:
        """All hooks, to be in place during the pass."""
        hooks: list[tuple[str, Hook]] = []
        if self._is_used(slice(0, 1)):
            hooks.append((EMBEDDING, self._on_embedding))
        for block in self._model.blocks:
            hooks += self._attention_hooks(block) + self._mlp_hooks(block)
            hooks += self._writer_hooks(block)
        if not self._plan.untouched[-1]:
            hooks.append((FINAL_STREAM, self._on_final))
        return hooks

    # Writers: how far each is from its corrupt write.

    def _on_embedding(self, embedding: Tensor) -> None:
        self._set_missing(slice(0, 1), self._corrupt.run.writes.embed, embedding[self._tokens])

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
            corrupt = self._corrupt.run.writes.mlps[block.index]
            hooks.append(
                (
                    block.mlp_out,
                    lambda out: self._set_missing(slice(mlp, mlp + 1), corrupt, out[self._tokens]),
                )
            )
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
        rows, heads = self._plan.used_in(self._graph.head_sources(block.index))
        live = self._by_circuit(block.head_input(z, total)[:, heads])
        missing = self._corrupt.run.writes.heads[block.index][:, heads] - live
        writes = block.head_writes(missing.flatten(0, 1), heads=heads)
        self._missing[:, rows] = rearrange(
            writes, "head (circuit t) d -> circuit head t d", circuit=self._n
        )

    def _set_missing(
        self,
        source: slice,
        corrupt: Float[Tensor, "token d_model"],
        live: Float[Tensor, "circuit_token d_model"],
    ) -> None:
        rows, _ = self._plan.used_in(source)
        self._missing[:, rows] = (corrupt - self._by_circuit(widen(live)))[:, None]

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
                corrupt = self._corrupt.projections[name][:, replaced]
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
        rows, _ = self._plan.used_in(slice(0, n_sources))
        missing, corrupt = self._missing[:, rows], self._corrupt.streams[name]
        if tokens is not None:
            missing, corrupt = missing[:, :, tokens], corrupt[tokens]
        coefficient = self._plan.coefficient[:, self._plan.used[rows]][:, :, readers]
        terms = torch.bmm(coefficient.transpose(1, 2), missing.flatten(2))
        live = self._by_circuit(self._stream[name])[:, None]
        start = self._plan.from_corrupt[:, readers][..., None, None]
        return terms.unflatten(2, corrupt.shape) + torch.where(start, widen(corrupt), widen(live))

    def _put(self, live: Tensor, values: Tensor) -> Tensor:
        out = live.clone()
        out[self._tokens] = values
        return out


def _is_answer(batch: Batch) -> Bool[Tensor, "batch pos"]:
    """Answer positions, of the rows whose two prompts differ at all."""
    positions = torch.arange(batch.clean.shape[1], device=batch.clean.device)
    return (positions == batch.answer_pos[:, None]) & batch.can_differ
