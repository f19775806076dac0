"""Budgeted search: cheap scores say which edges are worth a look, exact runs decide.

From a circuit larger than asked for that cheap scores choose, edges are dropped in rounds:
those that matter least go, and near the cut exact runs without each edge say which those are. Then
edges inside are swapped for edges outside as exact runs say, as long as the circuit's distance
from the model shrinks beyond doubt, and the budget of runs lasts. Never worse, on the prompts it
is given, than the best circuit it starts from.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.circuit import Circuit
from circuits.provenance import describe
from circuits.scores import Scores
from circuits.search.edits import Edge, Mask, edges, less, more, pairs
from circuits.search.judge import Judge
from circuits.search.log import Log
from circuits.select import greedy, prune, top_n
from patching.ablations import Ablation, prepared_for, resample
from patching.graph import Graph
from patching.intervals import of_mean
from patching.metrics import Metric
from patching.model import Model
from patching.provenance import confirmed
from patching.span_graph import kept_apart, spans_of
from patching.tasks.task import Task

SLACK = 2
"""How many times the size asked for the search starts from, or more if the budget allows."""

RUNS_AN_EDGE = 5
"""Runs for each edge that is dropped: half of the budget goes there, and some look twice."""

SHARE = 0.15
"""Of its edges, how many a circuit loses in one round of dropping."""

LEAST_A_START = 24
"""Runs that each start needs: its circuits of both sizes, and some to choose by."""

LADDER = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32)
"""Numbers of edges that are swapped at once."""


@dataclass(frozen=True)
class Budget:
    """How many circuits may be run on all examples: a sparse one costs a third of a forward pass.

    Runs are written to the file `log` as they are made; a search that finds them there goes on
    from them, and other searches of the same model and prompts use them too.
    """

    circuits: int = 400
    log: str | Path | None = None


@dataclass(frozen=True)
class Step:
    """One thing the search did: the circuit's distance after it, in shares of the gap.

    `low` and `high` are the 95 % interval over examples of what it gained; None before swapping.
    """

    what: str
    size: int
    distance: float
    low: float | None = None
    high: float | None = None


def budgeted_search(
    model: Model,
    task: Task,
    metric: Metric,
    starts: Sequence[Scores],
    *,
    size: int,
    budget: Budget = Budget(),  # noqa: B008 - a frozen value
    ablation: Ablation = resample,
    batch_size: int = 16,
) -> Circuit:
    """The circuit of at most `size` edges nearest to the model that a budget of exact runs finds.

    Distance is the mean over examples of |metric of the model - metric of the circuit|, in shares
    of the clean-corrupt gap, so that no example makes up for another and overshooting gains
    nothing. `starts` are scores by one or more cheap methods; the circuit keeps the first of them.
    Scores by span give a circuit by span. Deterministic. `provenance["steps"]` tells the way.

    >>> from circuits.scoring import eap_ig
    >>> from patching.metrics import logit_diff
    >>> from patching.models import induction
    >>> model, known = Model.load("truth/induction-noise"), induction(n=4)
    >>> cheap = eap_ig(model, known.task, logit_diff)
    >>> found = budgeted_search(model, known.task, logit_diff, [cheap], size=5)
    >>> {f"{source}->{dest}" for source, dest in found.edges} == known.active_edges
    True

    Raises:
        ValueError: if there are no scores, some are of another graph, the graph has not `size`
            edges, the budget is too small to compare the starts, the model cannot read the task,
            pairs do not differ, there is no clean-corrupt gap, or the log is of another search.
    """
    task = task.with_spans_of(spans_of(starts[0].graph) if starts else ())
    graph = kept_apart(model.graph, task.apart)
    _check(graph, starts, size, budget.circuits)
    prepared = prepared_for(model, ablation)
    options = {"size": size, "budget": budget.circuits, "starts": [s.provenance for s in starts]}
    facts = describe(model, task, metric, "budgeted", options, ablation=prepared.name)
    facts = confirmed(model, facts)
    known = Log.open(budget.log, facts, (metric, prepared))
    judge = Judge(model, task, metric, prepared, batch_size=batch_size, log=known)
    search = _Search(judge, graph, size, budget.circuits, paired=prepared.paired)
    mask = search.run(starts)
    selection = {"selector": "budgeted", "requested": size, "size": int(mask.sum())}
    provenance = {
        **facts,
        "selection": {**selection, "pruned": prepared.paired},
        "runs": asdict(judge.cost),
        "steps": [asdict(step) for step in search.steps],
    }
    return Circuit(mask, graph, starts[0].matrix, provenance)


@dataclass
class _Search:
    """The state of one search: what is left of the budget, and what each edge seems worth."""

    judge: Judge
    graph: Graph
    size: int
    budget: int
    paired: bool
    steps: list[Step] = field(default_factory=list)
    harm: Float[Tensor, "source dest"] = field(init=False)
    merit: Float[Tensor, "source dest"] = field(init=False)

    def run(self, starts: Sequence[Scores]) -> Mask:
        """Start, drop, swap; the best circuit seen."""
        self.merit = _together(starts) / self._gap()
        small = self._best_of(starts, self.size)
        n = max(SLACK * self.size, self.size + self.budget // RUNS_AN_EDGE)
        large = self._best_of(starts, min(n, self.graph.n_edges))
        self._note("cheap scores alone", small)
        dropped = self._drop(large)
        self._note("edges dropped", dropped)
        better = bool(self._distances([dropped])[0].mean() < self._distances([small])[0].mean())
        return self._swap(dropped if better else small)

    # Runs.

    @property
    def left(self) -> int:
        """Runs that may still be made, but for the last look at what came of them."""
        return self.budget - self.judge.cost.circuits - 2

    def _distances(self, masks: Sequence[Mask]) -> Float[Tensor, "circuit example"]:
        """|model - circuit| in shares of the gap, for each example."""
        (full,) = self.judge.by_example([self.graph.exists])
        return (full - self.judge.by_example(masks)).abs() / self._gap()

    def _gap(self) -> float:
        full, empty = self.judge.values([self.graph.exists, torch.zeros_like(self.graph.exists)])
        if full == empty:
            raise ValueError(
                f"the metric is {full:.4g} in the clean and in the corrupt run, so no circuit is "
                "nearer to the model than another; give other prompts or another metric"
            )
        return abs(full - empty)

    def _note(
        self, what: str, mask: Mask, low: float | None = None, high: float | None = None
    ) -> None:
        distance = float(self._distances([mask])[0].mean())
        self.steps.append(Step(what, int(mask.sum()), distance, low, high))

    # Steps.

    def _best_of(self, starts: Sequence[Scores], n: int) -> Mask:
        """The nearest of all circuits of n edges that selectors make of the scores."""
        circuits = [
            select(scores, n, ranking=ranking)
            for scores in starts
            for select in (top_n, greedy)
            for ranking in ("absolute", "signed")
        ]
        masks = [self._tidy(circuit.mask) for circuit in circuits]
        return masks[int(self._distances(masks).mean(dim=1).argmin())]

    def _drop(self, mask: Mask) -> Mask:
        """Rounds of dropping what matters least, near the cut as exact runs say."""
        self.harm = self.merit.clone()
        n_rounds = max(1, _rounds(int(mask.sum()), self.size))
        look = max(4, self.left // (2 * n_rounds))
        while (n := int(mask.sum())) > self.size:
            n_out = min(n - self.size, max(1, int(SHARE * n))) if self.left else n - self.size
            mask = self._drop_some(mask, n_out, min(look, self.left))
        return mask

    def _drop_some(self, mask: Mask, n_out: int, look: int) -> Mask:
        inside = sorted(edges(mask), key=lambda edge: float(self.harm[edge]))
        first = max(0, n_out - look // 2)
        near = inside[first : first + look]
        if near:
            found = self._distances([less(mask, [edge]) for edge in near]).mean(dim=1)
            for edge, harm in zip(near, (found - found.min()).tolist(), strict=True):
                self.harm[edge] = harm
        near.sort(key=lambda edge: float(self.harm[edge]))
        return self._tidy(less(mask, [*inside[:first], *near][:n_out]))

    def _swap(self, mask: Mask) -> Mask:
        """Swap edges while that brings the circuit nearer beyond doubt and the budget lasts."""
        start, look = 0, max(4, self.budget // 12)
        while start < self.graph.n_edges and self.left > 3 * look + len(LADDER):
            found = self._swap_once(mask, start, look)
            start = start + look if found is None else 0
            mask = mask if found is None else found
        return mask

    def _swap_once(self, mask: Mask, start: int, look: int) -> Mask | None:
        """Try the edges inside that seem to matter least, and those outside that seem to most."""
        near = slice(start, start + look)
        inside = sorted(edges(mask), key=self._merit)[near]
        outside = sorted(edges(self.graph.exists & ~mask), key=self._merit, reverse=True)[near]
        without = self._distances([less(mask, [edge]) for edge in inside]).mean(dim=1)
        with_ = self._distances([more(mask, [edge]) for edge in outside]).mean(dim=1)
        out = [inside[i] for i in without.argsort(stable=True).tolist()]
        in_ = [outside[i] for i in with_.argsort(stable=True).tolist()]
        return self._better(mask, [*self._ladder(mask, out, in_), *pairs(mask, out, in_, look)])

    def _ladder(self, mask: Mask, out: Sequence[Edge], in_: Sequence[Edge]) -> list[Mask]:
        """The first few swapped for the first few; what fits without a swap is only added."""
        free = self.size - int(mask.sum())
        return [
            more(less(mask, out[: max(0, n - free)]), in_[:n])
            for n in LADDER
            if n <= len(in_) and n - free <= len(out)
        ]

    def _better(self, mask: Mask, trials: Sequence[Mask]) -> Mask | None:
        """The nearest of the trials, if it is nearer than the circuit beyond doubt."""
        if not trials:
            return None
        before, *after = self._distances([mask, *trials])
        best = min(range(len(trials)), key=lambda i: float(after[i].mean()))
        low, high = (float(end) for end in of_mean(before - after[best]))
        if not low > 0:
            return None
        found = self._tidy(trials[best])
        self._note("edges swapped", found, low, high)
        return found

    def _merit(self, edge: Edge) -> float:
        return float(self.merit[edge])

    def _tidy(self, mask: Mask) -> Mask:
        """Without edges that lead nowhere, where leaving them out changes nothing."""
        return prune(Circuit(mask, self.graph)).mask if self.paired else mask


def _together(starts: Sequence[Scores]) -> Float[Tensor, "source dest"]:
    """The mean size of each edge's scores, in the unit of the first."""
    graph = starts[0].graph
    scales = [max(1e-300, float(s.matrix[graph.exists].square().mean().sqrt())) for s in starts]
    total = sum(s.matrix.abs() / scale for s, scale in zip(starts, scales, strict=True))
    assert isinstance(total, Tensor), "there is at least one start"
    return total * (scales[0] / len(starts))


def _rounds(n: int, size: int) -> int:
    return math.ceil(math.log(n / size) / -math.log(1 - SHARE)) if n > size else 0


def _check(graph: Graph, starts: Sequence[Scores], size: int, budget: int) -> None:
    if not starts:
        raise ValueError("no scores to start from; give those of one cheap method or more")
    for i, scores in enumerate(starts):
        graph.require_same(scores.graph, f"start {i} is")
    if not 1 <= size <= graph.n_edges:
        raise ValueError(
            f"cannot choose {size} edges; this graph has {graph.n_edges}, 1 is the least"
        )
    least = LEAST_A_START * len(starts)
    if budget < least:
        raise ValueError(
            f"a budget of {budget} runs is too small to compare {len(starts)} starts; "
            f"{least} is the least"
        )
