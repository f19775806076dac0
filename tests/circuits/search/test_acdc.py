"""ACDC against a twin that tries one edge at a time, and on circuits that are known."""

import families
import pytest
import torch

from circuits.circuit import Circuit
from circuits.running.evaluation import evaluate
from circuits.search import Judge, Walk, acdc, acdc_sweep
from circuits.search.acdc import order
from circuits.select import random_circuit
from patching.ablations import zero
from patching.graph import Graph
from patching.metrics import kl, logit_diff
from patching.model import Model
from patching.models import known
from patching.models.truth import library


@pytest.fixture(scope="module")
def model():
    """Two layers of two heads, with weights large enough that nothing is nearly linear."""
    return Model.load(families.shaken_gpt2())


@pytest.fixture(scope="module")
def task():
    return families.task(n=2, length=6)


def one_at_a_time(model, task, metric, threshold, walk, **options):
    """Straight from the definition, with an evaluation of its own for every edge."""

    def value(mask):
        circuit = Circuit(mask, model.graph)
        return float(evaluate(model, task, [circuit], metric, **options).values.mean())

    kept = model.graph.exists.clone()
    current = value(kept)
    for edge in order(model.graph, walk.seed):
        kept[edge] = False
        without = value(kept)
        lost = current - without
        if (abs(lost) if walk.change == "absolute" else lost) < threshold:
            current = without
        else:
            kept[edge] = True
    return Circuit(kept, model.graph)


@pytest.mark.parametrize(
    ("metric", "threshold", "walk", "options"),
    [
        (kl, 0.002, Walk(), {}),
        (logit_diff, 0.03, Walk(change="absolute", seed=1), {}),
        (logit_diff, 0.03, Walk(), {"ablation": zero}),
    ],
)
def test_decisions_are_those_of_one_edge_at_a_time(model, task, metric, threshold, walk, options):
    found = acdc(model, task, metric, threshold=threshold, walk=walk, **options)
    assert 0 < len(found) < model.graph.n_edges
    assert found == one_at_a_time(model, task, metric, threshold, walk, **options)
    runs = found.provenance["runs"]
    assert runs["circuits"] + runs["recalled"] >= runs["one_at_a_time"] == model.graph.n_edges


@pytest.mark.parametrize("seed", [0, 1])
def test_a_wrong_guess_changes_no_decision(model, task, seed):
    guess = random_circuit(model.graph, model.graph.n_edges // 2, seed=seed)
    plain, guessed = (acdc(model, task, threshold=0.01, walk=Walk(guess=g)) for g in (None, guess))
    assert plain == guessed


def test_a_right_guess_runs_each_edge_at_most_once(model, task):
    first = acdc(model, task, threshold=0.01)
    again = acdc(model, task, threshold=0.01, walk=Walk(guess=first))
    assert again == first
    assert again.provenance["runs"]["circuits"] <= model.graph.n_edges


@pytest.mark.parametrize("name", library.names())
def test_the_circuit_of_a_known_model_is_its_active_edges(name):
    model, truth = Model.load(name, dtype=torch.float64), known(name, n=4)
    found = acdc(model, truth.task, threshold=0.1)
    assert {f"{source}->{dest}" for source, dest in found.edges} == set(truth.active)


def test_a_sweep_is_a_walk_for_each_threshold_and_its_scores_say_how_far_edges_get(model, task):
    thresholds = (0.01, 0.001)
    sweep = acdc_sweep(model, task, kl, thresholds)
    assert sweep.thresholds == (0.001, 0.01)
    for threshold, circuit in zip(sweep.thresholds, sweep.circuits, strict=True):
        assert circuit == acdc(model, task, threshold=threshold)
    small, large = (circuit.mask for circuit in sweep.circuits)
    expected = torch.zeros_like(sweep.scores.matrix).masked_fill(small, 0.001)
    assert torch.equal(sweep.scores.matrix, expected.masked_fill(large, 0.01))
    assert sweep.n_not_nested == int((large & ~small).sum())
    apart = sum(c.provenance["runs"]["circuits"] for c in sweep.circuits)
    assert sweep.cost.circuits == apart


def test_scores_of_kept_edges_are_what_their_trial_lost(model, task):
    found = acdc(model, task, threshold=0.01)
    assert min(score for _, _, score in found.scored_edges()) >= 0.01


def test_a_search_that_was_stopped_goes_on_where_it_was(model, task, tmp_path, monkeypatch):
    log = tmp_path / "runs.jsonl"
    whole = acdc(model, task, threshold=0.01)
    run, left = Judge.values, 4

    def stops(self, masks):
        nonlocal left
        left -= 1
        if left == 0:
            raise KeyboardInterrupt
        return run(self, masks)

    monkeypatch.setattr(Judge, "values", stops)
    with pytest.raises(KeyboardInterrupt):
        acdc(model, task, threshold=0.01, walk=Walk(log=log))
    n_kept = len(log.read_text().splitlines()) - 1
    assert 0 < n_kept < whole.provenance["runs"]["circuits"]
    with log.open("a") as file:
        file.write('{"circuit": "cut off')  # killed while it wrote
    monkeypatch.setattr(Judge, "values", run)
    rest = acdc(model, task, threshold=0.01, walk=Walk(log=log))
    assert rest == whole
    assert torch.equal(rest.scores, whole.scores)
    again = acdc(model, task, threshold=0.01, walk=Walk(log=log))
    assert again == whole
    assert whole.provenance["runs"] == rest.provenance["runs"] == again.provenance["runs"]


def test_edges_are_tried_from_the_logits_back_and_shuffled_within_a_reader():
    graph = Graph(n_layers=2, n_heads=2, n_kv_heads=1)
    plain, shuffled = order(graph, None), order(graph, 3)
    assert [dest for _, dest in plain] == [dest for _, dest in shuffled]
    assert plain != shuffled and sorted(plain) == sorted(shuffled)
    orders = [graph.destinations[dest].order for _, dest in plain]
    assert orders == sorted(orders, reverse=True)
    last = [source for source, dest in plain if dest == graph.dest_index("logits")]
    assert last == sorted(last, reverse=True)


def test_what_cannot_be_searched_with_is_refused(model, task, tmp_path):
    with pytest.raises(ValueError, match="no thresholds; give at least one"):
        acdc_sweep(model, task, kl, ())
    with pytest.raises(ValueError, match=r"a loss of the metric above 0, got 0"):
        acdc(model, task, threshold=0.0)
    with pytest.raises(ValueError, match="no change named 'other'"):
        acdc(model, task, threshold=0.1, walk=unchecked(change="other"))
    with pytest.raises(ValueError, match="the guess is of another graph"):
        acdc(model, task, threshold=0.1, walk=Walk(guess=Circuit.full(Graph(1, 1, 1))))
    log = tmp_path / "log.json"
    log.write_text("[]")
    with pytest.raises(ValueError, match="is no log of a search; name another file"):
        acdc(model, task, threshold=0.1, walk=Walk(log=log))
    log.unlink()
    acdc(model, task, threshold=1.0, walk=Walk(log=log))
    with pytest.raises(ValueError, match="another search: it differs in metric"):
        acdc(model, task, logit_diff, threshold=1.0, walk=Walk(log=log))


def unchecked(change):
    walk = Walk()
    object.__setattr__(walk, "change", change)
    return walk
