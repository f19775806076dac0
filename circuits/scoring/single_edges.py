"""Exact scores: each edge removed by itself, everything after it live, and the metric measured.

The reference that all other scorers estimate. One forward row per edge and example, from the
edge's layer on; edges into one reader run together, since they share all that comes before it.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from circuits.provenance import describe
from circuits.running.many import measure_circuits
from circuits.running.pair import run_pair
from circuits.scores import Scores
from circuits.scoring.batches import BatchScores, Portion, TaskScores, score_batches, to_scores
from patching.ablations import Ablation, Prepared, prepared_for, resample
from patching.graph import Graph
from patching.metrics import Metric, measure
from patching.model import Model
from patching.progress import within
from patching.runs.batches import Doing, Keeping
from patching.span_graph import kept_apart, spans_of
from patching.tasks.task import Batch, Task
from patching.work import Run

AT_ONCE = 256
"""Edges planned together; passes take as many of them as memory allows."""

EDGES_A_CHUNK = 1024
"""So many single forwards that the two runs each chunk starts with do not count."""

Edge = tuple[str, str]


def exact(
    model: Model,
    task: Task,
    metric: Metric,
    *,
    edges: Sequence[Edge] | None = None,
    ablation: Ablation = resample,
    batch_size: int = 16,
    run: Run | None = None,
) -> Scores:
    """What the metric loses when one edge alone carries its writer's replacement.

    `metric(clean) - metric(edge removed)`, all that follows the edge recomputed: exact activation
    patching of edges. Any metric will do, with or without gradient. Costs two forwards, then per
    edge the forward of the layers that follow it. Zhang and Nanda 2024, arXiv:2309.16042; as the
    edge activation patching of Mueller et al. 2025 (MIB), arXiv:2504.13151. A task `by_span` has
    each edge removed at one span alone.

    >>> from patching.models import induction
    >>> from patching.metrics import logit_diff
    >>> model, task = Model.load("truth/induction"), induction(n=3).task
    >>> scores = exact(model, task, logit_diff, edges=[("a1.h3", "logits"), ("m0", "logits")])
    >>> round(scores.of("a1.h3", "logits")), round(scores.of("m0", "logits"))
    (20, 0)

    Args:
        model: to be run.
        task: pairs of prompts.
        metric: larger is better.
        edges: which to score, as (source, destination); all of the graph if None. The others
            stay 0, and `provenance["scored_edges"]` names those that were scored.
        ablation: what a removed writer is replaced by.
        batch_size: examples to a batch; edges share the batch axis with them.
        run: keeps what is done, by batches and readers, and says who does it.

    Raises:
        Interrupted: as `score`.
        ValueError: if the graph lacks an edge, there is none to score, the model cannot read the
            task, pairs do not differ (where the ablation needs them), or the metric comes out NaN.
    """
    graph = kept_apart(model.graph, task.apart)
    chosen = _chosen(graph, edges)
    model.check(task, metric)
    prepared = prepared_for(model, ablation)
    if prepared.paired:
        task.require_contrast()
    which = "all" if edges is None else _digest(chosen)
    options = {"n_edges": int(chosen.sum()), "edges": which}
    described = describe(model, task, metric, "exact", options, ablation=prepared.name)
    doing = Doing(batch_size, run)
    keeping = Keeping("patching-edges", described, (metric, prepared), doing, "scores")
    scored = "all" if edges is None else _names(graph, chosen)

    def finish(found: TaskScores) -> Scores:
        return to_scores(replace(found, provenance={**found.provenance, "scored_edges": scored}))

    portions = [
        Portion(_ScoreBatch(model, metric, prepared, chosen, readers), readers)
        for readers in _few_readers(chosen)
    ]
    return score_batches(model, task, portions, keeping, finish)


@dataclass(frozen=True)
class _ScoreBatch:
    """What the metric loses by the chosen edges into some readers, summed over a batch."""

    model: Model
    metric: Metric
    prepared: Prepared
    chosen: Bool[Tensor, "source dest"]
    readers: slice

    def __call__(self, batch: Batch) -> BatchScores:
        pair = run_pair(self.model, batch, self.prepared)
        batch = replace(batch, clean_logits=pair.clean.logits)
        clean = measure(self.metric, pair.clean.logits, batch).double().sum().cpu()
        total = torch.zeros(self.chosen.shape, dtype=torch.float64)
        graph = kept_apart(self.model.graph, batch.apart)
        for edges in within(list(_by_layer(graph, self.chosen, self.readers))):
            removed = _one_hot(graph, edges)
            kept = measure_circuits(self.model, batch, pair, removed, (self.metric,))[0]
            total[edges[:, 0], edges[:, 1]] = clean - kept.sum(dim=1)
        return BatchScores(total, None)


def _by_layer(
    graph: Graph, chosen: Bool[Tensor, "source dest"], readers: slice
) -> Iterator[Int[Tensor, "edge source_and_dest"]]:
    """The chosen edges into some readers, by the layer in which their passes begin."""
    edges = chosen.T.nonzero().flip(1)
    edges = edges[(edges[:, 1] >= readers.start) & (edges[:, 1] < readers.stop)]
    layers = torch.tensor([node.layer for node in graph.destinations])[edges[:, 1]]
    for layer in layers.unique():
        yield from edges[layers == layer].split(AT_ONCE)


def _few_readers(chosen: Bool[Tensor, "source dest"]) -> list[slice]:
    """Consecutive readers, with at most `EDGES_A_CHUNK` edges if more than one; all are in one."""
    starts, edges = [0], 0
    for dest, n in enumerate(chosen.sum(dim=0).tolist()):
        if edges and edges + n > EDGES_A_CHUNK:
            starts.append(dest)
            edges = 0
        edges += n
    return [slice(*ends) for ends in pairwise([*starts, chosen.shape[1]])]


def _one_hot(
    graph: Graph, edges: Int[Tensor, "edge source_and_dest"]
) -> Float[Tensor, "edge source dest *span"]:
    """One circuit per edge, from which that edge alone is removed: at its span, if it has one."""
    removed = torch.zeros(len(edges), *graph.exists.shape)
    removed[torch.arange(len(edges)), edges[:, 0], edges[:, 1]] = 1
    spans = spans_of(graph)
    return removed.unflatten(2, (-1, len(spans))) if spans else removed


def _chosen(graph: Graph, edges: Sequence[Edge] | None) -> Bool[Tensor, "source dest"]:
    if edges is None:
        return graph.exists
    if not edges:
        raise ValueError("no edges to score; give at least one, or None for all of the graph")
    mask = torch.zeros_like(graph.exists)
    for source, dest in edges:
        mask[graph.edge_index(source, dest)] = True
    return mask


def _names(graph: Graph, chosen: Bool[Tensor, "source dest"]) -> list[str]:
    return [
        f"{graph.sources[source].name}->{graph.destinations[dest].name}"
        for source, dest in chosen.nonzero().tolist()
    ]


def _digest(chosen: Bool[Tensor, "source dest"]) -> str:
    """Equal for equal sets of edges, so that results of different sets are never merged."""
    return hashlib.sha256(chosen.numpy().tobytes()).hexdigest()[:16]
