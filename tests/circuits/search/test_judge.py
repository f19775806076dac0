import families
import pytest
import torch

from circuits.circuit import Circuit
from circuits.running.evaluation import evaluate
from circuits.search import Cost, Judge
from circuits.select import random_circuit
from patching.ablations import resample
from patching.metrics import logit_diff


@pytest.fixture(scope="module")
def model():
    return families.load("gpt2", torch.float64)


@pytest.fixture
def judge(model):
    return Judge(model, families.task(), logit_diff, resample(model), batch_size=2)


def test_values_are_those_of_an_evaluation_of_all_examples(model, judge):
    circuits = [random_circuit(model.graph, n, seed=n) for n in (5, 40, 90)]
    expected = evaluate(model, families.task(), circuits, logit_diff).values.mean(dim=1)
    found = torch.tensor(judge.values([c.mask for c in circuits]), dtype=torch.float64)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)  # the same runs in float64
    assert judge.cost.circuits == 3 and 0 < judge.cost.forwards <= 3


def test_what_was_run_is_remembered_and_edges_into_dead_nodes_are_no_new_computation(model, judge):
    graph = model.graph
    kept = graph.exists.clone()
    kept[graph.source_index("m1")] = False
    judge.values([kept])
    less = kept.clone()
    less[:, graph.dest_index("m1")] = False
    first, second = judge.values([kept, less])
    assert first == second
    assert (judge.cost.circuits, judge.cost.recalled) == (1, 2)


def test_the_full_and_the_empty_circuit_cost_nothing(model, judge):
    judge.values([Circuit.full(model.graph).mask, Circuit.empty(model.graph).mask])
    assert judge.cost.forwards == 0


def test_costs_add_up():
    some = Cost(3, 1.5, 1)
    assert some + some - some == some


def test_a_metric_that_is_nan_is_refused(model):
    def nothing(logits, batch):
        return logits[:, 0] * torch.nan

    judge = Judge(model, families.task(), nothing, resample(model), batch_size=2)
    with pytest.raises(ValueError, match="nothing is NaN in a circuit"):
        judge.values([model.graph.exists])
