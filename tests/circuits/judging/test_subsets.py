import pytest
import torch

from circuits.circuit import Circuit
from circuits.judging.subsets import (
    class_subsets,
    edge_units,
    join,
    node_units,
    random_subsets,
    without,
)
from patching.graph import Graph

GRAPH = Graph(n_layers=2, n_heads=2, n_kv_heads=1)
CIRCUIT = Circuit.from_edges(
    GRAPH, [("embed", "m0"), ("a0.h1", "m0"), ("m0", "a1.g0.k"), ("m0", "logits")]
)


def test_a_node_is_all_its_outgoing_edges_in_the_graph():
    units = node_units(CIRCUIT)
    assert list(units) == ["a0.h1", "m0"]
    assert all(source == "m0" for source, _ in units["m0"].edges)
    assert torch.equal(units["m0"].mask.any(dim=0), GRAPH.exists[GRAPH.source_index("m0")])


def test_edges_are_units_of_their_own():
    units = edge_units(CIRCUIT)
    assert list(units) == ["embed->m0", "a0.h1->m0", "m0->a1.g0.k", "m0->logits"]
    assert join(GRAPH, units.values()) == CIRCUIT
    assert {unit.size for unit in units.values()} == {1}


def test_classes_hold_the_circuits_edges_of_their_kind():
    classes = {name: part.edges for name, part in class_subsets(CIRCUIT).items()}
    assert classes == {
        "out of heads": [("a0.h1", "m0")],
        "out of MLPs": [("m0", "a1.g0.k"), ("m0", "logits")],
        "into keys": [("m0", "a1.g0.k")],
    }


def test_random_sets_hold_each_unit_half_of_the_time():
    units = edge_units(CIRCUIT)
    drawn = random_subsets(units, 2000, seed=0).values()
    shares = sum(part.mask.double() for part in drawn)[CIRCUIT.mask] / 2000
    # a share of 2000 draws has a standard error of 0.011
    torch.testing.assert_close(shares, torch.full_like(shares, 0.5), atol=0.045, rtol=0)
    assert all(part <= CIRCUIT for part in drawn)
    assert random_subsets(units, 3, seed=1) == random_subsets(units, 3, seed=1)


def test_what_is_taken_out_is_gone():
    left = without(CIRCUIT, node_units(CIRCUIT)["m0"])
    assert left.edges == [("embed", "m0"), ("a0.h1", "m0")]


def test_no_units_and_negative_numbers_are_refused():
    with pytest.raises(ValueError, match="there are no units to draw from"):
        random_subsets({}, 3, seed=0)
    with pytest.raises(ValueError, match="cannot draw -1 subsets"):
        random_subsets(edge_units(CIRCUIT), -1, seed=0)
