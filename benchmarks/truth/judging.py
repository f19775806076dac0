"""One method on one subject: what it finds, what that is worth, and what it costs."""

import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import TypeVar

import numpy as np

from benchmarks.truth.cells import SHARES, Cell, mean_cell
from benchmarks.truth.contenders import Contender, Found
from benchmarks.truth.subjects import Place
from circuits.choosing import Auto
from circuits.circuit import Circuit
from circuits.judging.areas import cmd, cpr
from circuits.judging.faithfulness import Sweep, curve
from circuits.judging.recovery import recovery
from circuits.judging.smallest import Selector
from circuits.running.evaluation import evaluate
from circuits.scores import Scores
from circuits.select import top_n
from patching.intervals import Estimate, interval, ratio_of_means
from patching.metrics import logit_diff

ENOUGH = 0.5
"""Seconds after which a method is not timed again."""

Numbers = dict[str, float | None]
T = TypeVar("T")


def judge(contender: Contender, place: Place, *, rounds: int) -> Cell:
    """All measures of a method on a subject, the mean over its draws; each timed in rounds."""
    seeds = range(contender.draws)
    return mean_cell([_judge(contender, place, seed, rounds) for seed in seeds])


def timed(job: Callable[[], T], unit: Callable[[], object], rounds: int) -> tuple[T, float]:
    """What a job gives, and what it costs: the median over rounds of its time in units.

    Processor time, which other work on the machine does not lengthen; each round times the unit
    thrice beside the job.
    """
    unit()
    ratios, begun = [], time.process_time()
    while True:
        one = statistics.median(_seconds(unit)[1] for _ in range(3))
        found, seconds = _seconds(job)
        ratios.append(seconds / one)
        if len(ratios) == rounds or time.process_time() - begun > ENOUGH:
            return found, statistics.median(ratios)


def recovered(circuit: Circuit, active: Circuit) -> float:
    """The share of the active edges that are found; of the circuit, if that has more edges."""
    return (circuit & active).size / max(circuit.size, active.size)


def _judge(contender: Contender, place: Place, seed: int, rounds: int) -> Cell:
    sizes = _sizes(place)
    job = partial(contender.find, place.model, place.found, logit_diff, sizes, seed=seed)
    found, cost = timed(job, place.unit, rounds)
    if not isinstance(found, Scores | Auto):
        check_sizes(contender.name, found, sizes)
    subject = place.subject
    cell = Cell(subject.model, subject.task, contender.name, place.identity, cost=cost)
    numbers = _known(found, place.active) if place.active else _trained(found, place)
    return replace(cell, **numbers)


def check_sizes(name: str, circuits: Sequence[Circuit], sizes: Sequence[int]) -> None:
    """Check that circuits are as many as asked for, and none too large.

    Raises:
        ValueError: if they are not.
    """
    got = [circuit.size for circuit in circuits]
    if len(got) != len(sizes) or any(n > most for n, most in zip(got, sizes, strict=True)):
        raise ValueError(f"{name} gave circuits of {got} edges; {list(sizes)} are the most")


def _sizes(place: Place) -> tuple[int, ...]:
    if place.active:
        return (place.active.size,)
    return tuple(int(share * place.model.graph.n_edges) for share in SHARES)


def _known(found: Found, active: Circuit) -> Numbers:
    if not isinstance(found, Scores | Auto):
        return {"recovered": recovered(found[0], active)}
    scores, select = _chosen(found)
    areas = recovery(scores, active, ranking="absolute")
    best = select(scores, active.size, ranking="absolute", prune=False)
    return {"auroc": areas.auroc, "auprc": areas.auprc, "recovered": recovered(best, active)}


def _trained(found: Found, place: Place) -> Numbers:
    if not isinstance(found, Scores | Auto):
        return _searched(found, place)
    scores, select = _chosen(found)
    assert place.held_out is not None, "trained models have two sets of prompts"
    sweeps = (
        Sweep("absolute", n_random=0, select=select),
        Sweep("signed", n_random=0, n_bootstrap=0),
    )
    by_size, signed = (
        curve(place.model, place.held_out, scores, logit_diff, sweep) for sweep in sweeps
    )
    points = {point.share: point for point in by_size.points}
    kept = [points[share] for share in SHARES]
    return {
        "cmd": cmd(by_size).value,
        "cpr": cpr(signed).value,
        "pearson": _pearson(scores, place.exact),
        **_kept([Estimate(point.faithfulness, point.low, point.high) for point in kept]),
    }


def _chosen(found: Scores | Auto) -> tuple[Scores, Selector]:
    return (found.scores, found.goal.select) if isinstance(found, Auto) else (found, top_n)


def _searched(circuits: Sequence[Circuit], place: Place) -> Numbers:
    assert place.held_out is not None, "trained models have two sets of prompts"
    runs = evaluate(place.model, place.held_out, circuits, logit_diff)
    values = runs.values, runs.clean, runs.corrupt
    ends = interval(ratio_of_means, *values, n=1000, seed=0)
    rows = zip(runs.faithfulness.tolist(), *(end.tolist() for end in ends), strict=True)
    return _kept([Estimate(*row) for row in rows])


def _kept(estimates: Sequence[Estimate]) -> Numbers:
    numbers: Numbers = {}
    for share, found in zip(SHARES, estimates, strict=True):
        name = f"kept_{round(100 * share)}"
        numbers |= {name: found.value, f"{name}_low": found.low, f"{name}_high": found.high}
    return numbers


def _pearson(found: Scores, exact: Scores | None) -> float | None:
    """None where there is nothing to compare with, or all scores are equal."""
    if exact is None:
        return None
    ours, true = (scores.matrix[scores.graph.exists].numpy() for scores in (found, exact))
    if not np.std(ours) > 0:
        return None
    value = float(np.corrcoef(ours, true)[0, 1])
    return value if math.isfinite(value) else None


def _seconds(job: Callable[[], T]) -> tuple[T, float]:
    start = time.process_time()
    found = job()
    return found, time.process_time() - start
