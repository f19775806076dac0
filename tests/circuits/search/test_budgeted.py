"""Budgeted search against brute force, on circuits that are known, and within its budget."""

from itertools import combinations

import families
import pytest
import torch

from circuits.circuit import Circuit
from circuits.running.evaluation import evaluate
from circuits.scores import Scores
from circuits.scoring import eap, eap_ig
from circuits.search import Budget, Walk, acdc, budgeted_search
from circuits.select import greedy, top_n
from patching.ablations import zero
from patching.graph import Graph
from patching.metrics import kl, logit_diff
from patching.model import Model
from patching.models import known
from patching.tasks.task import Prompt, Task


@pytest.fixture(scope="module")
def model():
    return Model.load(families.shaken_gpt2())


@pytest.fixture(scope="module")
def task():
    return families.task(n=4, length=6)


@pytest.fixture(scope="module")
def start(model, task):
    return eap(model, task, logit_diff)


def distances(model, task, circuits, metric=logit_diff):
    found = evaluate(model, task, circuits, metric)
    gap = (found.clean - found.corrupt).mean().abs()
    return ((found.clean - found.values).abs() / gap).mean(dim=1)


def test_on_a_graph_that_can_be_enumerated_the_nearest_circuit_is_found():
    one = Model.load(families.shaken_gpt2(n_layer=1, n_head=1))
    task = families.task(n=32, length=6)
    edges = one.graph.exists.nonzero().tolist()
    circuits = []
    for some in combinations(edges, 4):
        mask = torch.zeros_like(one.graph.exists)
        mask[tuple(torch.tensor(some).T)] = True
        circuits.append(Circuit(mask, one.graph))
    nearest = float(distances(one, task, circuits).min())
    found = budgeted_search(one, task, logit_diff, [eap(one, task, logit_diff)], size=4)
    assert float(distances(one, task, [found])[0]) == pytest.approx(nearest, abs=1e-12)


@pytest.mark.parametrize("name", ["induction", "induction-noise", "copy", "comparison"])
def test_a_known_circuit_is_found_from_plain_eap(name):
    on = known(f"truth/{name}", n=12)
    model, size = Model.load(f"truth/{name}"), len(on.active)
    start = eap(model, on.task, logit_diff)
    found = budgeted_search(model, on.task, logit_diff, [start], size=size)
    assert {f"{source}->{dest}" for source, dest in found.edges} == on.active


@pytest.mark.parametrize("size", [3, 8, 16])
def test_it_is_never_worse_than_what_it_starts_from(model, task, start, size):
    starts = [start, eap_ig(model, task, logit_diff)]
    cheap = [
        select(scores, size, ranking=ranking)
        for scores in starts
        for select in (top_n, greedy)
        for ranking in ("absolute", "signed")
    ]
    found = budgeted_search(model, task, logit_diff, starts, size=size)
    best = float(distances(model, task, cheap).min())
    assert found.size <= size
    # Distances come from other batches than the search's: rounding.
    assert float(distances(model, task, [found])[0]) <= best + 1e-12


@pytest.mark.parametrize("budget", [24, 40, 100])
def test_the_budget_is_kept(model, task, start, budget):
    found = budgeted_search(model, task, logit_diff, [start], size=10, budget=Budget(budget))
    assert found.provenance["runs"]["circuits"] <= budget


def test_more_budget_is_never_worse_here(model, task, start):
    found = [
        budgeted_search(model, task, logit_diff, [start], size=10, budget=Budget(budget))
        for budget in (24, 400)
    ]
    few, many = distances(model, task, found).tolist()
    assert many <= few + 1e-12


def test_the_steps_tell_how_near_the_circuit_came(model, task, start):
    found = budgeted_search(model, task, logit_diff, [start], size=10)
    steps = found.provenance["steps"]
    assert [step["what"] for step in steps[:2]] == ["cheap scores alone", "edges dropped"]
    assert {step["what"] for step in steps[2:]} <= {"edges swapped"}
    assert all(step["low"] > 0 for step in steps[2:])
    nearest = min(step["distance"] for step in steps)
    assert nearest == pytest.approx(float(distances(model, task, [found])[0]), abs=1e-12)


def test_searches_share_a_log_and_go_on_from_it(model, task, start, tmp_path):
    log = tmp_path / "runs.jsonl"
    acdc(model, task, logit_diff, threshold=0.1, walk=Walk(log=log))
    before = log.read_bytes()
    kept = budgeted_search(model, task, logit_diff, [start], size=10, budget=Budget(log=log))
    assert log.read_bytes().startswith(before) and len(log.read_bytes()) > len(before)
    after = log.read_bytes()
    again = budgeted_search(model, task, logit_diff, [start], size=10, budget=Budget(log=log))
    plain = budgeted_search(model, task, logit_diff, [start], size=10)
    assert log.read_bytes() == after
    assert kept == again == plain
    assert kept.provenance["runs"] == again.provenance["runs"] == plain.provenance["runs"]


def test_a_log_that_was_altered_is_refused(model, task, start, tmp_path):
    log = tmp_path / "runs.jsonl"
    budgeted_search(model, task, logit_diff, [start], size=3, budget=Budget(24, log))
    lines = log.read_text().splitlines(keepends=True)
    log.write_text(lines[0] + lines[1].replace("A", "B", 1) + "".join(lines[2:]))
    with pytest.raises(ValueError, match="was altered, at the circuit"):
        budgeted_search(model, task, logit_diff, [start], size=3, budget=Budget(24, log))


def test_the_metric_may_be_a_divergence(model, task, start):
    found = budgeted_search(model, task, kl, [start], size=10)
    top = top_n(start, 10, ranking="absolute")
    mine, theirs = distances(model, task, [found, top], kl).tolist()
    assert mine <= theirs


def test_under_zero_ablation_edges_out_of_idle_nodes_count(model, task, start):
    found = budgeted_search(model, task, logit_diff, [start], size=10, ablation=zero)
    assert found.provenance["selection"]["pruned"] is False
    assert found.size == 10


def test_wrong_use_is_refused(model, task, start):
    other = Graph(n_layers=1, n_heads=1, n_kv_heads=1)
    foreign = Scores(other.exists.double(), other, {})

    def search(starts, **options):
        return budgeted_search(model, task, logit_diff, starts, **{"size": 5, **options})

    with pytest.raises(ValueError, match="no scores to start from"):
        search([])
    with pytest.raises(ValueError, match="start 1 is of another graph"):
        search([start, foreign])
    with pytest.raises(ValueError, match="cannot choose 0 edges"):
        search([start], size=0)
    with pytest.raises(ValueError, match="a budget of 23 runs is too small to compare 1"):
        search([start], budget=Budget(23))


def test_a_task_without_a_gap_is_refused(model, start):
    same = Prompt(clean=(3, 4), corrupt=(5, 4), answers=(6,), wrong_answers=(7,))
    twins = Prompt(clean=(5, 4), corrupt=(3, 4), answers=(6,), wrong_answers=(7,))
    with pytest.raises(ValueError, match="so no circuit is nearer"):
        budgeted_search(model, Task("no gap", (same, twins)), logit_diff, [start], size=5)
