import math
from dataclasses import replace

import pytest
import torch

from circuits.circuit import Circuit
from circuits.judging.compare import compare_circuits, compare_resampled, compare_scores
from circuits.scores import Scores
from patching.graph import Graph

GRAPH = Graph(n_layers=1, n_heads=1, n_kv_heads=1)
A = Circuit.from_edges(GRAPH, [("embed", "m0"), ("m0", "logits"), ("a0.h0", "m0")])
B = Circuit.from_edges(GRAPH, [("embed", "m0"), ("m0", "logits"), ("embed", "logits")])


def ramp(*order: float) -> Scores:
    """Scores of the graph's edges in row-major order."""
    matrix = torch.zeros(GRAPH.exists.shape, dtype=torch.float64)
    matrix[GRAPH.exists] = torch.tensor(order, dtype=torch.float64)
    return Scores(matrix, GRAPH, {})


N = GRAPH.n_edges
UP = [float(i + 1) for i in range(N)]


def test_overlap_by_hand():
    found = compare_circuits({"a": A, "b": B, "none": Circuit.empty(GRAPH)})
    first = found.pairs[0]
    assert (first.a, first.b, first.edges_a, first.shared, first.only_a) == ("a", "b", 3, 2, 1)
    assert first.jaccard == 0.5
    assert first.by_chance == pytest.approx(9 / N)
    assert [pair.jaccard for pair in found.pairs[1:]] == [0, 0]
    assert math.isnan(found.matrix[2, 2])
    frame = found.to_dataframe()
    assert frame["shared"].tolist() == [2, 0, 0]
    assert frame["only_b"].tolist() == [1, 0, 0]


def test_differences_and_shared_edges_are_circuits():
    found = compare_circuits({"a": A, "b": B})
    assert found.difference("a", "b").edges == [("a0.h0", "m0")]
    assert found.difference("b", "a").edges == [("embed", "logits")]
    assert found.shared() == A & B
    with pytest.raises(ValueError, match="no circuit named 'c'; there are a, b"):
        found.difference("a", "c")


def test_rankings_agree_as_computed_by_hand():
    down = ramp(*reversed(UP))
    swapped = ramp(*UP[:-2], UP[-1], UP[-2])
    found = compare_scores(
        {"up": ramp(*UP), "down": down, "swapped": swapped}, ranking="signed", ks=(1, 2, 1000)
    )
    by_names = {(pair.a, pair.b): pair for pair in found.pairs}
    assert by_names["up", "down"].spearman == pytest.approx(-1)
    assert by_names["up", "down"].kendall == pytest.approx(-1)
    # one pair of neighbours is out of order
    assert by_names["up", "swapped"].spearman == pytest.approx(1 - 6 * 2 / (N * (N**2 - 1)))
    assert by_names["up", "swapped"].kendall == pytest.approx(1 - 2 / (N * (N - 1) / 2))
    assert by_names["up", "swapped"].top == (0, 1)
    assert found.ks == (1, 2)
    assert list(found.to_dataframe()) == ["a", "b", "spearman", "kendall", "top_1", "top_2"]
    assert found.matrix[0, 1] == pytest.approx(-1)


def test_absolute_rankings_compare_absolute_values():
    scores = {"up": ramp(*UP), "flipped": ramp(*(-x for x in UP))}
    assert compare_scores(scores, ranking="absolute").pairs[0].spearman == pytest.approx(1)
    assert compare_scores(scores, ranking="signed").pairs[0].spearman == pytest.approx(-1)


def test_the_correlation_with_constant_scores_is_undefined():
    scores = {"up": ramp(*UP), "flat": ramp(*[2.0] * N)}
    (pair,) = compare_scores(scores, ranking="signed").pairs
    assert math.isnan(pair.spearman)
    assert math.isnan(pair.kendall)


def test_what_cannot_be_compared_is_refused():
    other = Circuit.full(Graph(2, 1, 1))
    with pytest.raises(ValueError, match="a comparison needs at least two, got 1"):
        compare_circuits({"a": A})
    with pytest.raises(ValueError, match="a and other are of different graphs: 1 seq.* 2 seq"):
        compare_circuits({"a": A, "other": other})
    with pytest.raises(ValueError, match=r"the k best edges are 1 or more, got \[0\]"):
        compare_scores({"a": ramp(*UP), "b": ramp(*UP)}, ranking="signed", ks=(0,))


def by_prompt(rows: torch.Tensor) -> Scores:
    return replace(ramp(*rows.mean(dim=0).tolist()), by_prompt=rows)


def test_methods_share_on_resamples_what_prompts_leave_to_them():
    """Two edges that every prompt ranks first are in all draws; beside noise, in some."""
    sure, noise = torch.zeros(6, N), torch.randn(6, N, generator=torch.Generator().manual_seed(0))
    sure[:, [0, 3]] = 5.0
    scores = {"sure": by_prompt(sure.double()), "noise": by_prompt(noise.double())}
    found = compare_resampled(scores, 2, ranking="absolute", n=8)
    assert found.matrix[0, 0] == 1
    assert found.matrix[0, 1] == found.matrix[1, 0] < found.matrix[1, 1] < 1
    assert found.to_dataframe()["a with itself"].tolist() == [1.0]
    with pytest.raises(ValueError, match="give 2 resamples or more, got 1"):
        compare_resampled(scores, 2, ranking="absolute", n=1)
    with pytest.raises(ValueError, match="do not say what each prompt alone scores"):
        compare_resampled({"a": ramp(*UP), "b": ramp(*UP)}, 2, ranking="absolute")
