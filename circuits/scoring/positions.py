"""Edge scores with positions kept: which token an edge matters at.

`[source, dest, pos]`, where a position is a token's number in its own prompt, counted from the
first real token. Summed over positions they are the scores that `score` gives.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from circuits.progress import track
from circuits.scores import Scores
from circuits.scoring.contract import edge_scores
from circuits.scoring.gather import Recipe, prepare
from patching.attribution import over_spans
from patching.gradients import AttentionGradients, ReaderGradients
from patching.graph import Graph
from patching.metrics import Metric
from patching.model import Model
from patching.tasks.task import Task


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
        ValueError: as `score`.
    """
    job = prepare(model, task, metric, recipe)
    total = torch.zeros(*model.graph.exists.shape, task.max_length, dtype=torch.float64)
    batches = task.batches(batch_size, model.device)
    for batch in track(batches, "scoring positions", task.n_batches(batch_size)):
        places = batch.places[job.prepared.tokens(batch)]
        gathered = job.gather(batch)
        for place in places.unique().tolist():
            chosen = (places == place).nonzero().squeeze(1)
            for rows, gradients in gathered.gradients:
                at = edge_scores(model, gathered.difference[chosen], _at_tokens(gradients, chosen))
                total[rows, :, place] += at[rows]
    provenance = {**job.describe(task, None), "positions": "kept, from the first real token"}
    return PositionScores(total / len(task), model.graph, provenance)


def _at_tokens(gradients: ReaderGradients, chosen: Int[Tensor, " chosen"]) -> ReaderGradients:
    """Gradients at some of the tokens."""
    attention = tuple(
        AttentionGradients(layer.projected[chosen], layer.x_hat[:, chosen], layer.radial[:, chosen])
        for layer in gradients.attention
    )
    mlps = tuple(mlp[chosen] for mlp in gradients.mlps)
    return ReaderGradients(attention, mlps, gradients.logits[chosen])
