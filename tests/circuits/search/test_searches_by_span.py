"""Searches and the integer program on graphs that keep spans apart."""

from itertools import combinations

import pytest
import spanned
import torch

from circuits.circuit import Circuit
from circuits.running.evaluation import evaluate
from circuits.scores import Scores
from circuits.scoring import eap_ig
from circuits.search import Budget, Judge, Walk, acdc, budgeted_search
from circuits.search.programming import program
from circuits.select import prune, random_circuit
from patching.ablations import resample
from patching.graph import Graph
from patching.metrics import logit_diff
from patching.model import Model
from patching.models import known
from patching.span_graph import SpanGraph, spans_of

TASK = spanned.task().by_span()


@pytest.fixture(scope="module")
def truth():
    return known("truth/copy", n=4, by_span=True)


@pytest.fixture(scope="module")
def copying():
    return Model.load("truth/copy", dtype=torch.float64)


def _named(circuit):
    return {f"{source}->{dest}" for source, dest in circuit.edges}


def test_a_judge_runs_circuits_by_span_as_an_evaluation_does(gpt2):
    judge = Judge(gpt2, TASK, logit_diff, resample(gpt2), batch_size=2)
    circuits = [random_circuit(judge.graph, n, seed=n) for n in (20, 150, judge.graph.n_edges)]
    expected = evaluate(gpt2, TASK, circuits, logit_diff).values
    found = judge.by_example([circuit.mask for circuit in circuits])
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


def test_acdc_by_span_leaves_the_edges_that_are_active_where_they_are(copying, truth):
    found = acdc(copying, truth.task, logit_diff, threshold=0.5)
    assert _named(found) == truth.active
    assert spans_of(found.graph) == truth.task.apart


def test_a_budgeted_search_goes_on_from_scores_by_span(copying, truth, tmp_path):
    start = eap_ig(copying, truth.task, logit_diff)
    task = known("truth/copy", n=4).task  # it takes the spans of the scores
    budget = Budget(60, tmp_path / "log")
    found = budgeted_search(copying, task, logit_diff, [start], size=12, budget=budget)
    assert found.graph == start.graph and found.size <= 12
    steps = found.provenance["steps"]
    assert isinstance(steps, list)
    first, *_, last = steps
    assert last["distance"] <= first["distance"] + 1e-12
    with pytest.raises(ValueError, match="the log of another search: it differs in spans"):
        walk = Walk(log=tmp_path / "log")
        acdc(copying, task, logit_diff, threshold=0.5, walk=walk)
    with pytest.raises(ValueError, match="start 0 is of another graph"):
        plain = eap_ig(copying, task, logit_diff)
        budgeted_search(copying, truth.task, logit_diff, [plain], size=12)


def test_no_connected_set_of_edges_and_spans_is_better_than_the_programs():
    graph = SpanGraph.of(Graph(1, 1, 1), ("a", "b"))
    noise = torch.Generator().manual_seed(3)
    matrix = torch.randn(graph.exists.shape, generator=noise, dtype=torch.float64)
    scores = Scores(matrix * graph.exists, graph, {"method": "dice"})
    totals = []
    for chosen in combinations(graph.exists.nonzero().tolist(), 3):
        mask = torch.zeros_like(graph.exists)
        mask[[s for s, _ in chosen], [d for _, d in chosen]] = True
        circuit = Circuit(mask, graph)
        totals.append(float(matrix[mask].sum()) if prune(circuit) == circuit else -torch.inf)
    found = program(scores, 3, ranking="signed")
    assert prune(found) == found and found.size == 3
    assert float(matrix[found.mask].sum()) == pytest.approx(max(totals), rel=1e-4)


def test_a_program_moves_from_span_to_span_where_keys_and_values_read():
    graph = SpanGraph.of(Graph(1, 1, 1), ("a", "end"))
    good = ["embed->a0.h0.v@a", "a0.h0->m0@end", "m0->logits@end", "a0.h0->logits@a"]
    matrix = torch.full(graph.exists.shape, -1.0, dtype=torch.float64) * graph.exists
    for edge, value in zip(good, (3.0, 3.0, 3.0, 0.5), strict=True):
        matrix[graph.edge_index(*edge.split("->"))] = value
    found = program(Scores(matrix, graph, {}), 3, ranking="signed")
    assert _named(found) == {*good[:3]}
