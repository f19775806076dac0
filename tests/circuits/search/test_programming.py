from itertools import combinations

import pytest
import torch

from circuits.checks import check_selector
from circuits.circuit import Circuit
from circuits.judging.uncertainty import Uncertain
from circuits.scores import Scores
from circuits.search.programming import program, sign_stable
from circuits.select import greedy, prune, top_n
from patching.graph import Graph

TINY = (Graph(1, 1, 1), Graph(1, 2, 1), Graph(1, 2, 1, parallel=True))
MIDDLE = Graph(3, 4, 2)


def random_scores(graph, seed=0):
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(graph.exists.shape, generator=generator, dtype=torch.float64)
    return Scores(noise**3 * graph.exists, graph, {"method": "dice"})


def total(circuit, scores, ranking="signed"):
    merit = scores.matrix.abs() if ranking == "absolute" else scores.matrix
    return float(merit[circuit.mask].sum())


def best(scores, n, ranking, *, exactly, positive):
    """The largest total of all sets of edges, by trying them all."""
    graph, edges = scores.graph, scores.graph.exists.nonzero()
    totals = []
    for size in [n] if exactly else range(n + 1):
        for chosen in combinations(edges.tolist(), size):
            mask = torch.zeros_like(graph.exists)
            mask[[s for s, _ in chosen], [d for _, d in chosen]] = True
            circuit = Circuit(mask, graph)
            good = int((scores.matrix[mask] > 0).sum())
            if prune(circuit) == circuit and good >= positive * size:
                totals.append(total(circuit, scores, ranking))
    return max(totals, default=None)


@pytest.mark.parametrize("graph", TINY)
@pytest.mark.parametrize("ranking", ["signed", "absolute"])
@pytest.mark.parametrize("exactly", [True, False])
@pytest.mark.parametrize("positive", [0.0, 0.6])
def test_no_connected_set_of_edges_is_better(graph, ranking, exactly, positive):
    scores = random_scores(graph, seed=7)
    right = best(scores, 4, ranking, exactly=exactly, positive=positive)
    if right is None:
        with pytest.raises(ValueError, match="no connected circuit fulfils what is asked"):
            program(scores, 4, ranking=ranking, exactly=exactly, positive=positive)
        return
    found = program(scores, 4, ranking=ranking, exactly=exactly, positive=positive)
    assert total(found, scores, ranking) == pytest.approx(right, rel=1e-4)  # HiGHS's own gap


@pytest.mark.parametrize("n", [5, 20, 60])
@pytest.mark.parametrize("ranking", ["signed", "absolute"])
def test_it_is_connected_and_at_least_as_good_as_greedy(n, ranking):
    scores = random_scores(MIDDLE)
    found = program(scores, n, ranking=ranking, exactly=False)
    grown = prune(greedy(scores, n, ranking=ranking))
    assert prune(found) == found and len(found) <= n
    assert total(found, scores, ranking) >= total(grown, scores, ranking) * (1 - 1e-4)


def test_it_obeys_the_laws_of_selectors():
    check_selector(program)


def test_it_chooses_among_given_edges_alone_and_says_what_it_did():
    scores = random_scores(MIDDLE)
    among = top_n(scores, 40, ranking="absolute")
    found = program(scores, 20, ranking="absolute", exactly=False, among=among, positive=0.5)
    assert found <= among
    assert (scores.matrix[found.mask] > 0).double().mean() >= 0.5
    said = found.provenance["selection"]
    assert (said["among"], said["positive"], said["in_time"]) == (40, 0.5, True)
    assert said["total"] == pytest.approx(total(found, scores, "absolute"))
    assert said["gap"] <= 1e-4


def test_stable_signs_are_those_of_nearly_all_resamples():
    scores = random_scores(MIDDLE)
    stability = MIDDLE.exists * torch.linspace(0, 1, MIDDLE.exists.shape[1], dtype=torch.float64)
    nothing = torch.zeros_like(stability)
    found = sign_stable(Uncertain(scores, nothing, stability, nothing, 3, "signed", 10), 0.5)
    assert torch.equal(found.mask, MIDDLE.exists & (stability >= 0.5))
    with pytest.raises(ValueError, match=r"above 0 and at most 1, got 2"):
        sign_stable(Uncertain(scores, nothing, stability, nothing, 3, "signed", 10), 2)


def test_what_cannot_be_programmed_is_refused(monkeypatch):
    scores = random_scores(MIDDLE)
    with pytest.raises(ValueError, match="to choose among are of another graph"):
        program(scores, 1, ranking="signed", among=Circuit.full(TINY[0]))
    with pytest.raises(ValueError, match=r"cannot choose 3 edges; there are 2 to choose among"):
        program(scores, 3, ranking="signed", among=top_n(scores, 2, ranking="signed"))
    with pytest.raises(ValueError, match=r"positive edges is from 0 to 1, got 2"):
        program(scores, 1, ranking="signed", positive=2)
    with pytest.raises(ValueError, match=r"needs some time, got 0 seconds"):
        program(scores, 1, ranking="signed", seconds=0)
    with pytest.raises(ValueError, match="nothing was found within 10% of the best"):
        program(random_scores(Graph(8, 8, 8)), 90, ranking="absolute", seconds=1e-3)
    monkeypatch.setattr("circuits.search.programming.MOST_EDGES", 100)
    with pytest.raises(ValueError, match=r"too many for an integer program, 100 at most"):
        program(scores, 1, ranking="signed")
