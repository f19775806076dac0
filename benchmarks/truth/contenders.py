"""Who is compared: ways to find a circuit, in one table. A new method is a row here.

What gives `Scores` gets its circuits by `top_n` and `prune`, unless it says how edges are chosen
(`Auto`); what searches gives them itself.
"""

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path as File
from typing import Protocol

import torch

from circuits.choosing import Auto, auto
from circuits.circuit import Circuit
from circuits.ensembles import hybrid
from circuits.judging.smallest import Goal
from circuits.learning import Learned, edge_pruning, uniform_sampling
from circuits.running.evaluation import evaluate
from circuits.scores import Scores
from circuits.scoring import METHODS, PATHS, Recipe, clean_corrupt, eap_ig, gim, score
from circuits.scoring.second_order import screen_flag_fix
from circuits.search import Budget, Walk, acdc_sweep, budgeted_search
from circuits.search.programming import program
from circuits.select import greedy
from patching.metrics import Metric
from patching.model import Model
from patching.rules import RULES
from patching.tasks import Task

RANDOM, BASELINE = "random", "eap"
"""What keeps nothing of the truth, and the cheapest method that has a gradient."""

QUICK = ("exact", "eap", RANDOM)

Found = Scores | Auto | Sequence[Circuit]


class Finder(Protocol):
    """Finds circuits of at most `sizes` edges, one of each size, or scores to choose them by.

    `Auto` says how, too.
    """

    def __call__(
        self, model: Model, task: Task, metric: Metric, sizes: Sequence[int], *, seed: int
    ) -> Found:
        """Scores of all edges, or as many circuits as there are sizes."""
        ...


@dataclass(frozen=True)
class Contender:
    """A way to find circuits; what hangs on its seed is averaged over `draws` of them."""

    name: str
    find: Finder
    source: str
    draws: int = 1


def contenders() -> dict[str, Contender]:
    """Those of the table in the docs, by name."""
    rows = [
        *(Contender(name, _scorer(row.function), row.source) for name, row in METHODS.items()),
        *(_combination(rule, path) for rule, path in COMBINATIONS),
        _grown("eap-ig"),
        *searches(),
        Contender(RANDOM, random_scores, "chance", draws=5),
    ]
    return {row.name: row for row in rows}


def searches() -> list[Contender]:
    """What is searched for, not scored."""
    return [
        Contender("acdc", _acdc, "Conmy et al. 2023, arXiv:2304.14997"),
        Contender("eap-ig, program", _program, "Nikankin et al. 2025, arXiv:2510.25786"),
        Contender("screen-flag-fix", _fixed, "Zhang & Wang 2026, arXiv:2606.09899"),
        Contender("budgeted", _budgeted, "this project"),
        Contender("auto", _auto, "this project"),
    ]


def learned() -> dict[str, Contender]:
    """What is trained: minutes for each subject, so left out unless asked for."""
    rows = [
        Contender("edge-pruning", _learned(edge_pruning), "Bhaskar et al. 2024, arXiv:2406.16778"),
        Contender("ugs", _learned(uniform_sampling), "Li & Janson 2024, arXiv:2409.09951"),
        Contender("hybrid", _hybrid, "Mondorf et al. 2025, arXiv:2510.06811"),
    ]
    return {row.name: row for row in rows}


COMBINATIONS = (
    ("relp", "inputs"),
    ("relp", "clean-corrupt"),
    ("gim", "inputs"),
    ("attn-lrp", "clean"),
)
"""Rules on paths that are no method of their own."""


def combinations() -> dict[str, Contender]:
    """Every backward rule on every path."""
    rows = [_combination(rule, path) for rule in RULES for path in PATHS]
    return {row.name: row for row in rows}


def random_scores(
    model: Model, task: Task, metric: Metric, sizes: Sequence[int], *, seed: int
) -> Scores:
    """Scores that know nothing: chance, and another for every task and seed."""
    generator = torch.Generator().manual_seed(seed + 1000 * int(task.hash[:6], 16))
    exists = model.graph.exists
    drawn = torch.randn(exists.shape, generator=generator, dtype=torch.float64)
    return Scores(drawn * exists, model.graph, {"method": RANDOM, "seed": seed})


def _scorer(function: Callable[..., Scores]) -> Finder:
    def find(
        model: Model, task: Task, metric: Metric, sizes: Sequence[int], *, seed: int
    ) -> Scores:
        return function(model, task, metric)

    return find


def _combination(rule: str, path: str) -> Contender:
    def find(
        model: Model, task: Task, metric: Metric, sizes: Sequence[int], *, seed: int
    ) -> Scores:
        return score(model, task, metric, Recipe(PATHS[path](), RULES[rule]))

    return Contender(f"{rule} x {path}", find, "rule x path")


def _grown(name: str) -> Contender:
    """Circuits grown from the logits by a method's scores: all their edges are connected."""
    method = METHODS[name]

    def find(
        model: Model, task: Task, metric: Metric, sizes: Sequence[int], *, seed: int
    ) -> list[Circuit]:
        scores = method.function(model, task, metric)
        return [greedy(scores, n, ranking="absolute", prune=True) for n in sizes]

    return Contender(f"{name}, greedy", find, method.source)


THRESHOLDS = (0.001, 0.003, 0.01, 0.03, 0.1)
"""Of ACDC's sweep, in shares of the metric's clean-corrupt gap."""


def _acdc(model: Model, task: Task, metric: Metric, sizes: Sequence[int], *, seed: int) -> Scores:
    """The largest threshold that each edge survives, by absolute change of the task's metric."""
    full, empty = Circuit.full(model.graph), Circuit.empty(model.graph)
    found = evaluate(model, task, [full, empty], metric)
    gap = abs(float(found.clean.mean() - found.corrupt.mean()))
    thresholds = [gap * share for share in THRESHOLDS]
    return acdc_sweep(model, task, metric, thresholds, walk=Walk(change="absolute")).scores


def _program(
    model: Model, task: Task, metric: Metric, sizes: Sequence[int], *, seed: int
) -> list[Circuit]:
    scores = eap_ig(model, task, metric)
    return [program(scores, n, ranking="absolute", exactly=False) for n in sizes]


def _fixed(model: Model, task: Task, metric: Metric, sizes: Sequence[int], *, seed: int) -> Scores:
    """A tenth of the edges patched exactly."""
    return screen_flag_fix(model, task, metric, n=model.graph.n_edges // 10)


def _hybrid(model: Model, task: Task, metric: Metric, sizes: Sequence[int], *, seed: int) -> Scores:
    """EAP and EAP-IG together, and masks that start from them."""
    return hybrid(model, task, metric, size=sorted(sizes)[len(sizes) // 2]).scores


def _auto(model: Model, task: Task, metric: Metric, sizes: Sequence[int], *, seed: int) -> Auto:
    """The cheap way whose circuits of the middle size are nearest on prompts not seen."""
    middle = sorted(sizes)[len(sizes) // 2]
    return auto(model, task, metric, Goal("absolute"), size=middle)


def _learned(learn: Callable[..., Learned]) -> Finder:
    """Masks trained once, for the middle size; they choose the circuits of other sizes too."""

    def find(
        model: Model, task: Task, metric: Metric, sizes: Sequence[int], *, seed: int
    ) -> list[Circuit]:
        found = learn(model, task, metric, size=sorted(sizes)[len(sizes) // 2])
        return [found.circuit(n) for n in sizes]

    return find


def _budgeted(
    model: Model, task: Task, metric: Metric, sizes: Sequence[int], *, seed: int
) -> list[Circuit]:
    """From the best of three cheap methods, with the same runs for every size."""
    starts = [cheap(model, task, metric) for cheap in (eap_ig, clean_corrupt, gim)]
    with tempfile.TemporaryDirectory() as folder:
        budget = Budget(log=File(folder) / "runs.jsonl")
        return [budgeted_search(model, task, metric, starts, size=n, budget=budget) for n in sizes]
