import math

import pytest
import torch
import toys

from circuits.circuit import Circuit
from circuits.judging.stability import across_resamples, across_seeds, agreement, jaccard
from circuits.scores import Scores
from circuits.scoring import eap
from circuits.select import random_circuit, top_n
from patching.graph import Graph
from patching.metrics import logit_diff
from patching.tasks import Prompt, Task

GRAPH = Graph(n_layers=2, n_heads=2, n_kv_heads=2)
A = Circuit.from_edges(GRAPH, [("embed", "m0"), ("m0", "m1"), ("m1", "logits")])
B = Circuit.from_edges(GRAPH, [("embed", "m0"), ("m1", "logits"), ("a0.h0", "m0")])
NONE = Circuit.empty(GRAPH)


def best_two(scores: Scores) -> Circuit:
    return top_n(scores, 2, ranking="absolute")


def test_jaccard_by_hand():
    assert jaccard(A, B) == 2 / 4
    assert jaccard(A, A) == 1
    assert jaccard(A, NONE) == 0
    assert math.isnan(jaccard(NONE, NONE))


def test_agreement_is_that_of_every_pair():
    found = agreement([A, B, A])
    assert found.pairs.tolist() == [0.5, 1, 0.5]
    assert found.mean == pytest.approx(2 / 3)
    assert math.isnan(agreement([A, NONE, NONE]).mean)


def test_inclusion_counts_how_many_circuits_hold_an_edge():
    found = agreement([A, B, A, A])
    assert found.inclusion[GRAPH.edge_index("embed", "m0")] == 1
    assert found.inclusion[GRAPH.edge_index("m0", "m1")] == 0.75
    assert found.core() == A & B
    assert found.core(0.75) == A
    frame = found.to_dataframe()
    assert frame["inclusion"].tolist() == [1, 1, 0.75, 0.25]
    assert frame.iloc[-1][["source", "dest"]].tolist() == ["a0.h0", "m0"]


def test_equal_prompts_find_equal_circuits():
    model = toys.linear_model()
    found = across_resamples(toys.task(5), lambda task: eap(model, task, logit_diff), best_two, n=4)
    assert found.mean == 1
    assert len(found.circuits) == 4


def test_resamples_are_prompts_drawn_with_replacement():
    prompts = tuple(Prompt((i, 9), (i, 8), (9,), (8,)) for i in range(8))
    seen = []

    def score(task: Task) -> Scores:
        seen.append([prompt.clean[0] for prompt in task.prompts])
        noise = torch.randn(GRAPH.exists.shape, dtype=torch.float64)
        return Scores(noise * GRAPH.exists, GRAPH, {})

    across_resamples(Task("eight", prompts), score, best_two, n=20, seed=3)
    assert all(len(rows) == 8 and set(rows) <= set(range(8)) for rows in seen)
    assert any(len(set(rows)) < 8 for rows in seen)
    first, seen = seen, []
    across_resamples(Task("eight", prompts), score, best_two, n=20, seed=3)
    assert seen == first


def test_seeds_are_handed_to_the_scorer():
    def score(seed: int) -> Scores:
        circuit = random_circuit(GRAPH, 2, seed)
        return Scores(circuit.mask.double(), GRAPH, {})

    found = across_seeds(score, best_two, [1, 2, 1])
    assert list(found.circuits) == [random_circuit(GRAPH, 2, seed) for seed in (1, 2, 1)]
    assert found.jaccard[0, 2] == 1


def test_what_cannot_agree_is_refused():
    with pytest.raises(ValueError, match="between two or more circuits, got 1"):
        agreement([A])
    with pytest.raises(ValueError, match="circuit 1 is of another graph"):
        jaccard(A, Circuit.full(Graph(1, 1, 1)))
    with pytest.raises(ValueError, match="above 0 and at most 1, got 0"):
        agreement([A, B]).core(0)
