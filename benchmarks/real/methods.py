"""Every cheap method on a split of a task: what its circuits keep, and what it took."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch

from benchmarks.memory import in_use, peak_in_use, reset_peak
from benchmarks.real.facts import Fact, estimated, kept
from benchmarks.real.subjects import Subject
from circuits.choosing import auto
from circuits.choosing.automatic import RECIPES
from circuits.circuit import Circuit
from circuits.judging.areas import Axis, area, linear, logarithmic
from circuits.judging.faithfulness import MIB_SHARES
from circuits.judging.smallest import Goal
from circuits.running.evaluation import Evaluation
from circuits.running.trial import Trial, prepare
from circuits.running.trial import run as run_circuits
from circuits.scores import Ranking, Scores, load_scores, merge
from circuits.scoring import Recipe, at_clean, score
from circuits.select import top_n
from patching.intervals import Estimate, interval, ratio_of_means
from patching.model import Model
from patching.rules import gim, plain, relp
from patching.work import Run

SIZE = 0.01
"""The share of the edges that `auto` compares circuits at."""

SHARES = (0.001, 0.003, 0.01, 0.03, 0.1)
"""Of the edges, whose faithfulness is told."""

RULES = {"eap": plain, "relp": relp, "gim": gim}
METHODS = (*RULES, *RECIPES, "auto")
"""`auto` comes last: it takes from the folder what its recipes have scored."""

MEGABYTE = 10**6


@dataclass(frozen=True)
class Scored:
    """Scores of all edges; plain passes by count, seconds of the processor, and peak memory."""

    scores: Scores
    passes: float
    seconds: float
    megabytes: float


def measure(model: Model, subject: Subject, folder: Path) -> Iterator[Fact]:
    """All methods on one split; a file for each, not measured again."""
    seconds: dict[str, float] = {}
    for method in METHODS:
        words = f"{subject.slug}-{subject.split}-{method.replace(' ', '-')}"
        file = folder / f"{words}-{subject.found.hash[:8]}.csv"
        earlier = sum(seconds.get(name, 0.0) for name in RECIPES) if method == "auto" else 0.0
        facts = kept(file, partial(_measure, model, subject, method, folder, earlier))
        seconds[method] = sum(fact.value for fact in facts if fact.name == "seconds")
        yield from facts


def _measure(
    model: Model, subject: Subject, method: str, folder: Path, earlier: float
) -> list[Fact]:
    place = partial(Fact, "method", subject.name, method, subject.split)
    found = _watched(partial(_score, model, subject, method, folder))
    if method == "auto":
        found.scores.save(file_of(folder, subject))
    return [
        place("passes", found.passes),
        place("seconds", found.seconds + earlier),
        place("megabytes", found.megabytes),
        place("kept", said=_kept_by(found.scores)),
        *(
            estimated(place(name), value)
            for name, value in judge(trial_of(model, subject), found.scores).items()
        ),
    ]


def file_of(folder: Path, subject: Subject) -> Path:
    """Where the scores of `auto` lie."""
    return folder / "scored" / f"{subject.slug}-{subject.split}.safetensors"


def scores_of(folder: Path, subject: Subject) -> Scores:
    """The scores of `auto`, made by `measure` before."""
    return load_scores(file_of(folder, subject))


def trial_of(model: Model, subject: Subject) -> Trial:
    """Where circuits are judged."""
    return prepare(model, subject.judged, subject.metric)


def _score(model: Model, subject: Subject, method: str, folder: Path) -> tuple[Scores, float]:
    """Scores and passes: a forward and a backward pass are one, a forward a third of it."""
    if method in RULES:
        recipe = Recipe(at_clean, RULES[method])
        return score(model, subject.found, subject.metric, recipe, method=method), 4 / 3
    work = Run(folder / "scored" / f"{subject.slug}-{subject.split}")
    if method == "auto":
        n, goal = round(SIZE * model.graph.n_edges), Goal("absolute")
        found = auto(model, subject.found, subject.metric, goal, size=n, run=work)
        return found.scores, found.units
    recipe = RECIPES[method]
    halves = [  # as `auto` scores them, which finds them done
        score(model, half, subject.metric, recipe, method=method, run=work)
        for half in subject.found.split(0.5, seed=0)
    ]
    steps = recipe.path.options["steps"]
    return merge(*halves), int(str(steps)) + 2 / 3


def _watched(job: Callable[[], tuple[Scores, float]]) -> Scored:
    reset_peak()
    before, start = in_use(), time.process_time()
    scores, passes = job()
    seconds = time.process_time() - start
    return Scored(scores, passes, seconds, (peak_in_use() - before) / MEGABYTE)


def _kept_by(scores: Scores) -> str:
    options = scores.provenance.get("options")
    return str(options.get("kept", "")) if isinstance(options, dict) else ""


def judge(trial: Trial, scores: Scores) -> dict[str, Estimate]:
    """Faithfulness by absolute score, CMD on two axes, CPR; all circuits of one call, pruned."""
    shares = sorted({*MIB_SHARES, *SHARES})
    circuits = [_circuit(scores, share, "absolute") for share in shares]
    circuits += [_circuit(scores, share, "signed") for share in MIB_SHARES]
    found = run_circuits(trial, circuits)
    n = len(shares)
    of_mib = [shares.index(share) for share in MIB_SHARES]
    told = {f"{share:.1%}": _kept(found, shares.index(share)) for share in SHARES}
    by_size, signed = _rows(found, of_mib), _rows(found, list(range(n, len(circuits))))
    return told | {
        "log CMD": _area(by_size, logarithmic, 1.0),
        "CMD": _area(by_size, linear, 1.0),
        "CPR": _area(signed, linear, 0.0),
    }


def _circuit(scores: Scores, share: float, ranking: Ranking) -> Circuit:
    return top_n(scores, int(share * scores.graph.n_edges), ranking=ranking, prune=True)


def _rows(found: Evaluation, rows: list[int]) -> Evaluation:
    return Evaluation(found.values[rows], found.clean, found.corrupt)


def _kept(found: Evaluation, row: int) -> Estimate:
    return _area(_rows(found, [row]), None, 0.0)


def _area(found: Evaluation, axis: Axis | None, away_from: float) -> Estimate:
    """The area of |faithfulness - 1|, or of faithfulness itself; of one circuit, its height."""
    one = torch.ones(1, dtype=torch.float64)
    parts = torch.eye(len(found.values), dtype=torch.float64)
    weights = one if axis is None else torch.tensor([area(MIB_SHARES, p, axis) for p in parts])

    def under(
        values: np.ndarray, clean: np.ndarray, corrupt: np.ndarray, axis: int = -1
    ) -> np.ndarray:
        kept = ratio_of_means(values, clean, corrupt, axis)
        height = abs(kept - away_from) if away_from else kept
        return np.tensordot(weights.numpy(), height, axes=1)

    runs = found.values, found.clean, found.corrupt
    low, high = interval(under, *runs, n=1000, seed=0)
    value = under(*(run.numpy() for run in runs))
    return Estimate(float(value), float(low), float(high))
