"""Selection as optimisation: the connected circuit of the largest total score, by integer program.

One variable an edge, 1 if it is chosen. The total score is maximised under linear constraints: how
many edges; that each edge leaves a node that something comes into and enters a reader whose output
is used, so that every edge lies on a path from `embed` to `logits` (where spans are kept apart, a
path through spans, which keys and values may change); and, if asked, what share of the edges has a
positive score. Nikankin et al. 2025, arXiv:2510.25786. Solved by HiGHS, which comes with scipy; it
proves how far from the best its answer can be at most. Knows no model.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool
from scipy.optimize import Bounds, LinearConstraint, OptimizeResult, milp
from scipy.sparse import coo_array
from torch import Tensor

from circuits.circuit import Circuit
from circuits.judging.uncertain import Uncertain
from circuits.scores import Ranking, Scores, ranked_by
from patching.graph import Graph
from patching.span_graph import plain_of, reads_elsewhere, spans_of

MOST_EDGES = 15_000
"""Candidates beyond which no program is tried: more were not solved in a minute when measured."""

MOST_GAP = 0.1
"""How far from the best, as a share, an answer may be where the time was up."""

_TIME_IS_UP, _INFEASIBLE = 1, 2  # scipy's status of a result


def program(
    scores: Scores,
    n: int,
    *,
    ranking: Ranking,
    exactly: bool = True,
    positive: float | int = 0.0,
    among: Circuit | None = None,
    seconds: float | int = 60.0,
) -> Circuit:
    """The best connected circuit of n edges: none of its edges is off a path, so none is pruned.

    No connected circuit of n edges has a larger total score, or |score| if the ranking is absolute,
    than this one plus the gap in `provenance["selection"]`. The gap is 0 but for HiGHS's tolerance
    (1e-4 of the total) where it finished in time.

    >>> graph = Graph(n_layers=1, n_heads=1, n_kv_heads=1)
    >>> matrix = graph.exists.double()
    >>> matrix[graph.edge_index("a0.h0", "m0")] = 5.0
    >>> best = program(Scores(matrix, graph, {}), 3, ranking="signed")
    >>> ("a0.h0", "m0") in best, ("m0", "logits") in best
    (True, True)

    Args:
        scores: of all edges.
        n: how many edges.
        ranking: what is added up, scores or absolute values.
        exactly: n edges, and not fewer where fewer have a larger total.
        positive: at least this share of the edges has a positive score.
        among: choose among these edges only; the stable ones of `uncertainty`, say.
        seconds: time for the solver; what it has found by then is returned, with the gap.

    Raises:
        ValueError: if there are more than `MOST_EDGES` edges to choose among, the graph has not n
            edges, no connected circuit fulfils what is asked, the share or the time is no such
            number, `among` is of another graph, or nothing within `MOST_GAP` of the best was found
            in time.
    """
    candidates = _candidates(scores, n, positive, among)
    if seconds <= 0:
        raise ValueError(f"the solver needs some time, got {seconds} seconds")
    merit = ranked_by(scores, ranking)[candidates].numpy()
    constraints = _Constraints.of(scores.graph, candidates)
    constraints.count(n, exactly=exactly)
    constraints.share((scores.matrix[candidates] > 0).numpy(), float(positive))
    found = _solve(merit, constraints, float(seconds))
    mask = torch.zeros_like(candidates)
    mask[candidates] = torch.from_numpy(found.x[: len(merit)] > 0.5)
    selection = {
        "selector": "program",
        "requested": n,
        "size": int(mask.sum()),
        "ranking": ranking,
        "pruned": False,
        "exactly": exactly,
        "positive": float(positive),
        "among": int(candidates.sum()),
        "total": float(merit @ (found.x[: len(merit)] > 0.5)),
        "gap": _gap(found),
        "in_time": found.status != _TIME_IS_UP,
    }
    provenance = {**scores.provenance, "selection": selection}
    return Circuit(mask, scores.graph, scores.matrix, provenance)


def sign_stable(uncertain: Uncertain, share: float | int = 0.95) -> Circuit:
    """The edges that have the sign of their mean in at least this share of resamples.

    For `program(..., among=...)`.

    Raises:
        ValueError: if the share is not above 0 and at most 1.
    """
    if not 0 < share <= 1:
        raise ValueError(f"signs are held by a share above 0 and at most 1, got {share}")
    graph = uncertain.scores.graph
    mask = graph.exists & (uncertain.sign_stability >= share)
    selection = {"selector": "sign_stable", "requested": share, "size": int(mask.sum())}
    provenance = {**uncertain.scores.provenance, "selection": selection}
    return Circuit(mask, graph, uncertain.mean, provenance)


def _candidates(
    scores: Scores, n: int, positive: float | int, among: Circuit | None
) -> Bool[Tensor, "source dest"]:
    graph = scores.graph
    if among is not None:
        graph.require_same(among.graph, "the edges to choose among are")
    candidates = graph.exists if among is None else among.mask
    n_candidates = int(candidates.sum())
    if not 0 <= n <= n_candidates:
        raise ValueError(
            f"cannot choose {n} edges; there are {n_candidates} to choose among, 0 is the least"
        )
    if n_candidates > MOST_EDGES:
        raise ValueError(
            f"{n_candidates} edges are too many for an integer program, {MOST_EDGES} at most; "
            "take greedy, or choose among fewer: among=top_n(...)"
        )
    if not 0 <= positive <= 1:
        raise ValueError(f"the share of positive edges is from 0 to 1, got {positive}")
    return candidates


@dataclass
class _Constraints:
    """Rows of `lowest <= A v <= highest`; v holds the edges, then the writers, then the readers.

    A writer's variable says that something comes into it, a reader's that its output is used. They
    may be fractions: where all edges are whole, 0 and 1 are all that they need to be.
    """

    n_edges: int
    n_variables: int
    rows: list[np.ndarray]
    columns: list[np.ndarray]
    values: list[np.ndarray]
    lowest: list[np.ndarray]
    highest: list[np.ndarray]
    n_rows: int = 0

    @staticmethod
    def of(graph: Graph, candidates: Bool[Tensor, "source dest"]) -> "_Constraints":
        """Every edge on a path from `embed` to `logits`; with spans apart, nodes are at each."""
        source, dest = (part.numpy() for part in candidates.nonzero(as_tuple=True))
        plain, n_spans = plain_of(graph), max(len(spans_of(graph)), 1)
        at = source * n_spans + dest % n_spans  # the writer, where the reader is
        n, n_writers, n_dests = len(source), len(graph.sources) * n_spans, len(graph.destinations)
        made = _Constraints(n, n + n_writers + n_dests, [], [], [], [], [])
        writer, reader = n + np.arange(n_writers), n + n_writers + np.arange(n_dests)
        edges, feeds = np.arange(n), _feeds(plain, n_spans)
        inner = source != plain.source_index("embed")
        made.at_most(edges[inner], writer[at[inner]])
        for w in np.unique(at[inner]):
            made.at_most_sum(int(writer[w]), edges[feeds[dest, w]])
        inner = dest // n_spans != plain.dest_index("logits")
        made.at_most(edges[inner], reader[dest[inner]])
        for d in np.unique(dest[inner]):
            made.at_most_sum(int(reader[d]), edges[feeds[d, at]])
        return made

    def at_most(self, smaller: np.ndarray, larger: np.ndarray) -> None:
        """`smaller <= larger`, one row for each pair."""
        rows = np.arange(len(smaller))
        ones = np.ones(len(smaller))
        self._add(
            len(rows), np.r_[rows, rows], np.r_[smaller, larger], np.r_[ones, -ones], -np.inf, 0
        )

    def at_most_sum(self, one: int, terms: np.ndarray) -> None:
        """`one <= sum of terms`."""
        columns = np.r_[one, terms]
        values = np.r_[1.0, -np.ones(len(terms))]
        self._add(1, np.zeros(len(columns), dtype=int), columns, values, -np.inf, 0)

    def count(self, n: int, *, exactly: bool) -> None:
        """N edges, or at most n."""
        edges = np.arange(self.n_edges)
        ones = np.ones(self.n_edges)
        self._add(1, np.zeros_like(edges), edges, ones, n if exactly else 0, n)

    def share(self, good: np.ndarray, least: float) -> None:
        """At least this share of the chosen edges is good."""
        edges = np.arange(self.n_edges)
        if least > 0:
            self._add(1, np.zeros_like(edges), edges, good - least, -1e-9, np.inf)

    def _add(
        self,
        n: int,
        rows: np.ndarray,
        columns: np.ndarray,
        values: np.ndarray,
        low: float | int,
        high: float | int,
    ) -> None:
        self.rows.append(rows + self.n_rows)
        self.columns.append(columns)
        self.values.append(values)
        self.lowest.append(np.full(n, low))
        self.highest.append(np.full(n, high))
        self.n_rows += n

    def finish(self) -> LinearConstraint:
        """As scipy takes them."""
        place = np.concatenate(self.rows), np.concatenate(self.columns)
        shape = self.n_rows, self.n_variables
        matrix = coo_array((np.concatenate(self.values), place), shape=shape).tocsr()
        ends = np.concatenate(self.lowest), np.concatenate(self.highest)
        # scipy annotates its ends as single numbers, and documents them as arrays
        return LinearConstraint(matrix, *ends)  # pyright: ignore[reportArgumentType]


def _feeds(graph: Graph, n_spans: int) -> np.ndarray:
    """Which writer, at each span, each reader at each is an input of: at its own, or (k, v) at any.

    Spans are on the inside of both axes.
    """
    anywhere = reads_elsewhere(graph).numpy()[:, None, None]
    joined = np.eye(n_spans, dtype=bool) | anywhere  # reader, its span, the writer's
    found = graph.feeds.numpy()[:, None, :, None] & joined[:, :, None, :]
    return found.reshape(len(graph.destinations) * n_spans, len(graph.sources) * n_spans)


def _solve(merit: np.ndarray, constraints: _Constraints, seconds: float) -> OptimizeResult:
    n_others = constraints.n_variables - len(merit)
    scale = float(np.abs(merit).max(initial=0)) or 1.0  # HiGHS's tolerances are for numbers near 1
    found = milp(
        -np.r_[merit / scale, np.zeros(n_others)],
        integrality=np.r_[np.ones(len(merit)), np.zeros(n_others)],
        bounds=Bounds(0, 1),
        constraints=constraints.finish(),
        options={"time_limit": seconds},
    )
    if found.status == _INFEASIBLE:
        raise ValueError(
            "no connected circuit fulfils what is asked: try exactly=False, another number of "
            "edges, a smaller share of positive ones, or more edges to choose among"
        )
    gap = _gap(found)
    if found.x is None or (found.status == _TIME_IS_UP and (gap is None or gap > MOST_GAP)):
        raise ValueError(
            f"in {seconds:g} seconds nothing was found within {MOST_GAP:.0%} of the best; give the "
            "solver more time, choose among fewer edges (among=top_n(...)), or take greedy"
        )
    return found


def _gap(found: OptimizeResult) -> float | None:
    """How much larger the best total may be, as a share of this one; None if that is not known."""
    gap = found.mip_gap
    return abs(float(gap)) if gap is not None and np.isfinite(gap) else None
