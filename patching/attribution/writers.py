"""Attribution patching of writers: what a node is worth, to first order, from one gradient.

`score = sum over tokens of (clean write - its replacement) . (d metric / d write)`, mean over
prompts, with the gradient of any backward rule at the clean run. Here by whole writer, by
dimension of its write, by position and by MLP neuron. Knows nothing of edges: a writer's score
is the sum of its edges' scores, because the stream is a sum.

Nanda 2023 (attribution patching); Rezaei Jafari et al. 2025, arXiv:2508.21258 (RelP).
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from patching.ablations import Ablation, Prepared, resample
from patching.anatomy.blocks import EMBEDDING, widen
from patching.anatomy.devices import rows_at
from patching.capture import Recorder, Writes, capture, expand_writes, indices
from patching.graph import Graph
from patching.live import Live, Start, differentiate
from patching.metrics import Metric, require_slope
from patching.model import Model
from patching.rules import Rule, plain
from patching.rules.sites import neurons
from patching.tasks.task import Batch, Task

TILE_BYTES = 2**25


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
    prepared = ablation(model)
    _check(model, task, metric, needs_pairs=prepared.paired)
    d_model = model.blocks[0].w_o.shape[2]
    n = len(model.graph.sources)
    dimensions = torch.zeros(n, d_model, dtype=torch.float64)
    positions = torch.zeros(n, task.max_length, dtype=torch.float64)
    for batch in task.batches(batch_size, model.device):
        difference, gradients = _writes_and_gradients(model, batch, metric, rule, prepared)
        places = batch.places[prepared.tokens(batch)]
        for tile, product in _products(model, difference, gradients):
            dimensions += product.sum(dim=1).double().cpu()
            at = product.sum(dim=2).double().cpu()
            positions.index_add_(1, places[tile].cpu(), at)
    unruled = tuple(str(part) for part in rule.start(model).unruled)
    return NodeScores(model.graph, dimensions / len(task), positions / len(task), unruled)


def attribute_neurons(
    model: Model, task: Task, metric: Metric, *, rule: Rule = plain, batch_size: int = 16
) -> Float[Tensor, "layer d_mlp"]:
    """Attribution patching of every MLP neuron: the inputs of the MLPs' output projections.

    Neurons are replaced by those of the paired corrupt prompt. Where no norm follows the MLP, a
    layer's neurons sum to the score of its MLP.

    Raises:
        ValueError: if no hook point shows the family's neurons (mixtures of experts), and as
            `attribute`.
    """
    names = _neuron_hooks(model)
    _check(model, task, metric, needs_pairs=True)
    total: list[Tensor] = []
    for batch in task.batches(batch_size, model.device):
        clean, corrupt = Live(names), Live(names)
        start = Start(1.0, batch.clean)
        gradients = differentiate(model, batch, metric, rule, clean, start).gradients
        with torch.no_grad():
            model.answer_logits(batch.corrupt, batch, corrupt.hooks())
        chosen = indices(batch.can_differ)
        parts = []
        for name in names:
            difference = widen(rows_at(clean.tensors[name].detach(), chosen))
            difference = difference - widen(rows_at(corrupt.tensors[name], chosen))
            slope = widen(rows_at(gradients[name], chosen))
            parts.append((difference * slope).double().sum(dim=0).cpu())
        total.append(torch.stack(parts))
    return torch.stack(total).sum(dim=0) / len(task)


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
    if not spans:
        raise ValueError("got no spans; name at least one, such as {'subject': range(1, 3)}")
    n = positions.shape[-1]
    for name, span in spans.items():
        if not len(span) or min(span) < 0 or max(span) >= n:
            raise ValueError(
                f"the span {name!r} is {span}; a span holds at least one of the positions "
                f"0 to {n - 1}"
            )
    return torch.stack([positions[..., list(span)].sum(dim=-1) for span in spans.values()], dim=-1)


def _writes_and_gradients(
    model: Model, batch: Batch, metric: Metric, rule: Rule, prepared: Prepared
) -> tuple[Writes, list[Float[Tensor, "token d_model"]]]:
    """Clean writes minus their replacements, and the gradient at each group's write.

    Groups are the embedding, then each layer's attention and MLP, in the graph's order.
    """
    tokens = prepared.tokens(batch)
    chosen = indices(tokens)
    recorder = Recorder(model, tokens)
    names = [name for block in model.blocks for name in (block.attention_out, block.mlp_out)]
    start = Start(1.0, batch.clean, hooks=tuple(recorder.hooks))
    found = differentiate(model, batch, metric, rule, Live(names), start)
    slopes = (rows_at(found.gradients[name], chosen) for name in (EMBEDDING, *names))
    gradients = [widen(slope).to(model.device) for slope in slopes]
    clean = recorder.finish(found.logits)
    corrupt = capture(model, batch.corrupt, batch, at=tokens) if prepared.paired else None
    replaced = prepared.replace(batch, clean, corrupt)
    return clean.writes - replaced.writes, gradients


@torch.no_grad()
def _products(
    model: Model, difference: Writes, gradients: list[Float[Tensor, "token d_model"]]
) -> Iterator[tuple[slice, Float[Tensor, "source token d_model"]]]:
    """`difference * gradient` of every writer, a few tokens at a time."""
    group = _groups(model.graph).to(gradients[0].device)
    per_token = len(group) * difference.embed.shape[1] * difference.embed.element_size()
    size = max(1, TILE_BYTES // per_token)
    for start in range(0, len(difference), size):
        tile = slice(start, start + size)
        product = expand_writes(model, difference[tile])
        for i, gradient in enumerate(gradients):
            product[group == i] *= gradient[tile]
        yield tile, product


def _groups(graph: Graph) -> Int[Tensor, " source"]:
    """The group of every writer: 0 the embedding, then a layer's heads, its MLP, and so on."""
    group = torch.zeros(len(graph.sources), dtype=torch.long)
    for layer in range(graph.n_layers):
        group[graph.head_sources(layer)] = 2 * layer + 1
        group[graph.mlp_source(layer)] = 2 * layer + 2
    return group


def _neuron_hooks(model: Model) -> list[str]:
    points = [neurons(block) for block in model.blocks]
    hidden = [f"m{i}" for i, point in enumerate(points) if point is None]
    if hidden:
        raise ValueError(
            f"{model.name} shows no neurons in {', '.join(hidden)}: no hook point reaches inside "
            "its MLPs (mixtures of experts); take `attribute`, whose writers are whole MLPs"
        )
    return [point.post for point in points if point is not None]


def _check(model: Model, task: Task, metric: Metric, *, needs_pairs: bool) -> None:
    require_slope(metric, "to score nodes by", at_clean=True)
    model.check(task)
    if needs_pairs:
        task.require_contrast()
