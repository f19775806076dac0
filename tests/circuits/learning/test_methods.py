"""Learned circuits of a model whose circuit is known; stopping, resuming and what is refused."""

import pytest
import torch

from circuits import Circuit, eap_ig, evaluate, top_n
from circuits.learning import (
    edge_pruning,
    optimal_outside,
    subnetwork_probing,
    uniform_sampling,
)
from circuits.learning.edges import within_budget
from patching.ablations import mean
from patching.descent import Schedule
from patching.metrics import accuracy, kl, logit_diff
from patching.model import Model
from patching.models import known
from patching.models.truth import library

FEW = Schedule(steps=6, rate=0.2, batch_size=4)
LEARNERS = (edge_pruning, uniform_sampling, subnetwork_probing)


@pytest.fixture(scope="module")
def model():
    return Model.load("truth/copy", dtype=torch.float64)


@pytest.fixture(scope="module")
def truth():
    return known("truth/copy", n=8)


def circuit_of(model, truth):
    return Circuit.from_edges(model.graph, [tuple(e.split("->")) for e in sorted(truth.active)])


def test_edge_pruning_finds_the_active_edges_of_a_known_circuit(model, truth):
    expected = circuit_of(model, truth)
    plan = Schedule(steps=60, rate=0.5, batch_size=8)
    learned = edge_pruning(model, truth.task, size=expected.size, schedule=plan)
    assert learned.circuit() == expected
    budget = learned.history.curves["edges"]
    assert bool((budget.diff() <= 0).all())
    assert float(budget[-1]) == pytest.approx(expected.size)
    assert float(learned.scores.matrix.sum()) == pytest.approx(expected.size)


@pytest.mark.parametrize("budget", [1.0, 7.5, 40.0])
def test_log_odds_are_moved_to_the_budget_and_what_one_gains_all_others_lose(budget):
    noise = torch.Generator().manual_seed(0)
    log_odds = 3 * torch.randn(40, generator=noise, dtype=torch.float64)

    def kept(at):
        return within_budget(at, budget).sigmoid()

    assert float(kept(log_odds).sum()) == pytest.approx(budget, abs=1e-9)
    assert torch.allclose(within_budget(log_odds, budget).argsort(), log_odds.argsort())
    weights = torch.randn(40, generator=noise, dtype=torch.float64)
    at = log_odds.clone().requires_grad_()
    (slope,) = torch.autograd.grad((kept(at) * weights).sum(), at)
    step = torch.zeros_like(log_odds)
    step[3] = 1e-5  # the shift is found to 1e-14, which the difference divides by 2e-5
    up, down = ((kept(log_odds + by) * weights).sum() for by in (step, -step))
    assert float(slope[3]) == pytest.approx(float(up - down) / 2e-5, abs=1e-7)


@pytest.mark.slow
def test_uniform_sampling_finds_the_active_edges_of_a_known_circuit(model, truth):
    expected = circuit_of(model, truth)
    plan = Schedule(steps=120, rate=0.3, batch_size=8)
    learned = uniform_sampling(model, truth.task, size=expected.size, penalty=0.01, schedule=plan)
    assert learned.circuit() == expected


def test_subnetwork_probing_finds_the_heads_that_do_the_work(model, truth):
    plan = Schedule(steps=25, rate=0.4, batch_size=8)
    learned = subnetwork_probing(model, truth.task, size=2, schedule=plan)
    embed, *_ = learned.scores.node_scores().tolist()
    assert embed == pytest.approx(1)
    assert set(learned.circuit().nodes) == {"embed", "a0.h0", "a1.h2", "logits"}


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in library.names() if "llama" not in name])
@pytest.mark.parametrize("learn", [edge_pruning, uniform_sampling])
def test_the_usual_schedules_find_every_known_circuit(name, learn):
    model, truth = Model.load(name), known(name, n=12)
    expected = circuit_of(model, truth)
    learned = learn(model, truth.task, size=expected.size)
    assert top_n(learned.scores, expected.size, ranking="signed") == expected


CALLS: list[int] = []


def stopping_kl(logits, batch):
    """`kl`, interrupted once at its eighth call: there are two a step, clean and masked."""
    CALLS.append(1)
    if len(CALLS) == 8:
        raise KeyboardInterrupt
    return kl(logits, batch)


@pytest.mark.parametrize("learn", LEARNERS)
def test_a_state_of_another_metric_of_the_same_name_is_refused(model, truth, learn, tmp_path):
    def scaled(factor):
        def metric(logits, batch):
            return factor * logit_diff(logits, batch)

        return metric

    kept = Schedule(**FEW.options, folder=tmp_path)
    learn(model, truth.task, scaled(1.0), size=3, schedule=kept)
    with pytest.raises(ValueError, match="state of another training .functions differ"):
        learn(model, truth.task, scaled(3.0), size=3, schedule=kept)


@pytest.mark.parametrize("learn", LEARNERS)
def test_a_stopped_training_goes_on_bit_for_bit(model, truth, learn, tmp_path):
    unbroken = learn(model, truth.task, size=3, schedule=FEW)
    kept = Schedule(**FEW.options, folder=tmp_path, save_every=2)
    CALLS.clear()
    with pytest.raises(KeyboardInterrupt):
        learn(model, truth.task, stopping_kl, size=3, schedule=kept)
    resumed = learn(model, truth.task, stopping_kl, size=3, schedule=kept)
    assert torch.equal(resumed.scores.matrix, unbroken.scores.matrix)
    assert torch.equal(resumed.history.curves["loss"], unbroken.history.curves["loss"])


def test_provenance_says_how_it_was_learned_and_from_what(model, truth):
    start = eap_ig(model, truth.task, logit_diff, steps=2)
    learned = edge_pruning(model, truth.task, logit_diff, size=3, start=start, schedule=FEW)
    said = learned.circuit().provenance
    assert said["method"] == "edge-pruning"
    assert said["options"] == {**FEW.options, "size": 3}
    assert said["started_from"]["method"] == "eap-ig"
    assert (said["steps_taken"], said["stopped"]) == (6, "all steps done")
    assert said["loss"] == pytest.approx(float(learned.history.curves["loss"].mean()))


def test_a_start_from_scores_keeps_their_order_before_anything_is_learned(model, truth):
    start = eap_ig(model, truth.task, logit_diff, steps=2)
    still = Schedule(steps=1, rate=0.0, batch_size=4)
    learned = edge_pruning(model, truth.task, size=4, start=start, schedule=still)
    order = start.matrix.abs()[model.graph.exists].argsort(stable=True)
    assert bool((learned.scores.matrix[model.graph.exists][order].diff() > 0).all())


@pytest.mark.parametrize("learn", LEARNERS)
def test_what_nothing_can_be_learned_from_is_refused(model, truth, learn):
    with pytest.raises(ValueError, match="accuracy has no gradient to learn by; take logit_diff"):
        learn(model, truth.task, accuracy, size=3, schedule=FEW)
    with pytest.raises(ValueError, match="cannot keep 0 .*; this graph has .*, 1 is the least"):
        learn(model, truth.task, size=0, schedule=FEW)


def test_constants_outside_a_circuit_lose_no_more_than_means(model, truth):
    some = circuit_of(model, truth)
    some = Circuit.from_edges(model.graph, some.edges[:3])
    found = optimal_outside(
        model, truth.task, some, logit_diff, schedule=Schedule(steps=25, rate=0.2)
    )
    assert float(found.losses) < float(found.mean_losses)
    for ablation, loss in ((mean(truth.task), found.mean_losses), (found, found.losses)):
        result = evaluate(model, truth.task, [some], logit_diff, ablation=ablation)
        lost = (result.clean - result.values[0]).abs().mean()
        assert float(lost) == pytest.approx(float(loss), rel=1e-9)


def test_a_circuit_of_another_graph_has_no_constants_here(model, truth):
    other = Circuit.full(Model.load("toy").graph)
    with pytest.raises(ValueError, match="the circuit is of another graph"):
        optimal_outside(model, truth.task, other)
