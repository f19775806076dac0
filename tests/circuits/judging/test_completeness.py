import pytest
import torch
import toys

from circuits.circuit import Circuit
from circuits.judging.completeness import NOTHING, Greedy, completeness, greedy_subsets
from circuits.judging.subsets import edge_units, node_units, random_subsets
from circuits.running.trial import Trial, prepare
from circuits.select import random_circuit
from patching.graph import Graph
from patching.metrics import logit_diff

VALUES, DIRECT = ("embed", "a0.h0.v"), ("a0.h0", "logits")


@pytest.fixture(scope="module")
def trial() -> Trial:
    return prepare(toys.linear_model(), toys.task(2), logit_diff)


@pytest.fixture
def circuit(trial) -> Circuit:
    """Head 0 straight to the logits: 3 - 2 = 1."""
    return Circuit.from_edges(trial.model.graph, [VALUES, DIRECT])


def test_completeness_by_hand(trial, circuit):
    units = edge_units(circuit)
    found = completeness(trial, circuit, {**units, "both": circuit})
    assert found.names == (NOTHING, "embed->a0.h0.v", "a0.h0->logits", "both")
    # without its values head 0 writes nothing; without its way out the model gains 2
    assert found.circuit.mean(dim=1).tolist() == pytest.approx([1, 3, 3, 3])
    assert found.model.mean(dim=1).tolist() == pytest.approx([8, 0, 10, 0])
    assert found.incompleteness.tolist() == pytest.approx([7, 3, 7, 3])
    assert found.gap == pytest.approx(5)
    frame = found.to_dataframe()
    assert frame["share_of_gap"].tolist() == pytest.approx([1.4, 0.6, 1.4, 0.6])
    assert frame["edges"].tolist() == [0, 1, 1, 2]


def test_the_whole_model_is_complete(trial):
    full = Circuit.full(trial.model.graph)
    parts = random_subsets(node_units(full), 8, seed=0)
    found = completeness(trial, full, parts)
    torch.testing.assert_close(found.circuit, found.model, atol=1e-9, rtol=0)


def test_greedy_finds_the_part_at_which_circuit_and_model_differ_most(trial):
    circuit = Circuit.from_edges(
        trial.model.graph, [VALUES, DIRECT, ("a0.h0", "m0"), ("embed", "a0.h1.v")]
    )
    units = edge_units(circuit)
    parts = [Circuit.empty(circuit.graph)]
    for unit in units.values():
        parts += [part | unit for part in parts]
    every = completeness(trial, circuit, {str(i): part for i, part in enumerate(parts)})
    found = greedy_subsets(trial, circuit, Greedy(runs=2, steps=4, candidates=4))
    worst = completeness(trial, circuit, found).incompleteness[1:]
    assert worst.tolist() == pytest.approx([float(every.incompleteness.max())] * 2)
    assert list(found) == ["greedy 0", "greedy 1"]
    assert all(part <= circuit for part in found.values())


def test_a_greedy_search_is_repeated_by_its_seed(trial):
    circuit = random_circuit(trial.model.graph, 9, seed=0)
    search = Greedy(runs=3, steps=2, candidates=2, seed=5)
    assert greedy_subsets(trial, circuit, search) == greedy_subsets(trial, circuit, search)


def test_greedy_takes_whole_nodes_when_asked(trial, circuit):
    found = greedy_subsets(trial, circuit, Greedy(units=node_units, runs=1))
    assert found["greedy 0"] == node_units(circuit)["a0.h0"]


def test_a_search_for_nothing_is_refused(trial, circuit):
    with pytest.raises(ValueError, match="one run, step and candidate at least"):
        greedy_subsets(trial, circuit, Greedy(steps=0))
    with pytest.raises(ValueError, match="there are no units to search"):
        greedy_subsets(trial, Circuit.empty(circuit.graph), Greedy())


def test_a_circuit_of_another_graph_is_refused(trial):
    with pytest.raises(ValueError, match="of another graph"):
        completeness(trial, Circuit.full(Graph(2, 2, 2)), {})
