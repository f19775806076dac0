"""Comparing circuits, or scores: of several methods, tasks, checkpoints. Knows no model.

The things compared have names and are of one graph. Overlap does not imply faithfulness: circuits
that share most edges may keep very different shares of the behaviour (Hanna et al. 2024,
arXiv:2403.17806).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from scipy import stats
from torch import Tensor

from circuits.circuit import Circuit
from circuits.judging.stability import agreement, resamples
from circuits.scores import Ranking, Scores, rank, ranked_by
from circuits.select import top_n
from patching.files.brief import as_table, briefly
from patching.graph import Graph

if TYPE_CHECKING:
    import pandas

TOP = (10, 100, 1000)


@runtime_checkable
class Comparison(Protocol):
    """Named things and a number for every pair of them."""

    @property
    def names(self) -> tuple[str, ...]:
        """What is compared."""
        ...

    @property
    def measure(self) -> str:
        """What the number is."""
        ...

    @property
    def matrix(self) -> Float[Tensor, "item item"]:
        """The number for every pair, NaN where undefined."""
        ...


@dataclass(frozen=True)
class Overlap:
    """The edges of two circuits; `by_chance` are shared by random circuits of these sizes."""

    a: str
    b: str
    edges_a: int
    edges_b: int
    shared: int
    only_a: int
    only_b: int
    by_chance: float
    jaccard: float


@briefly
@dataclass(frozen=True, eq=False)
class CircuitComparison:
    """Circuits side by side; `matrix` is the Jaccard index, NaN for two without edges."""

    names: tuple[str, ...]
    circuits: tuple[Circuit, ...]
    matrix: Float[Tensor, "item item"]
    measure: str = "shared edges / edges of either (Jaccard)"

    @property
    def pairs(self) -> tuple[Overlap, ...]:
        """Every pair, each once."""
        return tuple(self._overlap(i, j) for i, j in combinations(range(len(self.names)), 2))

    def difference(self, a: str, b: str) -> Circuit:
        """The edges of circuit a that circuit b lacks, as a circuit with a's scores.

        Raises:
            ValueError: if there is no circuit of that name.
        """
        return self._named(a) - self._named(b)

    def shared(self) -> Circuit:
        """The edges of all circuits, with the scores of the first."""
        mask = torch.stack([circuit.mask for circuit in self.circuits]).all(dim=0)
        return Circuit(mask, self.circuits[0].graph, self.circuits[0].scores)

    def to_dataframe(self) -> "pandas.DataFrame":
        """One row per pair, with the fields of `Overlap` as columns."""
        import pandas  # slow to import, and seldom needed

        return pandas.DataFrame(self.pairs)

    def _repr_html_(self) -> str:
        return as_table(f"{len(self.names)} circuits, in pairs:", self.to_dataframe())

    def _named(self, name: str) -> Circuit:
        if name not in self.names:
            raise ValueError(f"no circuit named {name!r}; there are {', '.join(self.names)}")
        return self.circuits[self.names.index(name)]

    def _overlap(self, i: int, j: int) -> Overlap:
        a, b = self.circuits[i], self.circuits[j]
        shared = int((a.mask & b.mask).sum())
        return Overlap(
            a=self.names[i],
            b=self.names[j],
            edges_a=a.size,
            edges_b=b.size,
            shared=shared,
            only_a=a.size - shared,
            only_b=b.size - shared,
            by_chance=a.size * b.size / a.graph.n_edges,
            jaccard=float(self.matrix[i, j]),
        )


@dataclass(frozen=True)
class Agreement:
    """Two rankings of all edges; `top` are the shares of the k best that are shared, for each k.

    The correlations are NaN where one side gives all edges the same score.
    """

    a: str
    b: str
    spearman: float
    kendall: float
    top: tuple[float, ...]


@briefly
@dataclass(frozen=True, eq=False)
class ScoreComparison:
    """Scores side by side; `matrix` is Spearman's correlation over all edges, NaN if undefined."""

    names: tuple[str, ...]
    ranking: Ranking
    pairs: tuple[Agreement, ...]
    ks: tuple[int, ...]
    matrix: Float[Tensor, "item item"]
    measure: str = "Spearman correlation over all edges"

    def to_dataframe(self) -> "pandas.DataFrame":
        """One row per pair: the correlations, and `top_k` for every k."""
        import pandas  # slow to import, and seldom needed

        rows = [
            {"a": p.a, "b": p.b, "spearman": p.spearman, "kendall": p.kendall}
            | {f"top_{k}": share for k, share in zip(self.ks, p.top, strict=True)}
            for p in self.pairs
        ]
        return pandas.DataFrame(rows)

    def _repr_html_(self) -> str:
        return as_table(f"{self.measure}, and shares of the best:", self.to_dataframe())


def compare_circuits(circuits: Mapping[str, Circuit]) -> CircuitComparison:
    """Which edges circuits share.

    >>> graph = Graph(n_layers=1, n_heads=1, n_kv_heads=1)
    >>> one = Circuit.from_edges(graph, [("embed", "m0")])
    >>> result = compare_circuits({"one": one, "all": Circuit.full(graph)})
    >>> result.pairs[0].shared, result.difference("one", "all").size
    (1, 0)

    Raises:
        ValueError: if there are fewer than two circuits, or they are of different graphs.
    """
    _check({name: circuit.graph for name, circuit in circuits.items()})
    members = tuple(circuits.values())
    return CircuitComparison(tuple(circuits), members, agreement(members).jaccard)


def compare_scores(
    scores: Mapping[str, Scores], *, ranking: Ranking, ks: Sequence[int] = TOP
) -> ScoreComparison:
    """How far scores rank the edges alike: Spearman, Kendall (tau-b), overlap of the k best.

    By absolute ranking, absolute values are compared. Each k is at most the number of edges; those
    above it are left out. Two random rankings share k / edges of the k best.

    Raises:
        ValueError: if there are fewer than two, they are of different graphs, a k is less than 1,
            or the ranking is unknown.
    """
    _check({name: one.graph for name, one in scores.items()})
    if min(ks, default=1) < 1:
        raise ValueError(f"the k best edges are 1 or more, got {list(ks)}")
    names, members = tuple(scores), tuple(scores.values())
    ks = tuple(k for k in ks if k <= members[0].graph.n_edges)
    matrix = torch.eye(len(names), dtype=torch.float64)
    pairs = []
    for i, j in combinations(range(len(names)), 2):
        correlations = _correlations(members[i], members[j], ranking)
        matrix[i, j] = matrix[j, i] = correlations[0]
        top = tuple(_top_overlap(members[i], members[j], k, ranking) for k in ks)
        pairs.append(Agreement(names[i], names[j], *correlations, top))
    return ScoreComparison(names, ranking, tuple(pairs), ks, matrix)


@briefly
@dataclass(frozen=True, eq=False)
class ResampledComparison:
    """Circuits of k edges by several scores, each found on resamples of the prompts.

    `matrix` is the Jaccard index of circuits found on two different draws, a mean over pairs of
    draws, for two scores or, on the diagonal, for one and itself. Two methods that share no less
    with each other than each with itself do not differ beyond what the prompts decide.
    """

    names: tuple[str, ...]
    k: int
    matrix: Float[Tensor, "item item"]
    measure: str = "shared edges / edges of either (Jaccard), of two draws of the prompts"

    def to_dataframe(self) -> "pandas.DataFrame":
        """One row per pair: what they share, and what each shares with itself."""
        import pandas  # slow to import, and seldom needed

        rows = [
            {
                "a": self.names[i],
                "b": self.names[j],
                "edges": self.k,
                "jaccard": float(self.matrix[i, j]),
                "a with itself": float(self.matrix[i, i]),
                "b with itself": float(self.matrix[j, j]),
            }
            for i, j in combinations(range(len(self.names)), 2)
        ]
        return pandas.DataFrame(rows)

    def _repr_html_(self) -> str:
        return as_table(f"{self.measure}:", self.to_dataframe())


def compare_resampled(
    scores: Mapping[str, Scores], k: int, *, ranking: Ranking, n: int = 100, seed: int = 0
) -> ResampledComparison:
    """How far scores choose the same k edges on other prompts, beside how far each does itself.

    Needs scores that were kept by prompt, by `by_prompt` or `circuits score --by-prompt`.

    Raises:
        ValueError: if there are fewer than two scores or resamples, they are of different graphs or
            were not kept by prompt, or the graph does not have k edges.
    """
    _check({name: one.graph for name, one in scores.items()})
    if n < 2:
        raise ValueError(f"circuits of two draws are compared: give 2 resamples or more, got {n}")
    held = torch.stack([_on_resamples(one, k, ranking, n, seed) for one in scores.values()])
    shared = torch.einsum("aie,bje->abij", held, held)
    apart = ~torch.eye(n, dtype=torch.bool)
    jaccard = (shared / (2 * k - shared)).double()[:, :, apart].mean(dim=2)
    return ResampledComparison(tuple(scores), k, jaccard)


def _on_resamples(
    scores: Scores, k: int, ranking: Ranking, n: int, seed: int
) -> Float[Tensor, "draw edge"]:
    """1 for the edges of each draw's circuit."""
    exists, drawn = scores.graph.exists, resamples(scores, n, seed)
    return torch.stack([top_n(one, k, ranking=ranking).mask[exists] for one in drawn]).float()


def _check(graphs: Mapping[str, Graph]) -> None:
    if len(graphs) < 2:
        raise ValueError(f"a comparison needs at least two, got {len(graphs)}")
    first, *others = graphs
    for name in others:
        if graphs[name] != graphs[first]:
            raise ValueError(
                f"{first} and {name} are of different graphs: {graphs[first].describe()} and "
                f"{graphs[name].describe()}"
            )


def _correlations(a: Scores, b: Scores, ranking: Ranking) -> tuple[float, float]:
    exists = a.graph.exists
    x, y = (ranked_by(one, ranking)[exists].numpy() for one in (a, b))
    if x.min() == x.max() or y.min() == y.max():
        return math.nan, math.nan
    spearman, kendall = stats.spearmanr(x, y), stats.kendalltau(x, y)
    return float(np.asarray(spearman)[0]), float(np.asarray(kendall)[0])


def _top_overlap(a: Scores, b: Scores, k: int, ranking: Ranking) -> float:
    first, second = (set(rank(one, ranking)[:k].tolist()) for one in (a, b))
    return len(first & second) / k
