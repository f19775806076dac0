"""Recovery: how well scores tell the edges of a known circuit from the others. Knows no model.

Undefined is said as undefined: with no edge on one side there is nothing to tell apart.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from scipy.stats import rankdata
from torch import Tensor

from circuits.circuit import Circuit
from circuits.scores import Ranking, Scores, ranked_by


@dataclass(frozen=True)
class Recovery:
    """Areas under the ROC and the precision-recall curve, None where undefined, and then why.

    `n_known` and `n_others` are the edges judged. Chance is 0.5 for `auroc` and
    n_known / (n_known + n_others) for `auprc`.
    """

    auroc: float | None
    auprc: float | None
    n_known: int
    n_others: int
    undefined_because: str = ""


def recovery(
    scores: Scores,
    known: Circuit,
    *,
    ranking: Ranking,
    active: Bool[Tensor, "source dest"] | None = None,
) -> Recovery:
    """How well scores recover a known circuit, on the active edges.

    Edges that carry the same in clean and corrupt runs cannot be found by any patching method and
    should not be judged. Gupta et al. 2024 (InterpBench), arXiv:2407.14494.

    Args:
        scores: to be judged.
        known: the circuit that is right.
        ranking: whether a strong negative score marks an edge (absolute) or not (signed).
        active: the edges to judge; all of the graph if not given.

    Raises:
        ValueError: if scores, circuit and active edges are not of one graph, or the ranking is
            unknown.
    """
    graph = scores.graph
    if known.graph != graph:
        raise ValueError(
            f"scores and known circuit are of different graphs: {graph.describe()} and "
            f"{known.graph.describe()}"
        )
    if active is not None and active.shape != graph.exists.shape:
        raise ValueError(
            f"active edges of this graph have the shape {tuple(graph.exists.shape)} "
            f"[source, dest], got {tuple(active.shape)}"
        )
    judged = graph.exists if active is None else graph.exists & active
    merit, is_known = ranked_by(scores, ranking)[judged], known.mask[judged]
    return told_apart(merit, is_known, "{} edges judged {} are of the known circuit")


def told_apart(
    merit: Float[Tensor, " edge"], is_known: Bool[Tensor, " edge"], counted: str
) -> Recovery:
    """Both areas; `counted` says how many were judged and are known, where they are undefined."""
    n_known = int(is_known.sum())
    n_others = len(is_known) - n_known
    return Recovery(
        auroc=auroc(merit, is_known),
        auprc=auprc(merit, is_known),
        n_known=n_known,
        n_others=n_others,
        undefined_because=""
        if n_known and n_others
        else f"of {counted.format(len(is_known), n_known)}",
    )


def auroc(merit: Float[Tensor, " edge"], is_known: Bool[Tensor, " edge"]) -> float | None:
    """The chance that a known edge has more merit than another one; ties count half.

    The Mann-Whitney statistic over the number of pairs, which is the area under the ROC curve from
    (0, 0) to (1, 1). None if there are no pairs.

    >>> auroc(torch.tensor([3.0, 1.0, 2.0]), torch.tensor([True, False, False]))
    1.0
    """
    n_known = int(is_known.sum())
    n_others = len(is_known) - n_known
    if not n_known or not n_others:
        return None
    ranks = rankdata(merit.numpy())  # ties get the mean of their ranks
    above = ranks[is_known.numpy()].sum() - n_known * (n_known + 1) / 2
    return float(above / (n_known * n_others))


def auprc(merit: Float[Tensor, " edge"], is_known: Bool[Tensor, " edge"]) -> float | None:
    """Average precision: the sum over thresholds of precision times the recall gained.

    Edges of equal merit enter together. None if no edge is known.

    >>> auprc(torch.tensor([3.0, 2.0, 1.0]), torch.tensor([True, False, True]))
    0.8333333333333333
    """
    if not is_known.any():
        return None
    levels, group = torch.unique(-merit, return_inverse=True)  # from best to worst
    zeros = torch.zeros(len(levels), dtype=torch.float64)
    hits = zeros.index_add(0, group, is_known.double())
    sizes = zeros.index_add(0, group, torch.ones(len(merit), dtype=torch.float64))
    precision = hits.cumsum(0) / sizes.cumsum(0)
    return float((precision * hits).sum() / hits.sum())
