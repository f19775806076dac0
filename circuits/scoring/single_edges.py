"""Exact scores: each edge removed by itself, everything after it live, and the metric measured.

The reference that all other scorers estimate. One forward row per edge and example, from the
edge's layer on; edges into one reader run together, since they share all that comes before it.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from circuits.intervention import run_circuits
from circuits.pair import Pair, run_pair
from circuits.progress import track
from circuits.provenance import describe
from circuits.scores import Scores
from patching.ablations import Ablation, resample
from patching.graph import Graph
from patching.metrics import Metric, measure
from patching.model import Model
from patching.tasks.task import Batch, Task

AT_ONCE = 256
"""Edges planned together; passes take as many of them as memory allows."""

Edge = tuple[str, str]


def exact(
    model: Model,
    task: Task,
    metric: Metric,
    *,
    edges: Sequence[Edge] | None = None,
    ablation: Ablation = resample,
    batch_size: int = 16,
) -> Scores:
    """What the metric loses when one edge alone carries its writer's replacement.

    `metric(clean) - metric(edge removed)`, all that follows the edge recomputed: exact activation
    patching of edges. Any metric will do, with or without gradient. Costs two forwards, then per
    edge the forward of the layers that follow it. Zhang and Nanda 2024, arXiv:2309.16042; as the
    edge activation patching of Mueller et al. 2025 (MIB), arXiv:2504.13151.

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

    Raises:
        ValueError: if the graph lacks an edge, there is none to score, the model cannot read the
            task, pairs do not differ (where the ablation needs them), or the metric comes out NaN.
    """
    chosen = _chosen(model.graph, edges)
    model.check(task)
    prepared = ablation(model)
    if prepared.paired:
        task.require_contrast()
    total = torch.zeros(chosen.shape, dtype=torch.float64)
    n_readers = int(chosen.any(dim=0).sum())
    effects = (
        part
        for batch in task.batches(batch_size, model.device)
        for part in _effects(model, batch, run_pair(model, batch, prepared), metric, chosen)
    )
    for part in track(effects, "patching edges", task.n_batches(batch_size) * n_readers):
        total[part.sources, part.dest] += part.lost
    which = "all" if edges is None else _digest(chosen)
    options = {"n_edges": int(chosen.sum()), "edges": which}
    provenance = describe(model, task, metric, "exact", options, ablation=prepared.name)
    provenance["scored_edges"] = "all" if edges is None else _names(model.graph, chosen)
    return Scores(total / len(task), model.graph, provenance)


@dataclass(frozen=True)
class _Lost:
    """What the metric loses by edges into one reader, summed over the examples of a batch."""

    sources: Int[Tensor, " edge"]
    dest: int
    lost: Float[Tensor, " edge"]


def _effects(
    model: Model, batch: Batch, pair: Pair, metric: Metric, chosen: Bool[Tensor, "source dest"]
) -> Iterator[_Lost]:
    """The chosen edges of one batch, reader by reader."""
    batch = replace(batch, clean_logits=pair.clean.logits)
    clean = measure(metric, pair.clean.logits, batch).double().sum().cpu()
    for dest in chosen.any(dim=0).nonzero().flatten().tolist():
        sources = chosen[:, dest].nonzero().flatten()
        kept = torch.empty(len(sources), dtype=clean.dtype)
        for block in range(0, len(sources), AT_ONCE):
            removed = _one_hot(model, sources[block : block + AT_ONCE], dest)
            for chunk, some in run_circuits(model, batch, pair, removed):
                for i, logits in zip(chunk, some, strict=True):
                    kept[block + i] = measure(metric, logits, batch).double().sum().cpu()
        yield _Lost(sources, dest, clean - kept)


def _one_hot(
    model: Model, sources: Int[Tensor, " edge"], dest: int
) -> Float[Tensor, "edge source dest"]:
    """One circuit per edge, from which that edge alone is removed."""
    removed = torch.zeros(len(sources), *model.graph.exists.shape)
    removed[torch.arange(len(sources)), sources, dest] = 1
    return removed


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
