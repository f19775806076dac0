"""Nodes, rivals and searches: what is dear, and so measured on a first split alone."""

import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from benchmarks.real.facts import Fact, estimated, kept
from benchmarks.real.methods import SIZE, scores_of, trial_of
from benchmarks.real.subjects import Subject
from circuits.circuit import Circuit
from circuits.judging import rivals as rival
from circuits.learning import edge_pruning, uniform_sampling
from circuits.running.evaluation import Evaluation
from circuits.running.trial import prepare
from circuits.running.trial import run as run_circuits
from circuits.scores import Scores
from circuits.scoring import Recipe, along_inputs, eap_ig, score, scores_within
from circuits.search import Budget, budgeted_search
from circuits.select import require_rows
from patching.comparing import which_to_trust
from patching.descent import Schedule
from patching.intervals import Estimate, interval, ratio_of_means
from patching.metrics import kl
from patching.model import Model
from patching.rules import gim, relp

N_NODES = 2
"""Prompts on which nodes are patched exactly."""

SEARCHED = ("facts",)
"""Tasks that circuits are searched and learned on: the shortest prompts."""

RUNS, STEPS = 200, 100
"""Circuits that a budgeted search runs, steps of training."""

WITH_RIVALS = ("ioi",)
GOALS, N_RIVALS, OVERLAP = (0.8, 0.65), 6, 0.0999


def nodes(model: Model, subject: Subject, folder: Path) -> list[Fact]:
    """Pearson's r with exact patching, by kind of activation and estimate (denoising)."""
    return kept(folder / f"nodes-{subject.slug}.csv", partial(_nodes, model, subject))


def _nodes(model: Model, subject: Subject) -> list[Fact]:
    task = subject.judged.of_length().take(N_NODES)
    place = partial(Fact, "nodes", subject.name)
    try:
        table = which_to_trust(model, task, subject.metric).table
    except ValueError as error:
        return [place("", 0, "refused", said=str(error))]
    kinds, rules, r = map(str, table.index), [*map(str, table.columns)], table.to_numpy(float)
    return [
        place(kind, 0, rule, float(r[i, j]))
        for i, kind in enumerate(kinds)
        for j, rule in enumerate(rules)
    ]


def rivals(model: Model, subject: Subject, folder: Path) -> list[Fact]:
    """Circuits that keep as much and share hardly an edge, judged on other prompts."""
    if subject.name not in WITH_RIVALS:
        return []
    facts: list[Fact] = []
    for goal in GOALS:
        file = folder / f"rivals-{subject.slug}-{goal}.csv"
        facts += kept(file, partial(_rivals, model, subject, folder, goal))
    return facts


def _rivals(model: Model, subject: Subject, folder: Path, goal: float) -> list[Fact]:
    start = time.process_time()
    trial = prepare(model, subject.found, subject.metric)
    found = rival.rivals(
        trial,
        _sizes(scores_of(folder, subject)),
        goal,
        ranking="absolute",
        n=N_RIVALS,
        overlap=OVERLAP,
        rescore=lambda left: scores_within(model, subject.found, subject.metric, left),
    )
    seconds = time.process_time() - start
    held_out = faithfulness(run_circuits(trial_of(model, subject), found.circuits))
    others = found.overlap - torch.eye(len(found.circuits), dtype=found.overlap.dtype)
    union = torch.stack([circuit.mask for circuit in found.circuits]).any(dim=0)
    rest = Circuit(model.graph.exists & ~union, model.graph)
    place = partial(Fact, "rivals", f"{subject.name}, {goal:.0%}")
    facts = [
        place("search", 0, "circuits run", found.tried),
        place("search", 0, "seconds", seconds),
        place("search", 0, "ended", said=found.sentence),
        estimated(place("search", 0, "without"), faithfulness(run_circuits(trial, [rest]))[0]),
    ]
    for i, circuit in enumerate(found.circuits):
        one = partial(place, str(i + 1), 0)
        facts += [
            one("edges", circuit.size),
            one("largest overlap", float(others[i].max())),
            estimated(one("search prompts"), found.faithfulness[i]),
            estimated(one("held out"), held_out[i]),
        ]
    return facts


def _sizes(scores: Scores) -> Scores:
    """The mean over prompts of the sizes of scores, as scores."""
    matrix = torch.zeros_like(scores.matrix)
    matrix[scores.graph.exists] = require_rows(scores).abs().mean(dim=0)
    return replace(scores, matrix=matrix, by_prompt=None, completeness=None)


def searches(model: Model, subject: Subject, folder: Path) -> list[Fact]:
    """Circuits of 1 % of the edges that are searched or learned, judged on other prompts."""
    if subject.name not in SEARCHED:
        return []
    facts: list[Fact] = []
    for name, find in SEARCHES.items():
        file = folder / f"search-{subject.slug}-{name.replace(' ', '-')}.csv"
        facts += kept(file, partial(_search, model, subject, name, find))
    return facts


Find = Callable[[Model, Subject, int], Circuit]


def _budgeted(model: Model, subject: Subject, size: int) -> Circuit:
    given = model, subject.found, subject.metric
    starts = [eap_ig(*given)]
    starts += [score(*given, Recipe(along_inputs(3), rule)) for rule in (relp, gim)]
    return budgeted_search(*given, starts, size=size, budget=Budget(RUNS))


def _pruned(model: Model, subject: Subject, size: int) -> Circuit:
    schedule = Schedule(steps=STEPS, rate=0.2)
    return edge_pruning(model, subject.found, kl, size=size, schedule=schedule).circuit()


def _sampled(model: Model, subject: Subject, size: int) -> Circuit:
    schedule = Schedule(steps=STEPS, rate=0.1)
    return uniform_sampling(model, subject.found, kl, size=size, schedule=schedule).circuit()


SEARCHES: dict[str, Find] = {"budgeted": _budgeted, "edge-pruning": _pruned, "ugs": _sampled}


def _search(model: Model, subject: Subject, name: str, find: Find) -> list[Fact]:
    start = time.process_time()
    circuit = find(model, subject, round(SIZE * model.graph.n_edges))
    seconds = time.process_time() - start
    (found,) = faithfulness(run_circuits(trial_of(model, subject), [circuit]))
    place = partial(Fact, "search", subject.name, name, 0)
    return [
        estimated(place("1.0%"), found),
        place("edges", circuit.size),
        place("seconds", seconds),
    ]


def faithfulness(found: Evaluation) -> list[Estimate]:
    """What each circuit keeps, with its interval over prompts."""
    runs = found.values, found.clean, found.corrupt
    low, high = interval(ratio_of_means, *runs, n=1000, seed=0)
    values = found.faithfulness.tolist()
    return [Estimate(*row) for row in zip(values, low.tolist(), high.tolist(), strict=True)]
