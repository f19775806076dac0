"""Circuits that keep spans apart, run: by the slow twin, by laws, and in groups."""

from dataclasses import replace

import families
import pytest
import spanned
import torch

from circuits import Circuit, random_circuit
from circuits.running.evaluation import evaluate
from circuits.running.many import run_circuits
from circuits.running.pair import run_pair
from circuits.spans import by_span
from patching.ablations import mean, resample, zero
from patching.memory import grouping
from patching.metrics import logit_diff, logprob
from patching.span_graph import SpanGraph

ABLATIONS = {"resample": resample, "zero": zero, "mean": mean(families.task())}
TASK = spanned.task().by_span()


@pytest.fixture(scope="module", params=["gpt2", "gemma2", "neox"])
def family(request):
    return request.param


@pytest.fixture(scope="module")
def model(family):
    return families.load(family, torch.float64)


def _graph(model):
    return SpanGraph.of(model.graph, TASK.apart)


def _circuits(model):
    """Dense and sparse ones, and some that begin late or keep nothing at a span."""
    graph = _graph(model)
    n = graph.n_edges
    found = [random_circuit(graph, k, seed=k) for k in (20, n // 4, n // 2, n - 40)]
    full = Circuit.full(graph)
    late = [e for e in full.edges if e[1].startswith("logits") and e[1].endswith(("end", "b"))]
    at_a = [edge for edge in full.edges if edge[1].endswith("@a")]
    return [
        *found,
        full - Circuit.from_edges(graph, late[::3]),
        full - Circuit.from_edges(graph, at_a),
    ]


def _removed(model, circuits):
    removed = torch.stack([c.graph.exists & ~c.mask for c in circuits])
    return removed.to(model.dtype).unflatten(2, (-1, len(TASK.apart)))


def _logits(model, batch, ablation, removed, *, many):
    with grouping(many):
        pair, found = run_pair(model, batch, ablation), {}
        for chunk, some in run_circuits(model, batch, pair, removed):
            found |= dict(zip(chunk, some, strict=True))
    return torch.stack([found[i] for i in range(len(removed))])


@pytest.mark.parametrize("name", ABLATIONS)
def test_both_engines_give_what_sums_edge_by_edge_give(family, model, name):
    exact = family in families.TRUE_FLOAT64
    if not exact and name != "resample":
        pytest.skip("sums that take constants off a float32 stream leave its rounding behind")
    ablation, (batch,) = ABLATIONS[name](model), TASK.batches(9)
    removed = _removed(model, _circuits(model))
    expected = []
    with torch.no_grad():
        for one in removed:
            hooks = spanned.SlowSpans(model, batch, ablation, one).hooks()
            expected.append(model.answer_logits(batch.clean, batch, hooks))
    for many in (False, True):
        found = _logits(model, batch, ablation, removed, many=many)
        # some hundred additions of terms of order 10; norms of Llama-like families are in float32
        error = (found - torch.stack(expected)).abs().max()
        assert error < (1e-11 if exact else 5e-6)


@pytest.mark.parametrize("direction", ["noising", "denoising"])
def test_all_kept_is_clean_and_none_corrupt_and_complements_too(gpt2, direction):
    graph = _graph(gpt2)
    ends = [Circuit.full(graph), Circuit.empty(graph)]
    found = evaluate(gpt2, TASK, ends, logit_diff, direction=direction)
    assert torch.equal(found.values, torch.stack([found.clean, found.corrupt]))


def test_circuits_that_are_the_same_at_all_spans_are_todays_to_the_bit(model):
    circuits = [random_circuit(model.graph, k, seed=k) for k in (10, model.graph.n_edges // 2)]
    expected = evaluate(model, TASK, circuits, logit_diff)
    found = evaluate(model, TASK, [by_span(c, TASK.apart) for c in circuits], logit_diff)
    assert torch.equal(found.values, expected.values)


def test_padding_batches_and_spans_that_are_given_late_do_not_matter(gpt2):
    circuits = _circuits(gpt2)
    expected = evaluate(gpt2, TASK, circuits, logit_diff).values
    for task in (spanned.task("left"), spanned.task()):
        found = evaluate(gpt2, task, circuits, logit_diff, batch_size=1 + len(task.padding) % 4)
        torch.testing.assert_close(found.values, expected, atol=1e-10, rtol=0)


def test_answers_of_several_tokens_and_positions_are_run_by_span(gpt2):
    task, circuits = spanned.several().by_span(["a", "b", "end"]), _circuits(gpt2)
    assert task.apart == TASK.apart
    (batch,) = task.batches(9)
    removed = _removed(gpt2, circuits)
    found = evaluate(gpt2, task, circuits, logprob).values
    for i, one in enumerate(removed):
        hooks = spanned.SlowSpans(gpt2, batch, resample(gpt2), one).hooks()
        with torch.no_grad():
            logits = gpt2.answer_logits(batch.clean, batch, hooks)
        torch.testing.assert_close(found[i], logprob(logits, batch).double(), atol=1e-9, rtol=0)


def test_circuits_and_prompts_must_have_the_same_spans(gpt2):
    circuit = Circuit.full(_graph(gpt2))
    plain = families.ragged_task()
    with pytest.raises(ValueError, match="no prompt of task 'ragged' has the span 'a'"):
        evaluate(gpt2, plain, [circuit], logit_diff)
    with pytest.raises(
        ValueError, match="spans rest, a, b, end are kept apart there, and rest, b "
    ):
        evaluate(gpt2, spanned.task().by_span(["b"]), [circuit], logit_diff)
    with pytest.raises(ValueError, match="circuit 1 is of another graph"):
        evaluate(gpt2, TASK, [circuit, Circuit.full(gpt2.graph)], logit_diff)
    other = replace(_graph(gpt2), n_layers=3)
    with pytest.raises(ValueError, match="circuit 0 is of another graph"):
        evaluate(gpt2, TASK, [Circuit.full(other)], logit_diff)
