"""What learning masks gives: scores, the circuit of the size asked for, and how it went."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.circuit import Circuit
from circuits.scores import Ranking, Scores, rank
from circuits.select import prune, top_n
from patching.graph import Graph
from patching.history import History


@dataclass(frozen=True, eq=False)
class Learned:
    """Learned masks. `scores` are how likely each edge is to be kept, between 0 and 1.

    They nest: circuits of other sizes, and curves, can be had of them as of any scores.
    """

    scores: Scores
    history: History
    size: int
    select: Callable[[Scores, int], Circuit]

    def circuit(self, size: int | None = None) -> Circuit:
        """The circuit of the size that was trained for, or of another.

        Raises:
            ValueError: if the graph is smaller than that.
        """
        return self.select(self.scores, self.size if size is None else size)


def connected(
    scores: Scores, n: int, *, ranking: Ranking = "signed", fill: bool = False
) -> Circuit:
    """The best edges, n of them after those that lead nowhere were dropped.

    The first edges of the ranking are taken until n of them lie on paths from `embed` to `logits`.
    Where the last edge connects several others at once, the weakest of these are left out; where
    that takes the rest with it, the circuit has fewer than n edges, or with `fill` is filled up
    with the next best, connected or not.

    Raises:
        ValueError: if the graph does not have n edges.
    """
    by_size = replace(scores, matrix=scores.matrix.abs())
    strength = by_size if ranking == "absolute" else scores
    n_taken = _n_taken(strength, n)
    before = prune(top_n(strength, max(0, n_taken - 1), ranking="signed"))
    found = _trim(prune(top_n(strength, n_taken, ranking="signed")), before, n)
    mask = (found if found.size <= n else before).mask.clone()
    if fill:
        ranked = rank(strength, "signed")
        rest = ranked[~mask.view(-1)[ranked]]
        mask.view(-1)[rest[: n - int(mask.sum())]] = True
    selection = {
        "selector": "connected",
        "requested": n,
        "size": int(mask.sum()),
        "ranking": ranking,
        "pruned": not fill,
    }
    provenance = {**scores.provenance, "selection": selection}
    return Circuit(mask, scores.graph, scores.matrix, provenance)


def _n_taken(scores: Scores, n: int) -> int:
    """How many of the best edges it takes for n to be connected; by bisection, as it only grows."""
    low, high = n, scores.graph.n_edges
    top_n(scores, n, ranking="signed")  # refuses a wrong n
    while low < high:
        middle = (low + high) // 2
        if prune(top_n(scores, middle, ranking="signed")).size >= n:
            high = middle
        else:
            low = middle + 1
    return low


def _trim(circuit: Circuit, before: Circuit, n: int) -> Circuit:
    """Without the weakest of the edges that came last, as far as n are left."""
    while circuit.size > n:
        late = (circuit.mask & ~before.mask).flatten().nonzero().squeeze(1)
        assert circuit.scores is not None, "selected circuits keep their scores"
        order = late[circuit.scores.flatten()[late].argsort(stable=True)]
        smaller = (_without(circuit, edge) for edge in order.tolist())
        found = next((one for one in smaller if one.size >= n), None)
        if found is None:
            break
        circuit = found
    return circuit


def _without(circuit: Circuit, edge: int) -> Circuit:
    mask = circuit.mask.clone()
    mask.view(-1)[edge] = False
    return prune(Circuit(mask, circuit.graph, circuit.scores))


def logits_of(
    graph: Graph, start: Scores | None, *, centre: float, spread: float
) -> Float[Tensor, " edge"]:
    """Where masks start: all at `centre`; with scores by rank, from `centre - spread` to `+`.

    Only the order of the absolute scores counts, so that scores of any method and unit serve.

    Raises:
        ValueError: if the scores are of another graph.
    """
    if start is None:
        return torch.full((graph.n_edges,), centre, dtype=torch.float64)
    graph.require_same(start.graph, "the scores to start from are")
    order = start.matrix[graph.exists].abs().argsort(stable=True)
    places = torch.empty(len(order), dtype=torch.float64)
    places[order] = torch.linspace(-1, 1, len(order), dtype=torch.float64)
    return centre + spread * places


def require_penalty(penalty: float) -> None:
    """Refuse a price that pays for what it should cost.

    Raises:
        ValueError: if it is not a number from 0 up.
    """
    if not 0 <= penalty < math.inf:
        raise ValueError(f"the penalty is {penalty}; a number from 0 up would be right")


def require_size(n: int, size: int, of: str) -> None:
    """Refuse a size that the graph does not have.

    Raises:
        ValueError: if there are fewer, or none are asked for.
    """
    if not 1 <= size <= n:
        raise ValueError(f"cannot keep {size} {of}; this graph has {n}, 1 is the least")
