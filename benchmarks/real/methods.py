"""Every cheap method on a split of a task: what its circuits keep, and what it took."""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch

from benchmarks.memory import in_use, peak_in_use, reset_peak
from benchmarks.real.facts import Fact, estimated, kept
from benchmarks.real.page import BY_SIZE, SMOOTHED
from benchmarks.real.subjects import Subject
from circuits.choosing import auto
from circuits.choosing.automatic import RECIPES, units_of
from circuits.circuit import Circuit
from circuits.judging.areas import Axis, area, linear, logarithmic
from circuits.judging.faithfulness import MIB_SHARES
from circuits.judging.resampling import resamples
from circuits.judging.smallest import Goal
from circuits.judging.stability import agreement
from circuits.running.evaluation import Evaluation
from circuits.running.trial import Trial, prepare
from circuits.running.trial import run as run_circuits
from circuits.scores import Ranking, Scores, load_scores
from circuits.scoring import Recipe, at_clean, score, score_each
from circuits.select import SELECTORS, top_n
from patching.intervals import Estimate, interval, ratio_of_means
from patching.model import Model
from patching.work import Run

SIZE = 0.01
"""The share of the edges that `auto` compares circuits at."""

SHARES = (0.001, 0.003, 0.01, 0.03, 0.1)
"""Of the edges, whose faithfulness is told."""

EAP = "eap"
AUTO = "auto"
OTHERWISE: Mapping[str, str] = {BY_SIZE: "mean-size", SMOOTHED: "smoothed-size"}
"""Selectors that are not `top_n`, by what a method's name ends on."""

METHODS = (EAP, *RECIPES, AUTO, *(f"eap-ig{ending}" for ending in OTHERWISE))
"""`auto` comes behind its recipes: it takes from the folder what they have scored."""

DRAWN = 30
"""Resamples of the scored prompts, of whose circuits any two are compared."""

MEGABYTE = 10**6


@dataclass(frozen=True)
class Scored:
    """Scores of all edges; plain passes by count, seconds of the processor, and peak memory.

    `selector` is the name of what chooses edges.
    """

    scores: Scores
    selector: str
    passes: float
    seconds: float
    megabytes: float


def measure(model: Model, subject: Subject, folder: Path) -> Iterator[Fact]:
    """Methods on one split; a file for each, not measured again."""
    seconds: dict[str, float] = {}
    for method in METHODS:
        words = f"{subject.slug}-{subject.split}-{method.replace(',', '').replace(' ', '-')}"
        file = folder / f"{words}-{subject.found.hash[:8]}.csv"
        earlier = sum(seconds.get(name, 0.0) for name in RECIPES) if method == AUTO else 0.0
        facts = kept(file, partial(_measure, model, subject, method, folder, earlier))
        seconds[method] = sum(fact.value for fact in facts if fact.name == "seconds")
        yield from facts


def _measure(
    model: Model, subject: Subject, method: str, folder: Path, earlier: float
) -> list[Fact]:
    place = partial(Fact, "method", subject.name, method, subject.split)
    found = _watched(partial(_score, model, subject, method, folder))
    if method == AUTO:
        found.scores.save(file_of(folder, subject))
    return [
        place("passes", found.passes),
        place("seconds", found.seconds + earlier),
        place("megabytes", found.megabytes),
        place("kept", said=_kept_by(found.scores)),
        *(place(f"shared, {way}", share) for way, share in _shared(found).items()),
        *(
            estimated(place(name), value)
            for name, value in judge(trial_of(model, subject), found).items()
        ),
    ]


def file_of(folder: Path, subject: Subject) -> Path:
    """Where the scores of `auto` lie, with what each prompt alone scores."""
    return folder / "scored" / f"{subject.slug}-{subject.split}.safetensors"


def scores_of(folder: Path, subject: Subject) -> Scores:
    """The scores of `auto`, with what each prompt alone scores."""
    return load_scores(file_of(folder, subject))


def selector_of(scores: Scores) -> str:
    """The name of the selector that `auto` kept with its scores."""
    options = scores.provenance.get("options")
    return str(options["selector"]) if isinstance(options, dict) else "top-n"


def trial_of(model: Model, subject: Subject) -> Trial:
    """Where circuits are judged."""
    return prepare(model, subject.judged, subject.metric)


def _score(model: Model, subject: Subject, method: str, folder: Path) -> tuple[Scores, str, float]:
    """Scores, selector and passes: a forward and a backward are one, a forward a third of it."""
    given = model, subject.found, subject.metric
    if method == EAP:
        recipe = Recipe(at_clean)
        return score(*given, recipe, method=method), "top-n", units_of(recipe)
    work = Run(folder / "scored" / f"{subject.slug}-{subject.split}")
    if method == AUTO:
        found = auto(*given, Goal("absolute"), size=round(SIZE * model.graph.n_edges), run=work)
        return found.scores, found.kept.selector, found.units
    name, selector = method, "top-n"
    for ending, other in OTHERWISE.items():
        if method.endswith(ending):
            name, selector = method.removesuffix(ending), other
    recipe = RECIPES[name]  # as `auto` scores it, which finds it done
    return score_each(*given, recipe, method=name, run=work), selector, units_of(recipe)


def _watched(job: Callable[[], tuple[Scores, str, float]]) -> Scored:
    reset_peak()
    before, start = in_use(), time.process_time()
    scores, selector, passes = job()
    seconds = time.process_time() - start
    return Scored(scores, selector, passes, seconds, (peak_in_use() - before) / MEGABYTE)


def _kept_by(scores: Scores) -> str:
    options = scores.provenance.get("options")
    if not isinstance(options, dict) or "kept" not in options:
        return ""
    return f"{options['kept']} by {options['selector']}"


def judge(trial: Trial, found: Scored) -> dict[str, Estimate]:
    """Faithfulness by absolute score, CMD on two axes, CPR; all circuits of one call, pruned."""
    scores, choose = found.scores, SELECTORS[found.selector]
    shares = sorted({*MIB_SHARES, *SHARES})
    signed = MIB_SHARES if choose is top_n else ()
    circuits = [_circuit(choose, scores, share, "absolute") for share in shares]
    circuits += [_circuit(top_n, scores, share, "signed") for share in signed]
    runs = run_circuits(trial, circuits)
    n = len(shares)
    of_mib = [shares.index(share) for share in MIB_SHARES]
    told = {f"{share:.1%}": _kept(runs, shares.index(share)) for share in SHARES}
    sizes = _rows(runs, of_mib)
    told |= {"log CMD": _area(sizes, logarithmic, 1.0), "CMD": _area(sizes, linear, 1.0)}
    if signed:
        told["CPR"] = _area(_rows(runs, list(range(n, len(circuits)))), linear, 0.0)
    return told


def _shared(found: Scored) -> dict[str, float]:
    """Jaccard index of circuits of two resamples of the scored prompts, by how they are chosen."""
    scores = found.scores
    if scores.by_prompt is None:
        return {}
    choose, n = SELECTORS[found.selector], round(SIZE * scores.graph.n_edges)
    drawn = [choose(one, n, ranking="absolute") for one in resamples(scores, DRAWN, 0)]
    return {found.selector: float(agreement(drawn).mean)}


def _circuit(
    choose: Callable[..., Circuit], scores: Scores, share: float, ranking: Ranking
) -> Circuit:
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
