"""ACDC: edges are taken away one after another, and stay away if that hardly changes the metric.

Readers are visited from the logits back to the first layer. For each edge into a reader the
current circuit is run without it; the edge is gone for good if the metric falls by less than the
threshold, and is kept otherwise. Every decision depends on those before it.

It is made in batches all the same, and exactly. A batch holds the next edges' trials, each on the
assumption that the decisions before it come out as guessed (`removed`, unless told otherwise, for
most are). Decisions stand up to the first that was guessed wrong; from there on a new batch starts.
A wrong guess costs runs and changes no decision. Batches grow while guesses are right.

Conmy et al. 2023, arXiv:2304.14997.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from jaxtyping import Bool
from torch import Tensor

from circuits.circuit import Circuit
from circuits.provenance import describe
from circuits.scores import Ranking, Scores
from circuits.search.judge import AT_ONCE, Cost, Judge
from circuits.search.log import Log
from patching.ablations import Ablation, Prepared, prepared_for, resample
from patching.graph import Graph
from patching.metrics import Metric, kl
from patching.model import Model
from patching.progress import track
from patching.provenance import confirmed
from patching.span_graph import kept_apart
from patching.tasks.task import Task


@dataclass(frozen=True)
class Walk:
    """In which order edges are tried, and what lets one go.

    `change`: `signed` removes an edge if the metric falls by less than the threshold, however much
    it rises (the published rule, with KL); `absolute` if it moves by less either way. Edges into a
    reader are tried from the latest writer to the earliest, or shuffled by `seed`. Edges in `guess`
    are expected to stay. Runs are written to the file `log` as they are made; a search that finds
    them there goes on from them.
    """

    change: Ranking = "signed"
    seed: int | None = None
    guess: Circuit | None = None
    log: str | Path | None = None


@dataclass(frozen=True, eq=False)
class AcdcSweep:
    """One circuit for each threshold, in ascending order, and what all of them cost together.

    `scores` holds the largest threshold at which each edge survives, 0 if it survives none. ACDC's
    circuits need not be nested; `n_not_nested` counts survivals that a smaller threshold denied.
    """

    thresholds: tuple[float, ...]
    circuits: tuple[Circuit, ...]
    scores: Scores
    n_not_nested: int
    cost: Cost


def acdc(
    model: Model,
    task: Task,
    metric: Metric = kl,
    *,
    threshold: float,
    ablation: Ablation = resample,
    batch_size: int = 16,
    walk: Walk = Walk(),  # noqa: B008 - a frozen value
) -> Circuit:
    """The circuit that ACDC leaves: what could not be taken away without losing `threshold`.

    Any metric, larger = better, averaged over all examples: with `kl` the threshold is in nats.
    The circuit's scores are what the metric lost when each edge was tried;
    `provenance["runs"]` says how many circuits were run, and in how many whole forwards.

    >>> from patching.models import induction
    >>> model, known = Model.load("truth/induction"), induction(n=3)
    >>> found = acdc(model, known.task, threshold=0.1)
    >>> {f"{source}->{dest}" for source, dest in found.edges} == known.active_edges
    True

    Raises:
        ValueError: as `acdc_sweep`.
    """
    found = acdc_sweep(
        model, task, metric, (threshold,), ablation=ablation, batch_size=batch_size, walk=walk
    )
    return found.circuits[0]


def acdc_sweep(
    model: Model,
    task: Task,
    metric: Metric,
    thresholds: Sequence[float],
    *,
    ablation: Ablation = resample,
    batch_size: int = 16,
    walk: Walk = Walk(),  # noqa: B008 - a frozen value
) -> AcdcSweep:
    """`acdc` at several thresholds, smallest first; what two of them would both run is run once.

    Each threshold's circuit is the guess for the next one. Where the task keeps spans apart
    (`by_span`), an edge is tried at each of them.

    Raises:
        ValueError: if there is no threshold, one is not above 0, the rule of change is unknown, the
            guess is of another graph, the log is of another search, the model cannot read the task,
            pairs do not differ, or the metric comes out as NaN.
    """
    graph = kept_apart(model.graph, task.apart)
    thresholds = _check(thresholds, walk, graph)
    prepared = prepared_for(model, ablation)
    facts = _facts(model, task, metric, prepared, walk)
    log = Log.open(walk.log, facts, (metric, prepared))
    judge = Judge(model, task, metric, prepared, batch_size=batch_size, log=log)
    circuits, guess = [], walk.guess
    for threshold in thresholds:
        before = judge.cost
        lost = _Search(judge, graph, threshold, walk, guess).run()
        guess = _to_circuit(graph, threshold, walk, lost, judge.cost - before, facts)
        circuits.append(guess)
    return _to_sweep(thresholds, circuits, facts, judge.cost)


def order(graph: Graph, seed: int | None) -> list[tuple[int, int]]:
    """All edges as (source, dest), in the order in which they are tried."""
    generator = None if seed is None else torch.Generator().manual_seed(seed)
    edges = []
    for dest in reversed(range(len(graph.destinations))):
        sources = graph.exists[:, dest].nonzero().flatten().flip(0)
        if generator is not None:
            sources = sources[torch.randperm(len(sources), generator=generator)]
        edges += [(source, dest) for source in sources.tolist()]
    return edges


@dataclass
class _Search:
    """One walk over all edges at one threshold."""

    judge: Judge
    graph: Graph
    threshold: float
    walk: Walk
    guess: Circuit | None
    kept: Bool[Tensor, "source dest"] = field(init=False)
    value: float = field(init=False)

    def __post_init__(self) -> None:
        self.kept = self.graph.exists.clone()
        (self.value,) = self.judge.values([self.kept])

    def run(self) -> list[float]:
        """What was lost when each edge was tried, in the order of `order`."""
        edges = order(self.graph, self.walk.seed)
        steps = self._steps(edges)
        return list(track(steps, f"trying edges at {self.threshold:g}", len(edges)))

    def _steps(self, edges: Sequence[tuple[int, int]]) -> Iterator[float]:
        done = 0
        width = AT_ONCE if self.guess is not None else 4
        while done < len(edges):
            tried = edges[done : done + width]
            decided = self._decide(tried)
            done += len(decided)
            width = min(2 * width, AT_ONCE) if len(decided) == len(tried) else len(decided) + 1
            yield from decided

    def _decide(self, edges: Sequence[tuple[int, int]]) -> list[float]:
        """What is lost without each edge, up to the first decision that was guessed wrong."""
        stays = [self.guess is not None and bool(self.guess.mask[edge]) for edge in edges]
        assumed, trials = self.kept, []
        for edge, stay in zip(edges, stays, strict=True):
            trial = assumed.clone()
            trial[edge] = False
            trials.append(trial)
            assumed = assumed if stay else trial
        lost = []
        for stay, trial, value in zip(stays, trials, self.judge.values(trials), strict=True):
            lost.append(self.value - value)
            removed = self._lets_go(lost[-1])
            if removed:
                self.kept, self.value = trial, value
            if removed == stay:
                break
        return lost

    def _lets_go(self, lost: float) -> bool:
        return (abs(lost) if self.walk.change == "absolute" else lost) < self.threshold


def _check(thresholds: Sequence[float], walk: Walk, graph: Graph) -> tuple[float, ...]:
    if not thresholds:
        raise ValueError("no thresholds; give at least one, in the metric's units")
    for threshold in thresholds:
        if not 0 < threshold < math.inf:
            raise ValueError(
                f"a threshold is a loss of the metric above 0, got {threshold}; edges that do "
                "nothing are lost at any"
            )
    if walk.change not in ("signed", "absolute"):
        raise ValueError(f"no change named {walk.change!r}; it is 'signed' or 'absolute'")
    if walk.guess is not None:
        graph.require_same(walk.guess.graph, "the guess is")
    return tuple(sorted(set(map(float, thresholds))))


def _facts(
    model: Model, task: Task, metric: Metric, ablation: Prepared, walk: Walk
) -> dict[str, object]:
    within = "latest writer first" if walk.seed is None else f"shuffled by seed {walk.seed}"
    options = {"change": walk.change, "order": f"reverse topological, {within}"}
    said = describe(model, task, metric, "acdc", options, ablation=ablation.name)
    return confirmed(model, said)


def _to_circuit(
    graph: Graph,
    threshold: float,
    walk: Walk,
    lost: Sequence[float],
    cost: Cost,
    facts: dict[str, object],
) -> Circuit:
    mask = torch.zeros_like(graph.exists)
    scores = torch.zeros(graph.exists.shape, dtype=torch.float64)
    for edge, change in zip(order(graph, walk.seed), lost, strict=True):
        scores[edge] = change
        mask[edge] = not (abs(change) if walk.change == "absolute" else change) < threshold
    size = int(mask.sum())
    selection = {"selector": "acdc", "requested": threshold, "size": size, "pruned": False}
    runs = {**asdict(cost), "one_at_a_time": graph.n_edges}
    return Circuit(mask, graph, scores, {**facts, "selection": selection, "runs": runs})


def _to_sweep(
    thresholds: tuple[float, ...], circuits: list[Circuit], facts: dict[str, object], cost: Cost
) -> AcdcSweep:
    graph = circuits[0].graph
    largest = torch.zeros(graph.exists.shape, dtype=torch.float64)
    for threshold, circuit in zip(thresholds, circuits, strict=True):
        largest[circuit.mask] = threshold
    pairs = zip(circuits, circuits[1:], strict=False)
    n_not_nested = sum(len(larger - smaller) for smaller, larger in pairs)
    provenance = {
        **facts,
        "sign": "the largest threshold that an edge survives: no sign",
        "thresholds": list(thresholds),
        "runs": asdict(cost),
        "n_not_nested": n_not_nested,
    }
    scores = Scores(largest, graph, provenance)
    return AcdcSweep(thresholds, tuple(circuits), scores, n_not_nested, cost)
