"""Attribution patching of writers: what a node is worth, to first order, from one gradient.

`score = sum over tokens of (clean write - its replacement) . (d metric / d write)`, mean over
prompts, with the gradient of any backward rule at the clean run. Here by whole writer, by
dimension of its write and by position. Knows nothing of edges: a writer's score is the sum of its
edges' scores, because the stream is a sum.

Nanda 2023 (attribution patching); Rezaei Jafari et al. 2025, arXiv:2508.21258 (RelP).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Float, Int
from torch import Tensor

from patching.ablations import Ablation, resample
from patching.anatomy.blocks import EMBEDDING
from patching.attribution.runs import PlaceSum
from patching.capture import Writes, expand_writes
from patching.files.brief import briefly
from patching.gathering import Job, Recipe
from patching.graph import Graph
from patching.memory import in_tiles
from patching.metrics import Metric
from patching.model import Model
from patching.modes import without_gradients
from patching.paths import at_clean
from patching.rules import Rule, plain
from patching.runs.spots import require_spans
from patching.tasks.task import Task


@briefly
@dataclass(frozen=True, eq=False)
class NodeScores:
    """Scores of all writers; positive: the write helps the metric in the clean run.

    `dimensions` and `positions` each sum to `writers`. Positions count from the first real token.
    `unruled` says where the backward rule could not act.
    """

    graph: Graph
    dimensions: Float[Tensor, "source d_model"]
    positions: Float[Tensor, "source pos"]
    unruled: tuple[str, ...] = ()

    @property
    def writers(self) -> Float[Tensor, " source"]:
        """One score a writer, in the graph's order."""
        return self.positions.sum(dim=1)

    def of(self, source: str) -> float:
        """The score of one writer.

        Raises:
            ValueError: if the graph has no such writer.
        """
        return float(self.writers[self.graph.source_index(source)])


def attribute(
    model: Model,
    task: Task,
    metric: Metric,
    *,
    rule: Rule = plain,
    ablation: Ablation = resample,
    batch_size: int = 16,
) -> NodeScores:
    """Attribution patching of every writer. Costs two forwards and one backward.

    >>> from patching import tasks
    >>> from patching.metrics import logit_diff
    >>> model = Model.load("toy")
    >>> scores = attribute(model, tasks.ioi(model.tokenizer, n=4, seed=0), logit_diff)
    >>> scores.dimensions.shape[0] == len(model.graph.sources)
    True

    Raises:
        ValueError: if the metric has no gradient at the clean run, the model cannot read the task,
            pairs do not differ, or a batch would be empty.
    """
    recipe, prepared = Recipe(at_clean, rule, ablation), ablation(model)
    sums = partial(PlaceSum, model, rule, dict.fromkeys(_groups(model), 1))
    job = Job(model, metric, recipe, prepared, sums)
    job.check(task, "to score nodes by", elsewhere="")
    d_model = model.blocks[0].w_o.shape[2]
    n = len(model.graph.sources)
    dimensions = torch.zeros(n, d_model, dtype=torch.float64)
    positions = torch.zeros(n, task.max_length, dtype=torch.float64)
    for batch in task.batches(batch_size, model.device):
        found = job.gather(batch)
        places = batch.places[found.ends.tokens].cpu()
        ((_, gradients),) = found.gradients
        products = _Products(model, found.difference, gradients, places, dimensions, positions)
        in_tiles(len(places), products.bytes_each, model.device, products.add)
    unruled = tuple(str(part) for part in rule.start(model).unruled)
    return NodeScores(model.graph, dimensions / len(task), positions / len(task), unruled)


def over_spans(
    positions: Float[Tensor, "*rows pos"], spans: Mapping[str, range]
) -> Float[Tensor, "*rows span"]:
    """Scores with positions kept, added up over named spans of positions, in the spans' order.

    For prompts of one template, whose positions mean the same. Positions in no span are left out.

    >>> over_spans(torch.tensor([1.0, 2.0, 4.0]), {"subject": range(0, 2), "end": range(2, 3)})
    tensor([3., 4.])

    Raises:
        ValueError: if there are no spans, or one is empty or reaches beyond the positions.
    """
    require_spans(spans, positions.shape[-1])
    return torch.stack([positions[..., list(span)].sum(dim=-1) for span in spans.values()], dim=-1)


@dataclass(frozen=True, eq=False)
class _Products:
    """`difference * gradient` of every writer, added up a few tokens at a time."""

    model: Model
    difference: Writes
    gradients: Mapping[str, Float[Tensor, "token d_model"]]
    places: Int[Tensor, " token"]
    dimensions: Float[Tensor, "source d_model"]
    positions: Float[Tensor, "source pos"]

    @property
    def bytes_each(self) -> int:
        """What the products of one token take."""
        embed = self.difference.embed
        return len(self.model.graph.sources) * embed.shape[1] * embed.element_size()

    @without_gradients
    def add(self, tile: slice) -> None:
        """Add those of some tokens to both sums."""
        product = expand_writes(self.model, self.difference[tile])
        for name, group in _groups(self.model).items():
            product[group] *= self.gradients[name][tile]
        along, at = (product.sum(dim=axis).double().cpu() for axis in (1, 2))
        self.dimensions.add_(along)
        self.positions.index_add_(1, self.places[tile], at)


def _groups(model: Model) -> dict[str, slice]:
    """Where writers that share a gradient write: the embedding, a layer's heads, its MLP, ..."""
    groups, graph = {EMBEDDING: slice(0, 1)}, model.graph
    for block in model.blocks:
        mlp = graph.mlp_source(block.index)
        groups[block.attention_out] = graph.head_sources(block.index)
        groups[block.mlp_out] = slice(mlp, mlp + 1)
    return groups
