"""Every cheap method on a split of a task: what its circuits keep, and what it took."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch

from benchmarks.memory import in_use, peak_in_use, reset_peak
from benchmarks.real.facts import Fact, estimated, kept
from benchmarks.real.page import BY_SIZE
from benchmarks.real.subjects import Subject
from circuits.choosing import auto
from circuits.choosing.automatic import RECIPES
from circuits.circuit import Circuit
from circuits.judging.areas import Axis, area, linear, logarithmic
from circuits.judging.faithfulness import MIB_SHARES
from circuits.judging.resampling import resamples
from circuits.judging.smallest import Goal, Selector
from circuits.judging.stability import agreement
from circuits.running.evaluation import Evaluation
from circuits.running.trial import Trial, prepare
from circuits.running.trial import run as run_circuits
from circuits.scores import Ranking, Scores, load_scores, merge
from circuits.scoring import Recipe, at_clean, score, score_each
from circuits.select import by_mean_size, top_n
from patching.intervals import Estimate, interval, ratio_of_means
from patching.model import Model
from patching.rules import gim, plain, relp
from patching.work import Run

SIZE = 0.01
"""The share of the edges that `auto` compares circuits at."""

SHARES = (0.001, 0.003, 0.01, 0.03, 0.1)
"""Of the edges, whose faithfulness is told."""

RULES = {"eap": plain, "relp": relp, "gim": gim}
METHODS = (*RULES, *RECIPES, "auto", f"eap-ig{BY_SIZE}")
"""`auto` comes behind its recipes: it takes from the folder what they have scored."""

DEAR = (f"auto{BY_SIZE}",)
"""On first splits alone."""

DRAWN = 30
"""Resamples of the scored prompts, of whose circuits any two are compared."""

MEGABYTE = 10**6


@dataclass(frozen=True)
class Scored:
    """Scores of all edges; plain passes by count, seconds of the processor, and peak memory."""

    scores: Scores
    passes: float
    seconds: float
    megabytes: float


def measure_dear(model: Model, subject: Subject, folder: Path) -> list[Fact]:
    """Those that are measured on first splits alone."""
    return list(measure(model, subject, folder, DEAR))


def measure(
    model: Model, subject: Subject, folder: Path, methods: Sequence[str] | None = None
) -> Iterator[Fact]:
    """Methods on one split; a file for each, not measured again."""
    seconds: dict[str, float] = {}
    for method in methods or METHODS:
        words = f"{subject.slug}-{subject.split}-{method.replace(',', '').replace(' ', '-')}"
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
    if method in DEAR:
        found.scores.save(file_of(folder, subject))
    return [
        place("passes", found.passes),
        place("seconds", found.seconds + earlier),
        place("megabytes", found.megabytes),
        place("kept", said=_kept_by(found.scores)),
        *(place(f"shared, {way}", share) for way, share in _shared(found.scores).items()),
        *(
            estimated(place(name), value)
            for name, value in judge(trial_of(model, subject), found.scores).items()
        ),
    ]


def file_of(folder: Path, subject: Subject) -> Path:
    """Where the scores of `auto` lie, with what each prompt alone scores."""
    return folder / "scored" / f"{subject.slug}-{subject.split}.safetensors"


def scores_of(folder: Path, subject: Subject) -> Scores:
    """The scores of `auto`, by size, made by `measure_dear` before."""
    return load_scores(file_of(folder, subject))


def trial_of(model: Model, subject: Subject) -> Trial:
    """Where circuits are judged."""
    return prepare(model, subject.judged, subject.metric)


def _score(model: Model, subject: Subject, method: str, folder: Path) -> tuple[Scores, float]:
    """Scores and passes: a forward and a backward pass are one, a forward a third of it."""
    if method in RULES:
        recipe = Recipe(at_clean, RULES[method])
        return score(model, subject.found, subject.metric, recipe, method=method), 4 / 3
    by_size, method = method.endswith(BY_SIZE), method.removesuffix(BY_SIZE)
    work = Run(folder / "scored" / f"{subject.slug}-{subject.split}")
    if method == "auto":
        n = round(SIZE * model.graph.n_edges)
        goal = Goal("absolute", select=by_mean_size if by_size else top_n)
        given = model, subject.found, subject.metric, goal
        found = auto(*given, size=n, by_prompt=by_size, run=None if by_size else work)
        return found.scores, found.units
    recipe = RECIPES[method]
    if by_size:
        scores = score_each(model, subject.found, subject.metric, recipe, method=method)
        return scores, _passes(recipe)
    halves = [  # as `auto` scores them, which finds them done
        score(model, half, subject.metric, recipe, method=method, run=work)
        for half in subject.found.split(0.5, seed=0)
    ]
    return merge(*halves), _passes(recipe)


def _passes(recipe: Recipe) -> float:
    return int(str(recipe.path.options["steps"])) + 2 / 3


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
    by_size = scores.by_prompt is not None
    choose = by_mean_size if by_size else top_n
    circuits = [_circuit(choose, scores, share, "absolute") for share in shares]
    circuits += [_circuit(top_n, scores, share, "signed") for share in MIB_SHARES if not by_size]
    found = run_circuits(trial, circuits)
    n = len(shares)
    of_mib = [shares.index(share) for share in MIB_SHARES]
    told = {f"{share:.1%}": _kept(found, shares.index(share)) for share in SHARES}
    sizes = _rows(found, of_mib)
    told |= {"log CMD": _area(sizes, logarithmic, 1.0), "CMD": _area(sizes, linear, 1.0)}
    if not by_size:
        told["CPR"] = _area(_rows(found, list(range(n, len(circuits)))), linear, 0.0)
    return told


def _shared(scores: Scores) -> dict[str, float]:
    """Jaccard index of circuits of two resamples of the scored prompts, by how they are chosen."""
    if scores.by_prompt is None:
        return {}
    n, drawn = round(SIZE * scores.graph.n_edges), list(resamples(scores, DRAWN, 0))
    ways: dict[str, Selector] = {"by mean": top_n, "by size": by_mean_size}
    return {
        name: float(agreement([way(one, n, ranking="absolute", prune=False) for one in drawn]).mean)
        for name, way in ways.items()
    }


def _circuit(choose: Selector, scores: Scores, share: float, ranking: Ranking) -> Circuit:
    return choose(scores, int(share * scores.graph.n_edges), ranking=ranking, prune=True)


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

    low, high = interval(under, found.values, found.clean, found.corrupt, n=1000, seed=0)
    value = under(found.values.numpy(), found.clean.numpy(), found.corrupt.numpy())
    return Estimate(float(value), float(low), float(high))
