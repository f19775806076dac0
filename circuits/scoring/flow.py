"""Information-flow routes: whose writes make up what a reader sees, in clean runs alone.

No metric, no corrupt prompt and no gradient: the scores are shares of a reader's input, and say
what flows, not what it is good for. Never negative.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import one_hot

from circuits.provenance import describe
from circuits.scores import Scores
from circuits.scoring.batches import BatchScores, Portion, score_batches, to_scores
from patching.anatomy.blocks import FINAL_STREAM, widen
from patching.capture import Recorder, Writes, expand_writes, indices
from patching.memory import in_tiles
from patching.metrics import Metric, logit_diff
from patching.model import Hook, Model
from patching.modes import without_gradients
from patching.runs.batches import Doing, Keeping
from patching.tasks.task import Batch, Task
from patching.work import Run


def information_flow(
    model: Model,
    task: Task,
    metric: Metric | None = None,
    *,
    batch_size: int = 16,
    run: Run | None = None,
) -> Scores:
    """The share of each writer in what each reader sees, by how far it brings it from zero.

    A reader at one token sees the stream `y`, constants such as position embeddings included.
    `prox(u) = max(0, |y|_1 - |y - a_u|_1)` for each write `a_u` in it, and the edge's score is
    `prox(u)` over the sum of `prox` of all writers, or 0 where that sum is 0. Mean over a prompt's
    real tokens, then over prompts. Readers of one stream (a layer's q, k and v) have equal scores.
    One forward pass; `metric` is there for the signature's sake and is not used.

    Ferrando & Voita 2024, arXiv:2403.00824.

    Raises:
        Interrupted: as `score`.
        ValueError: if the model cannot read the task, or a batch would be empty.
    """
    nothing = "none (clean runs alone)"
    described = describe(model, task, logit_diff, "information-flow", {}, ablation=nothing) | {
        "metric": nothing,
        "positions": "mean over real tokens",
        "sign": "shares of what a reader sees, never negative",
    }
    keeping = Keeping("scoring", described, (), Doing(batch_size, run), "scores")
    return score_batches(model, task, [Portion(_ScoreBatch(model))], keeping, to_scores)


@dataclass(frozen=True)
class _ScoreBatch:
    """Shares in one batch, summed over its examples."""

    model: Model

    def __call__(self, batch: Batch) -> BatchScores:
        return BatchScores(_score(self.model, batch), None)


@dataclass(frozen=True)
class _Seen:
    """One stream, the number of writers in it, and the readers that see it."""

    name: str
    n_sources: int
    readers: list[int]


def _streams(model: Model) -> list[_Seen]:
    graph, seen = model.graph, []
    everyone = list(range(len(graph.destinations)))
    for block in model.blocks:
        i = block.index
        readers = everyone[graph.attention_readers(i)]
        seen.append(_Seen(block.stream_in, graph.sources_before_attention(i), readers))
        mlp = [graph.mlp_reader(i)]
        seen.append(_Seen(block.mlp_stream, graph.sources_before_mlp(i), mlp))
    return [*seen, _Seen(FINAL_STREAM, len(graph.sources), [everyone[-1]])]


@without_gradients
def _score(model: Model, batch: Batch) -> Float[Tensor, "source dest"]:
    """Scores of one batch, summed over its examples."""
    streams = _streams(model)
    writes, seen = _run(model, batch, {stream.name for stream in streams})
    n_tokens = batch.by_row(batch.by_example(batch.distinct.double().sum(dim=1, keepdim=True)))
    weights = (batch.distinct.double() / n_tokens)[batch.is_token]
    span = torch.zeros_like(batch.clean) if batch.span is None else batch.span
    by_span = one_hot(span[batch.is_token], max(len(batch.apart), 1)) * weights[:, None]
    total = torch.zeros(*model.graph.exists.shape, by_span.shape[1], dtype=torch.float64)
    flow = _Flow(model, streams, writes, seen, by_span, total)
    in_tiles(len(writes), flow.bytes_each, model.device, flow.add)
    return total.flatten(1)


@dataclass(frozen=True, eq=False)
class _Flow:
    """Shares of what readers see, weighted and added up a few tokens at a time."""

    model: Model
    streams: list[_Seen]
    writes: Writes
    seen: dict[str, Float[Tensor, "token d_model"]]
    weights: Float[Tensor, "token span"]
    total: Float[Tensor, "source dest span"]

    @property
    def bytes_each(self) -> int:
        """What the expanded writes of one token take."""
        embed = self.writes.embed
        return len(self.model.graph.sources) * embed.shape[1] * embed.element_size()

    def add(self, tile: slice) -> None:
        """Add the shares at some tokens to the sum."""
        written, scores = expand_writes(self.model, self.writes[tile]), []
        for stream in self.streams:
            shares = _shares(written[: stream.n_sources], self.seen[stream.name][tile])
            scores.append((shares.double() @ self.weights[tile]).cpu())
        for stream, found in zip(self.streams, scores, strict=True):
            self.total[: stream.n_sources, stream.readers] += found[:, None]


def _shares(
    written: Float[Tensor, "source token d_model"], y: Float[Tensor, "token d_model"]
) -> Float[Tensor, "source token"]:
    """Each writer's share at each token; 0 for all where none brings `y` farther from zero."""
    rest = torch.stack([(y - one).abs().sum(dim=-1) for one in written])
    prox = (y.abs().sum(dim=-1) - rest).clamp(min=0)
    total = prox.sum(dim=0)
    return torch.where(total > 0, prox / total, 0)


def _run(model: Model, batch: Batch, names: set[str]) -> tuple[Writes, dict[str, Tensor]]:
    """What writers wrote and what readers saw at all real tokens of the clean prompts."""
    recorder, chosen = Recorder(model, batch.is_token), indices(batch.is_token)
    seen: dict[str, Tensor] = {}

    def keep(name: str) -> tuple[str, Hook]:
        return name, lambda stream: seen.update({name: widen(stream[chosen])})

    hooks = [*recorder.hooks, *map(keep, sorted(names))]
    run = recorder.finish(model.answer_logits(batch.clean, batch, hooks))
    return run.writes, seen
