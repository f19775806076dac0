"""Uncertainty: how far scores hang on which prompts were drawn; and means of several methods.

Bootstrap over examples, streamed: every example gets a Poisson(1) number of copies in each of R
resamples (Hanley and MacGibbon 2006, Computer Methods and Programs in Biomedicine 83), its scores
are added that often to R running sums, and are forgotten. Memory is R numbers per edge, whatever
the number of examples. Knows no model.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from circuits.judging.prompts import of_one, one_by_one
from circuits.judging.uncertain import Uncertain
from circuits.scores import Ranking, Scores, ranked_by
from circuits.scoring.batches import with_caution
from patching.memory import in_tiles
from patching.span_graph import on_graph
from patching.tasks.task import Task
from patching.work import Run

ENSEMBLE_SHARES = ("model", "revision", "weights", "task", "tokens", "n_examples", "metric")
"""What an ensemble's provenance says of itself, where all its members say the same."""


def uncertainty(
    task: Task,
    score: Callable[[Task], Scores],
    *,
    size: int,
    ranking: Ranking,
    n_resamples: int = 200,
    seed: int = 0,
    run: Run | None = None,
) -> Uncertain:
    """Bootstrap any scorer over the examples of a task.

    Every example is scored once, by itself: the cost of the scorer at `batch_size=1`, which on an
    accelerator is slower than in batches. With 200 resamples a standard error is itself uncertain
    by 5 %.

    >>> from circuits.scoring import eap_ig
    >>> from patching.metrics import logit_diff
    >>> from patching.model import Model
    >>> from patching.models import induction
    >>> model, task = Model.load("truth/induction"), induction(n=6).task
    >>> result = uncertainty(
    ...     task, lambda part: eap_ig(model, part, logit_diff), size=5, ranking="absolute"
    ... )
    >>> ("a1.h3", "logits") in result.stable(0.95)
    True

    Args:
        task: two prompts or more.
        score: scores a task, as `lambda task: eap(model, task, logit_diff)`; the mean of its
            results over single prompts must be its result over all of them.
        size: how many edges count as the best, for `inclusion`.
        ranking: by which.
        n_resamples: how many resamples.
        seed: of the resamples, which are drawn anew from what a run has kept.
        run: keeps what is done, some prompts at a time, and says who does it.

    Raises:
        ValueError: if there are fewer than two prompts or two resamples, the graph has not `size`
            edges, or the ranking is unknown.
    """
    _check_numbers(len(task), n_resamples)
    weights = _weights(len(task), n_resamples, seed)
    first = of_one(task, score, 0)
    graph = first.graph
    _check(first, size, ranking)
    sums = torch.zeros(n_resamples, graph.n_edges, dtype=torch.float64)
    total = torch.zeros_like(first.matrix)
    deltas = []
    for i, (edges, completeness) in enumerate(one_by_one(task, score, first, run)):
        sums.addr_(weights[:, i], edges)  # in place: no second copy
        total[graph.exists] += edges
        deltas += [] if completeness is None else [completeness]
    sums /= weights.sum(dim=1, keepdim=True)
    provenance = {
        **first.provenance,
        "task": task.name,
        "tokens": task.hash,
        "n_examples": len(task),
        "bootstrap": {"n_resamples": n_resamples, "seed": seed, "weights": "Poisson(1)"},
    }
    whole = torch.cat(deltas) if deltas else None
    scores = with_caution(Scores(total / len(task), graph, provenance, whole))
    return _summarise(scores, sums, size, ranking)


def ensemble(members: Sequence[Scores]) -> Scores:
    """The mean of scores by several methods or seeds, each divided by its root mean square.

    The root mean square is over all edges of the graph: methods differ in scale, and one whose
    scores are large would otherwise decide alone. Zero stays zero and signs stay. P-Ens of
    Mondorf et al. 2025, arXiv:2510.06811. The result has no unit.

    >>> from patching.graph import Graph
    >>> graph = Graph(n_layers=1, n_heads=1, n_kv_heads=1)
    >>> small, large = (Scores(graph.exists.double() * n, graph, {}) for n in (1, 20))
    >>> ensemble([small, large]).of("m0", "logits")
    1.0

    Raises:
        ValueError: if there are fewer than two members, they are of different graphs, or one has
            only zeros.
    """
    if len(members) < 2:
        raise ValueError(f"an ensemble has two members or more, got {len(members)}")
    graph = members[0].graph
    total = torch.zeros_like(members[0].matrix)
    for i, member in enumerate(members):
        graph.require_same(member.graph, f"member {i} is")
        scale = member.matrix[graph.exists].square().mean().sqrt()
        if not scale > 0:
            raise ValueError(f"member {i} scores every edge 0, and cannot be normalised")
        total += member.matrix / scale
    first = members[0].provenance
    shared = {
        field: first[field]
        for field in ENSEMBLE_SHARES
        if field in first and all(m.provenance.get(field) == first[field] for m in members)
    }
    provenance = {
        **shared,
        "method": "ensemble",
        "options": {"normalised_by": "root mean square over edges", "n_members": len(members)},
        "members": [dict(member.provenance) for member in members],
    }
    return Scores(total / len(members), graph, provenance, None, _rows_together(members))


def _rows_together(members: Sequence[Scores]) -> Float[Tensor, "example edge"] | None:
    """What each prompt alone scores, where all members know it of the same prompts."""
    rows = [m.by_prompt for m in members if m.by_prompt is not None]
    tokens = {m.provenance.get("tokens") for m in members}
    if len(rows) < len(members) or len(tokens) > 1 or len({len(r) for r in rows}) > 1:
        return None
    scales = [m.matrix[m.graph.exists].square().mean().sqrt() for m in members]
    return torch.stack([r / scale for r, scale in zip(rows, scales, strict=True)]).mean(dim=0)


def _check(scores: Scores, size: int, ranking: Ranking) -> None:
    ranked_by(scores, ranking)
    if not 1 <= size <= scores.graph.n_edges:
        raise ValueError(
            f"cannot count the best {size} edges; this graph has {scores.graph.n_edges}, "
            "1 is the least"
        )


def _check_numbers(n: int, n_resamples: int) -> None:
    if n < 2:
        raise ValueError(f"a bootstrap over examples needs two prompts or more, got {n}")
    if n_resamples < 2:
        raise ValueError(f"a standard error needs two resamples or more, got {n_resamples}")


def _weights(n: int, n_resamples: int, seed: int) -> Float[Tensor, "resample example"]:
    """How often each example counts in each resample; a resample without any is drawn again."""
    rng = np.random.default_rng(seed)
    drawn = rng.poisson(1.0, size=(n_resamples, n))
    while (empty := drawn.sum(axis=1) == 0).any():
        drawn[empty] = rng.poisson(1.0, size=(int(empty.sum()), n))
    return torch.from_numpy(drawn).double()


def _summarise(
    scores: Scores, means: Float[Tensor, "resample edge"], size: int, ranking: Ranking
) -> Uncertain:
    """What the means of all resamples say of each edge, some edges at a time."""
    graph = scores.graph
    signs = scores.matrix[graph.exists].sign()
    error, same = torch.empty_like(signs), torch.empty_like(signs)

    def work(span: slice) -> None:
        error[span] = means[:, span].std(dim=0)
        same[span] = (means[:, span].sign() == signs[span]).double().mean(dim=0)

    in_tiles(graph.n_edges, 2 * len(means) * means.element_size(), means.device, work)
    return Uncertain(
        scores,
        standard_error=on_graph(error, graph),
        sign_stability=on_graph(same, graph),
        inclusion=on_graph(_inclusion(means, size, ranking), graph),
        size=size,
        ranking=ranking,
        n_resamples=len(means),
    )


def _inclusion(
    means: Float[Tensor, "resample edge"], size: int, ranking: Ranking
) -> Float[Tensor, " edge"]:
    """The share of resamples with each edge among the best; ties in row-major order, as `top_n`."""
    counts = torch.zeros(means.shape[1], dtype=torch.float64)
    for mean in means:
        merit = mean.abs() if ranking == "absolute" else mean
        counts[merit.sort(descending=True, stable=True).indices[:size]] += 1
    return counts / len(means)
