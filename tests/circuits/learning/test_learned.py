"""Circuits of an exact size from learned masks, and where masks start."""

import pytest
import torch

from circuits.learning.learned import Learned, connected, logits_of
from circuits.scores import Scores
from circuits.select import prune
from patching.graph import Graph
from patching.history import History

GRAPH = Graph(n_layers=2, n_heads=2, n_kv_heads=2)
PATH = [("embed", "a0.h0.v"), ("a0.h0", "m1"), ("m1", "logits")]


def scored(*edges, rest=0.0):
    """The named edges from best to worst, above all others."""
    matrix = GRAPH.exists.double() * rest
    for i, edge in enumerate(edges):
        matrix[GRAPH.edge_index(*edge)] = 1 - i / 100
    return Scores(matrix, GRAPH, {"method": "by hand"})


def random_scores(seed):
    noise = torch.rand(GRAPH.exists.shape, generator=torch.Generator().manual_seed(seed))
    return Scores(noise.double() * GRAPH.exists, GRAPH, {})


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("n", [1, 5, 20, GRAPH.n_edges])
def test_circuits_are_connected_and_of_the_size_asked_for_or_less(seed, n):
    circuit = connected(random_scores(seed), n)
    assert prune(circuit) == circuit
    assert circuit.size <= n
    assert connected(random_scores(seed), n, fill=True).size == n


def test_edges_that_lead_nowhere_do_not_count():
    nowhere = ("embed", "m0")
    circuit = connected(scored(nowhere, *PATH), 3)
    assert circuit.edges == [("embed", "a0.h0.v"), ("a0.h0", "m1"), ("m1", "logits")]


def test_of_several_edges_that_the_last_one_connects_the_weakest_is_left_out():
    """The last edge connects six at once. Without either of the two weakest fewer than five are
    left; without the next, the value, the head still has a query and a key to run on."""
    spare = [("embed", "a0.h0.q"), ("embed", "a0.h0.k"), ("embed", "m1")]
    circuit = connected(scored(*spare, *PATH), 5)
    assert set(circuit.edges) == {*spare, *PATH} - {PATH[0]}


def test_a_path_longer_than_the_budget_is_left_out_whole_unless_filled_up():
    assert connected(scored(*PATH), 2).size == 0
    assert connected(scored(*PATH), 2, fill=True).edges == PATH[:2]


def test_masks_start_from_the_order_of_scores_alone():
    scores = random_scores(0)
    found = logits_of(GRAPH, scores, centre=4.0, spread=2.0)
    same = Scores(-1000 * scores.matrix, GRAPH, {})
    assert torch.equal(found, logits_of(GRAPH, same, centre=4.0, spread=2.0))
    assert (float(found.min()), float(found.max())) == (2.0, 6.0)
    assert torch.equal(found.argsort(), scores.matrix[GRAPH.exists].argsort())
    assert logits_of(GRAPH, None, centre=4.0, spread=2.0).unique().tolist() == [4.0]


def test_scores_of_another_graph_are_no_start():
    other = Graph(n_layers=1, n_heads=2, n_kv_heads=2)
    with pytest.raises(ValueError, match="to start from are of another graph"):
        logits_of(other, random_scores(0), centre=0.0, spread=1.0)


def test_other_sizes_can_be_had_of_what_was_learned():
    history = History({"loss": torch.zeros(1).double()}, "")
    learned = Learned(scored(*PATH, ("embed", "logits")), history, 3, connected)
    assert learned.circuit().size == 3
    assert learned.circuit(4).size == 4
    with pytest.raises(ValueError, match="cannot choose 1000 edges"):
        learned.circuit(1000)
