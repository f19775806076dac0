"""Selectors: from scores to a circuit. Knows no model library.

Every selector keeps the scores and notes in `provenance["selection"]` what it was asked for and
how many edges came of it.
"""

import heapq
import warnings
from collections.abc import Callable, Mapping

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from circuits.circuit import Circuit
from circuits.scores import Ranking, Scores, rank, ranked_by
from patching.graph import Graph
from patching.intervals import counts
from patching.span_graph import alive, on_graph, readers_of, spans_of

Z = 1.96
"""Standard errors from a mean to the end of its 95 % interval."""

N_RESAMPLES = 100


def top_n(scores: Scores, n: int, *, ranking: Ranking, prune: bool = False) -> Circuit:
    """The n best edges; ties go to the first in row-major order.

    With `prune`, edges on no path from `embed` to `logits` are dropped afterwards, and the
    circuit has fewer than n edges.

    >>> graph = Graph(n_layers=1, n_heads=1, n_kv_heads=1)
    >>> top_n(Scores(graph.exists.double(), graph, {}), 2, ranking="signed").edges
    [('embed', 'a0.h0.q'), ('embed', 'a0.h0.k')]

    Raises:
        ValueError: if the graph does not have n edges, or the ranking is unknown.
    """
    _check_size(scores.graph, n)
    mask = torch.zeros_like(scores.graph.exists)
    mask.view(-1)[rank(scores, ranking)[:n]] = True
    return _selected(scores, mask, selector="top_n", requested=n, ranking=ranking, prune=prune)


def threshold(
    scores: Scores, tau: float | int, *, ranking: Ranking, prune: bool = False
) -> Circuit:
    """All edges with score >= tau (signed) or |score| >= tau (absolute).

    Raises:
        ValueError: if tau is not a number, or the ranking is unknown.
    """
    if tau != tau:
        raise ValueError("the threshold is NaN; a number in the metric's units would be right")
    mask = scores.graph.exists & (ranked_by(scores, ranking) >= tau)
    return _selected(
        scores, mask, selector="threshold", requested=tau, ranking=ranking, prune=prune
    )


def greedy(scores: Scores, n: int, *, ranking: Ranking, prune: bool = False) -> Circuit:
    """Up to n edges, grown from the logits: the best edge into any node reached so far.

    Taking an edge reaches its writer, whose incoming edges then compete too; so every edge has a
    path to the logits. With spans apart, a writer is reached at the edge's span, where its queries
    or its MLP read; keys and values may read at any. Greedy search of Hanna et al. 2024,
    arXiv:2403.17806.

    Raises:
        ValueError: if the graph does not have n edges, or the ranking is unknown.
    """
    graph = scores.graph
    _check_size(graph, n)
    merit = ranked_by(scores, ranking).tolist()
    mask = torch.zeros_like(graph.exists)
    n_spans = max(len(spans_of(graph)), 1)
    reached = {len(graph.destinations) - 1 - i for i in range(n_spans)}
    heap = [
        (-merit[source][dest], source, dest) for dest in reached for source in _into(graph, dest)
    ]
    heapq.heapify(heap)
    for _ in range(n):
        _, source, dest = heapq.heappop(heap)
        mask[source, dest] = True
        for reader in readers_of(graph, source, dest % n_spans) - reached:
            reached.add(reader)
            for writer in _into(graph, reader):
                heapq.heappush(heap, (-merit[writer][reader], writer, reader))
    return _selected(scores, mask, selector="greedy", requested=n, ranking=ranking, prune=prune)


def prune(circuit: Circuit) -> Circuit:
    """The edges on a path from `embed` to `logits`.

    Repeatedly drops edges out of nodes that nothing comes into and edges into nodes that nothing
    goes out of; a shared key or value reader is used if any of its heads is. With spans apart,
    nodes are so at each span, and keys and values that read at any are an input. This leaves the
    output unchanged when removed edges carry the activations of one whole corrupted run; under
    zero or mean ablation a node without inputs still writes, and dropping its edges matters.
    """
    mask = alive(circuit.mask, circuit.graph)
    before = circuit.provenance.get("selection")
    selection = dict(before) if isinstance(before, dict) else {"requested": circuit.size}
    selection |= {"size": int(mask.sum()), "pruned": True}
    provenance = {**circuit.provenance, "selection": selection}
    return Circuit(mask, circuit.graph, circuit.scores, provenance)


def by_lower_bound(scores: Scores, n: int, *, ranking: Ranking, prune: bool = False) -> Circuit:
    """The n edges whose scores are large beyond doubt, by the lower end of their 95 % interval.

    The end of the score's size nearer to 0 (absolute), or its lower end (signed): mean less 1.96
    standard errors over prompts. By size, edges whose interval holds 0 come after all others, in
    the order of their means. Needs scores that were kept by prompt.

    Raises:
        ValueError: if they were not, or of one prompt, or as `top_n`.
    """
    rows = require_rows(scores)
    mean = rows.mean(dim=0)
    error = rows.std(dim=0) / len(rows) ** 0.5
    if ranking == "signed":
        return _by_merit(scores, mean - Z * error, n, ranking, "by_lower_bound", prune=prune)
    sure = (mean.abs() - Z * error).clamp(min=0.0)
    merit = sure + _below(sure[sure > 0], mean)
    return _by_merit(scores, merit, n, ranking, "by_lower_bound", prune=prune)


def by_inclusion(scores: Scores, n: int, *, ranking: Ranking, prune: bool = False) -> Circuit:
    """The n edges that are among the n best in most of 100 resamples of the prompts.

    Ties go to the larger mean score. Needs scores that were kept by prompt.

    Raises:
        ValueError: if they were not, or of one prompt, or as `top_n`.
    """
    rows = require_rows(scores)
    _check_size(scores.graph, n)
    held = torch.zeros(rows.shape[1], dtype=torch.float64)
    for mean in torch.from_numpy(counts(len(rows), N_RESAMPLES, 0)) @ rows:
        merit = mean.abs() if ranking == "absolute" else mean
        held[merit.sort(descending=True, stable=True).indices[:n]] += 1
    mean = rows.mean(dim=0) if ranking == "signed" else rows.mean(dim=0).abs()
    merit = held + 0.5 * mean / mean.abs().max().clamp(min=1e-300)
    return _by_merit(scores, merit, n, ranking, "by_inclusion", prune=prune)


def by_mean_size(scores: Scores, n: int, *, ranking: Ranking, prune: bool = False) -> Circuit:
    """The n edges whose scores are largest in size on the mean prompt, whichever way they push.

    By the mean over prompts of |score|: where an edge helps some prompts and hurts others, `top_n`
    takes what is left of it in the mean. Needs scores that were kept by prompt.

    Raises:
        ValueError: if they were not, or of one prompt, the ranking is not absolute, or the graph
            does not have n edges.
    """
    size = _mean_sizes(scores, ranking, "by_mean_size")
    return _by_merit(scores, size, n, ranking, "by_mean_size", prune=prune)


def by_smoothed_size(scores: Scores, n: int, *, ranking: Ranking, prune: bool = False) -> Circuit:
    """The n edges that are large on the mean prompt, between a writer and a reader that are.

    By the geometric mean of an edge's mean size (as `by_mean_size`) and of what its ends let one
    expect, the sizes of the writer's edges times those of the reader's over those of all: what a
    table holds whose rows and columns are independent. Sums over many edges hang less on which
    prompts were drawn, so circuits of other prompts are more alike. Needs scores that were kept by
    prompt.

    Raises:
        ValueError: as `by_mean_size`.
    """
    size = on_graph(_mean_sizes(scores, ranking, "by_smoothed_size"), scores.graph)
    expected = size.sum(dim=1, keepdim=True) * size.sum(dim=0) / size.sum().clamp(min=1e-300)
    merit = (size * expected).sqrt()[scores.graph.exists]
    return _by_merit(scores, merit, n, ranking, "by_smoothed_size", prune=prune)


SELECTORS: Mapping[str, Callable[..., Circuit]] = {
    "top-n": top_n,
    "greedy": greedy,
    "lower-bound": by_lower_bound,
    "inclusion": by_inclusion,
    "mean-size": by_mean_size,
    "smoothed-size": by_smoothed_size,
}
"""What makes a circuit of some size from scores, by the names of the shell."""

OF_SIZES = ("mean-size", "smoothed-size")
"""Those that know no sign."""


def random_circuit(graph: Graph, n: int, seed: int) -> Circuit:
    """Random edges of the graph, each set of n equally likely.

    Raises:
        ValueError: if the graph does not have n edges.
    """
    _check_size(graph, n)
    edges = graph.exists.flatten().nonzero().squeeze(1)
    order = torch.randperm(len(edges), generator=torch.Generator().manual_seed(seed))
    mask = torch.zeros_like(graph.exists)
    mask.view(-1)[edges[order[:n]]] = True
    selection = {"selector": "random", "requested": n, "size": n, "seed": seed, "pruned": False}
    return Circuit(mask, graph, None, {"selection": selection})


def _selected(
    scores: Scores,
    mask: Bool[Tensor, "source dest"],
    *,
    selector: str,
    requested: int | float,
    ranking: Ranking,
    prune: bool,
) -> Circuit:
    if ranking == "signed" and scores.signs_caution:
        warnings.warn(scores.signs_caution, stacklevel=3)
    mask = alive(mask, scores.graph) if prune else mask
    selection = {
        "selector": selector,
        "requested": requested,
        "size": int(mask.sum()),
        "ranking": ranking,
        "pruned": prune,
    }
    provenance = {**scores.provenance, "selection": selection}
    return Circuit(mask, scores.graph, scores.matrix, provenance)


def require_rows(scores: Scores) -> Float[Tensor, "example edge"]:
    """What each prompt alone scores.

    Raises:
        ValueError: if that was not kept, or is of one prompt.
    """
    if scores.by_prompt is None or len(scores.by_prompt) < 2:
        raise ValueError(
            "these scores do not say what each prompt alone scores, of two prompts or more; "
            "keep it, with by_prompt(task, score) or `circuits score --by-prompt`"
        )
    return scores.by_prompt


def _mean_sizes(scores: Scores, ranking: Ranking, selector: str) -> Float[Tensor, " edge"]:
    rows = require_rows(scores)
    if ranking != "absolute":
        raise ValueError(f"sizes have no sign: {selector} ranks by absolute, got {ranking!r}")
    return rows.abs().mean(dim=0)


def of_rows(scores: Scores, rows: Float[Tensor, "example edge"], **said: object) -> Scores:
    """Scores of some prompts, the mean of what each alone scores; `said` of them in provenance."""
    matrix, provenance = on_graph(rows.mean(dim=0), scores.graph), {**scores.provenance, **said}
    return Scores(matrix, scores.graph, provenance, None, rows)


def _below(sure: Float[Tensor, " some"], mean: Float[Tensor, " edge"]) -> Float[Tensor, " edge"]:
    """Numbers in the order of the means' sizes, all smaller than whatever is sure."""
    least = float(sure.min()) if len(sure) else 1.0
    return mean.abs() * (least * 1e-6 / max(float(mean.abs().max()), 1e-300))


def _by_merit(
    scores: Scores,
    merit: Float[Tensor, " edge"],
    n: int,
    ranking: Ranking,
    selector: str,
    *,
    prune: bool,
) -> Circuit:
    """The n edges of most merit, with their scores; ties in row-major order."""
    _check_size(scores.graph, n)
    ranked_by(scores, ranking)
    edges = scores.graph.exists.flatten().nonzero().squeeze(1)
    mask = torch.zeros_like(scores.graph.exists)
    mask.view(-1)[edges[merit.sort(descending=True, stable=True).indices[:n]]] = True
    return _selected(scores, mask, selector=selector, requested=n, ranking=ranking, prune=prune)


def _check_size(graph: Graph, n: int) -> None:
    if not 0 <= n <= graph.n_edges:
        raise ValueError(f"cannot choose {n} edges; this graph has {graph.n_edges}, 0 is the least")


def _into(graph: Graph, dest: int) -> list[int]:
    return graph.exists[:, dest].nonzero().flatten().tolist()
