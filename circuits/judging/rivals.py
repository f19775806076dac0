"""Rivals: other circuits that keep as much of the behaviour and share hardly an edge.

The first circuit is the smallest of the best edges that reaches the goal. For each further one,
edges of circuits before it are rationed: in the order of their scores the best are taken, but of
each earlier circuit's only so many that no two share more than asked; the smallest number that
reaches the goal makes the rival. It is tried with the scores as they are, and with scores taken
anew where the edges of all earlier circuits are gone: an edge that backs another up has no score
until then. A model with rivals has no one minimal circuit: each is minimal alone.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Int
from torch import Tensor

from circuits.circuit import Circuit
from circuits.judging.smallest import between, check_share, smallest_of
from circuits.running.evaluation import Evaluation
from circuits.running.trial import Trial, require_gap, run
from circuits.scores import Ranking, Scores, rank
from circuits.select import prune
from patching.files.brief import as_table, briefly
from patching.intervals import Estimate, interval, ratio_of_means

if TYPE_CHECKING:
    import pandas

Rescore = Callable[[Circuit], Scores]
"""Scores of edges where only those of a circuit are left."""


@briefly
@dataclass(frozen=True, eq=False)
class Rivals:
    """Circuits that reach a goal and share little, in the order they were found.

    `overlap` is shared edges over the edges of the smaller of two. `tried` counts the circuits that
    were run for it; `ended` says why there are no more.
    """

    circuits: tuple[Circuit, ...]
    found: Evaluation
    overlap: Float[Tensor, "circuit circuit"]
    goal: float
    tried: int
    ended: str

    @property
    def faithfulness(self) -> tuple[Estimate, ...]:
        """What each keeps on the prompts of the search, with 95 % intervals over them."""
        runs = self.found.values, self.found.clean, self.found.corrupt
        n = 1000 if len(self.found.clean) > 1 else 0
        low, high = interval(ratio_of_means, *runs, n=n, seed=0)
        values = self.found.faithfulness.tolist()
        rows = zip(values, low.tolist(), high.tolist(), strict=True)
        return tuple(Estimate(*row) for row in rows)

    @property
    def core(self) -> Circuit:
        """The edges that all of them share."""
        masks = torch.stack([circuit.mask for circuit in self.circuits])
        return Circuit(masks.all(dim=0), self.circuits[0].graph)

    @property
    def sentence(self) -> str:
        """How many there are, and what that says about a smallest circuit."""
        n, sizes = len(self.circuits), [circuit.size for circuit in self.circuits]
        if n == 1:
            return f"No rival of this circuit was found in {self.tried} runs. {self.ended}"
        most, core = _largest(self.overlap), self.core.size
        return (
            f"{n} circuits of {min(sizes):,} to {max(sizes):,} edges each keep {self.goal:.0%} or "
            f"more, any two share at most {most:.0%} of the smaller one's edges, {core:,} edges "
            f"are in all: none of them is the circuit. {self.ended}"
        )

    def to_dataframe(self) -> "pandas.DataFrame":
        """One row a circuit."""
        import pandas  # slow to import, and seldom needed

        shared = self.overlap - torch.eye(len(self.circuits), dtype=self.overlap.dtype)
        rows = [
            {
                "edges": circuit.size,
                "faithfulness": kept.value,
                "low": kept.low,
                "high": kept.high,
                "largest_overlap": float(most),
            }
            for circuit, kept, most in zip(
                self.circuits, self.faithfulness, shared.amax(dim=1), strict=True
            )
        ]
        return pandas.DataFrame(rows)

    def _repr_html_(self) -> str:
        return as_table(self.sentence, self.to_dataframe())


def rivals(
    trial: Trial,
    scores: Scores,
    faithfulness: float,
    *,
    ranking: Ranking,
    n: int = 10,
    overlap: float = 0.1,
    rescore: Rescore | None = None,
) -> Rivals:
    """Up to n circuits that keep so much of the gap, any two of which share hardly an edge.

    Args:
        trial: the prompts of the search.
        scores: of all edges.
        faithfulness: the share of the gap that each must keep.
        ranking: by absolute or signed scores.
        n: how many, the first one included.
        overlap: the largest share of the smaller circuit's edges that two may have in common.
        rescore: scores where edges of the circuits found so far are removed, as `scores_without`.

    Raises:
        ValueError: if the scores are of another graph, a share or n is out of range, clean and
            corrupt do not differ or corrupt does better.
    """
    trial.model.graph.require_same(scores.graph, "these scores are")
    check_share(faithfulness)
    if n < 1 or not 0 <= overlap < 1:
        raise ValueError(
            f"rivals are 1 or more, and share 0 or more and less than all edges; got {n}, {overlap}"
        )
    found: list[Circuit] = []
    tried, ended = 0, f"More were not looked for than {n}."
    while len(found) < n:
        one, runs = _next(trial, scores, found, faithfulness, ranking, overlap, rescore)
        tried += runs
        if one is None:
            ended = (
                f"Without more than {overlap:.0%} of the edges of each of them, the best edges do "
                f"not reach {faithfulness:.0%} at any size tried."
            )
            break
        found.append(one)
    ran = run(trial, found)
    require_gap(ran, trial.metric)
    return Rivals(tuple(found), ran, shared(found), faithfulness, tried, ended)


def shared(circuits: Sequence[Circuit]) -> Float[Tensor, "circuit circuit"]:
    """Shared edges over the edges of the smaller circuit, for every pair."""
    masks = torch.stack([circuit.mask.flatten() for circuit in circuits]).double()
    sizes = masks.sum(dim=1)
    return masks @ masks.T / torch.minimum(sizes[:, None], sizes).clamp(min=1)


def _next(
    trial: Trial,
    scores: Scores,
    before: Sequence[Circuit],
    faithfulness: float,
    ranking: Ranking,
    overlap: float,
    rescore: Rescore | None,
) -> tuple[Circuit | None, int]:
    """The smaller of what the scores, and those taken anew, come to; None where neither reaches."""
    ways = [scores]
    if before and rescore is not None:
        gone = torch.stack([circuit.mask for circuit in before]).any(dim=0)
        ways.append(rescore(Circuit(trial.model.graph.exists & ~gone, trial.model.graph)))
    circuits, runs = [], 0
    for way in ways:
        rationed = _Rationed(way, rank(way, ranking), before, overlap)
        n_edges = trial.model.graph.n_edges
        sizes = [rationed(n) for n in (*between(0, n_edges), n_edges)]
        runs += len(sizes)
        if not bool((run(trial, sizes).faithfulness >= faithfulness).any()):
            continue
        one = smallest_of(trial, rationed, faithfulness)
        said = one.provenance["selection"]
        runs += int(str(said["tried"])) if isinstance(said, dict) else 0
        circuits.append(one)
    return min(circuits, key=lambda circuit: circuit.size, default=None), runs


@dataclass(frozen=True)
class _Rationed:
    """The best n edges, of which no more than a share are of any one circuit found before."""

    scores: Scores
    order: Int[Tensor, " edge"]
    before: Sequence[Circuit]
    overlap: float

    def __call__(self, n: int) -> Circuit:
        """Pruned; where that leaves too much in common, rations are those of what is left."""
        size, circuit = n, self._pruned(n, n)
        while circuit.size < size and not self.fits(circuit):
            size = circuit.size
            circuit = self._pruned(n, size)
        return circuit

    def fits(self, circuit: Circuit) -> bool:
        """Whether it shares as little as asked with each circuit before."""
        return all(float(shared([circuit, c])[0, 1]) <= self.overlap for c in self.before)

    def _pruned(self, n: int, size: int) -> Circuit:
        """The best n edges, with as many of each circuit before as one of some size may share."""
        graph = self.scores.graph
        allowed = torch.ones(len(self.order), dtype=torch.bool)
        for other in self.before:
            theirs = other.mask.flatten()[self.order]
            allowed &= ~theirs | (theirs.cumsum(dim=0) <= int(self.overlap * min(size, other.size)))
        mask = torch.zeros_like(graph.exists)
        mask.view(-1)[self.order[allowed][:n]] = True
        selection = {"selector": "rationed", "requested": n, "overlap": self.overlap}
        said = {**self.scores.provenance, "selection": selection}
        return prune(Circuit(mask, graph, self.scores.matrix, said))


def _largest(overlap: Float[Tensor, "circuit circuit"]) -> float:
    pairs = combinations(range(len(overlap)), 2)
    return max((float(overlap[i, j]) for i, j in pairs), default=0.0)
