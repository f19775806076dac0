"""Rivals on a model with two heads for one job; scores within a circuit and what they add up to."""

import pytest
import torch

from circuits.circuit import Circuit
from circuits.judging.rivals import rivals, shared
from circuits.running.evaluation import evaluate
from circuits.running.trial import prepare
from circuits.scores import Scores
from circuits.scoring import eap_ig, scores_within
from patching.metrics import kl, logit_diff
from patching.model import Model
from patching.models import known

NAME = "truth/induction-redundant"
MODEL = Model.load(NAME, dtype=torch.float64)
TASK = known(NAME, n=6).task
GOAL = 0.3


@pytest.fixture(scope="module")
def scores() -> Scores:
    """Of the first head's edges only, as where the second's are saturated."""
    found = eap_ig(MODEL, TASK, logit_diff).matrix.clone()
    for reader in "qkv":
        found[:, MODEL.graph.dest_index(f"a1.h0.{reader}")] = 0
    found[MODEL.graph.source_index("a1.h0")] = 0
    return Scores(found, MODEL.graph, {})


@pytest.fixture(scope="module")
def trial():
    return prepare(MODEL, TASK, logit_diff)


def rescored(circuit: Circuit) -> Scores:
    return scores_within(MODEL, TASK, logit_diff, circuit)


def test_both_heads_are_found_the_second_by_scores_without_the_first(scores, trial):
    found = rivals(trial, scores, GOAL, ranking="absolute", n=3, overlap=0.25, rescore=rescored)
    assert len(found.circuits) == 2, "two induction heads do one job"
    heads = [{node for node in circuit.nodes if node[:2] == "a1"} for circuit in found.circuits]
    assert heads == [{"a1.h3"}, {"a1.h0"}]
    assert all(kept.value >= GOAL and kept.low <= kept.high for kept in found.faithfulness)
    assert not found.core.size and found.overlap.tolist() == [[1, 0], [0, 1]]
    assert "2 circuits of" in found.sentence and "none of them is the circuit" in found.sentence
    assert "the best edges do not reach 30% at any size" in found.ended
    assert list(found.to_dataframe()["edges"]) == [circuit.size for circuit in found.circuits]
    alone = rivals(trial, scores, GOAL, ranking="absolute", n=3, overlap=0.25)
    assert alone.circuits[0] == found.circuits[0]
    assert len(alone.circuits) == 1 or alone.circuits[1].size > found.circuits[1].size


def test_overlap_is_of_the_smaller_one():
    graph = MODEL.graph
    small = Circuit.from_edges(graph, [("embed", "logits"), ("a0.h0", "logits")])
    large = small | Circuit.from_edges(graph, [("a0.h1", "logits")])
    other = Circuit.from_edges(graph, [("embed", "logits"), ("a0.h1", "logits")])
    assert shared([small, large, other]).tolist() == [[1, 1, 0.5], [1, 1, 1], [0.5, 1, 1]]


def test_scores_within_a_circuit_add_up_to_what_it_keeps(scores):
    """The error of the midpoint rule falls with the square of the step."""
    whole = Circuit.full(MODEL.graph)
    circuit = whole - Circuit.from_edges(MODEL.graph, [("a1.h3", "logits")])
    ran = evaluate(MODEL, TASK, [circuit], logit_diff)
    gap = float(ran.values.mean() - ran.corrupt.mean())
    errors = [
        abs(float(scores_within(MODEL, TASK, logit_diff, circuit, steps=n).matrix.sum()) - gap)
        for n in (4, 16)
    ]
    assert errors[1] < 0.02 * gap and errors[1] < errors[0] / 4
    inside = scores_within(MODEL, TASK, logit_diff, circuit, batch_size=4)
    assert not inside.matrix[~circuit.mask].any()
    backup = MODEL.graph.edge_index("a1.h0", "logits")
    assert inside.matrix[backup] > 0


def test_what_cannot_be_asked_for_is_refused(scores, trial):
    with pytest.raises(ValueError, match="rivals are 1 or more, and share .* got 0, 0.1"):
        rivals(trial, scores, GOAL, ranking="absolute", n=0)
    with pytest.raises(ValueError, match="above 0 and at most 1 of the gap"):
        rivals(trial, scores, 0.0, ranking="absolute")
    with pytest.raises(ValueError, match="at least 1 step, got 0"):
        scores_within(MODEL, TASK, kl, Circuit.full(MODEL.graph), steps=0)
