"""Edge scores with positions kept: which token an edge matters at.

`[source, dest, pos]`, where a position is a token's number in its own prompt, counted from the
first real token. Summed over positions they are the scores that `score` gives.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from circuits.progress import track
from circuits.provenance import describe
from circuits.scores import Scores
from circuits.scoring.contract import edge_scores
from circuits.scoring.paths import Ends

# the gradients of one batch are collected as `score` does it, and only contracted otherwise
from circuits.scoring.score import Recipe, _check, _Job, _Sums
from patching.attribution import over_spans
from patching.capture import Writes
from patching.gradients import AttentionGradients, ReaderGradients
from patching.graph import Graph
from patching.metrics import WITHOUT_GRADIENT, Metric
from patching.model import Model
from patching.tasks.task import Batch, Task


@dataclass(frozen=True, eq=False)
class PositionScores:
    """One score per edge and position, 0 where the graph has no edge."""

    tensor: Float[Tensor, "source dest pos"]
    graph: Graph
    provenance: Mapping[str, object]

    def of(self, source: str, dest: str) -> Float[Tensor, " pos"]:
        """The scores of the edge `source->dest`, one a position.

        Raises:
            ValueError: if the graph has no such edge.
        """
        return self.tensor[self.graph.edge_index(source, dest)]

    def total(self) -> Scores:
        """The scores summed over positions."""
        provenance = {**self.provenance, "positions": "summed over all tokens up to the answer"}
        return Scores(self.tensor.sum(dim=2), self.graph, provenance)

    def over_spans(self, spans: Mapping[str, range]) -> dict[str, Scores]:
        """The scores summed over each of some named spans of positions.

        For prompts of one template, whose positions mean the same.

        Raises:
            ValueError: if there are no spans, or one is empty or reaches beyond the positions.
        """
        parts = over_spans(self.tensor, spans).unbind(dim=2)
        return {
            name: Scores(
                part.contiguous(),
                self.graph,
                {**self.provenance, "positions": f"{name}: {list(spans[name])}"},
            )
            for name, part in zip(spans, parts, strict=True)
        }


def position_scores(
    model: Model,
    task: Task,
    metric: Metric,
    *,
    recipe: Recipe = Recipe(),  # noqa: B008 - a frozen value
    batch_size: int = 16,
) -> PositionScores:
    """Edge attribution as by `score`, with positions kept; mean over prompts.

    A prompt without a position adds nothing there, so that sums over positions are `score`'s.
    Takes `sources * dests * positions` float64 values of memory on the CPU.

    Raises:
        ValueError: if the metric has no gradient, and as `score`.
    """
    if metric in WITHOUT_GRADIENT:
        raise ValueError(
            f"{metric.__name__} has no gradient, so edges cannot be scored by it; "
            "take logit_diff, prob_diff or kl"
        )
    prepared = recipe.ablation(model)
    _check(metric, recipe.path, prepared)
    if prepared.paired:
        task.require_contrast()
    model.check(task)
    job = _Job(model, metric, recipe, prepared)
    total = torch.zeros(*model.graph.exists.shape, task.max_length, dtype=torch.float64)
    batches = task.batches(batch_size, model.device)
    for batch in track(batches, "scoring positions", task.n_batches(batch_size)):
        places = batch.places[prepared.tokens(batch)]
        difference, parts = _collect(job, batch)
        for place in places.unique().tolist():
            chosen = (places == place).nonzero().squeeze(1)
            for rows, gradients in parts:
                at = edge_scores(model, difference[chosen], _at_tokens(gradients, chosen))
                total[rows, :, place] += at[rows]
    options = {**recipe.path.options, "rule": recipe.rule.name, "path": recipe.path.name}
    provenance = describe(model, task, metric, recipe.name, options)
    provenance |= {"ablation": prepared.name, "positions": "kept, from the first real token"}
    return PositionScores(total / len(task), model.graph, provenance)


def _collect(job: _Job, batch: Batch) -> tuple[Writes, list[tuple[slice, ReaderGradients]]]:
    """Differences of writes at a batch, and gradient sums with the writers each is for."""
    path, tokens = job.recipe.path, job.prepared.tokens(batch)
    sums = _Sums(job, batch, tokens)
    ends = _run_ends(job, sums, batch)
    for step in path.between(ends) if path.between else ():
        sums.step(step)
    return ends.difference, list(_finished(sums))


def _run_ends(job: _Job, sums: _Sums, batch: Batch) -> Ends:
    path, prepared = job.recipe.path, job.prepared
    clean = sums.run(batch.clean, path.clean)
    sums.batch = replace(batch, clean_logits=clean.logits)
    corrupt = sums.run(batch.corrupt, path.corrupt) if prepared.paired else None
    replaced = prepared.replace(batch, clean, corrupt)
    return Ends(job.model, batch, prepared.tokens(batch), clean, replaced)


def _finished(sums: _Sums) -> Iterator[tuple[slice, ReaderGradients]]:
    for (first, last), gradients in sums._sums.items():
        yield slice(first, last), gradients.finish()


def _at_tokens(gradients: ReaderGradients, chosen: Int[Tensor, " chosen"]) -> ReaderGradients:
    """Gradients at some of the tokens."""
    attention = tuple(
        AttentionGradients(layer.projected[chosen], layer.x_hat[:, chosen], layer.radial[:, chosen])
        for layer in gradients.attention
    )
    mlps = tuple(mlp[chosen] for mlp in gradients.mlps)
    return ReaderGradients(attention, mlps, gradients.logits[chosen])
