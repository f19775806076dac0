import pytest
import torch

from circuits.judging.chance import (
    connected,
    connected_circuits,
    edge_layers,
    layer_matched,
    layer_matched_circuits,
    uniform_circuits,
)
from circuits.select import prune, random_circuit
from patching.graph import Graph
from patching.span_graph import kept_apart

GRAPHS = [Graph(3, 4, 4), Graph(3, 4, 2), Graph(2, 2, 2, parallel=True)]


def per_layer(circuit):
    layers = edge_layers(circuit.graph)[circuit.mask]
    return layers.bincount(minlength=circuit.graph.n_layers + 1).tolist()


@pytest.mark.parametrize("graph", GRAPHS)
def test_matched_circuits_have_as_many_edges_into_every_layer(graph):
    circuit = random_circuit(graph, 30, seed=0)
    matched = layer_matched_circuits(circuit, 5, seed=1, pruned=False)
    assert [per_layer(other) for other in matched] == [per_layer(circuit)] * 5
    assert len({*matched, circuit}) == 6


@pytest.mark.parametrize("graph", GRAPHS)
def test_uniform_circuits_have_the_size_and_differ(graph):
    circuits = uniform_circuits(random_circuit(graph, 20, seed=0), 5, seed=1, pruned=False)
    assert [circuit.size for circuit in circuits] == [20] * 5
    assert len(set(circuits)) == 5


@pytest.mark.parametrize("graph", [*GRAPHS, kept_apart(Graph(2, 2, 1), ("rest", "IO"))])
@pytest.mark.parametrize("share", [0.05, 0.5, 1.0])
def test_random_paths_have_the_size_differ_and_lead_from_embed_to_logits(graph, share):
    n = max(2, int(share * graph.n_edges))
    drawn = connected_circuits(random_circuit(graph, n, seed=0), 3, seed=1)
    assert [circuit.size for circuit in drawn] == [n] * 3
    assert [prune(circuit).size for circuit in drawn] == [n] * 3
    assert len(set(drawn)) == (1 if n == graph.n_edges else 3)
    assert connected(graph, n, seed=1) == drawn[0]


def test_random_paths_of_a_deep_model_are_circuits_where_random_edges_are_none():
    graph = Graph(30, 9, 3)
    assert prune(random_circuit(graph, 100, seed=0)).size < 10
    assert prune(connected(graph, 100, seed=0)).size == 100
    assert connected(graph, 0, seed=0).size == 0


@pytest.mark.parametrize("draw", [uniform_circuits, layer_matched_circuits])
def test_random_circuits_of_one_seed_are_nested(draw):
    graph = GRAPHS[0]
    small = random_circuit(graph, 20, seed=9)
    large = small | random_circuit(graph, 60, seed=8)
    pairs = zip(*(draw(c, 4, seed=0, pruned=False) for c in (small, large)), strict=True)
    assert all(few <= many for few, many in pairs)


@pytest.mark.parametrize("draw", [uniform_circuits, layer_matched_circuits])
def test_random_circuits_are_pruned_when_asked(draw):
    circuit = random_circuit(GRAPHS[0], 60, seed=0)
    whole, pruned = (draw(circuit, 4, seed=0, pruned=p) for p in (False, True))
    assert [prune(c) for c in whole] == pruned
    assert sum(c.size for c in pruned) < sum(c.size for c in whole)


def test_every_edge_of_a_layer_is_equally_likely():
    graph = Graph(1, 2, 2)
    circuit = random_circuit(graph, 6, seed=0)
    counts = sum(layer_matched(circuit, seed).mask.double() for seed in range(2000))
    layers = edge_layers(graph)
    for layer, n in enumerate(per_layer(circuit)):
        of_layer = graph.exists & (layers == layer)
        expected = n / int(of_layer.sum())
        # a share of 2000 draws has a standard error of at most 0.011
        rates = counts[of_layer] / 2000
        torch.testing.assert_close(rates, torch.full_like(rates, expected), atol=0.045, rtol=0)
