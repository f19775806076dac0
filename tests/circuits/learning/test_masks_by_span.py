"""Masks of edges at each span: the slow twin, laws, slopes, and circuits learned of them."""

import families
import pytest
import spanned
import torch
import toys

from circuits import Circuit, evaluate
from circuits.learning import edge_pruning, optimal_outside, subnetwork_probing, uniform_sampling
from circuits.running.masked import run_ends, run_masked
from circuits.scoring.within import scores_within
from circuits.spans import by_span, collapsed
from patching.ablations import mean, resample
from patching.descent import Schedule
from patching.metrics import logit_diff
from patching.span_graph import SpanGraph
from patching.tasks import each_position

TASK = spanned.task().by_span()
ABLATIONS = {"resample": resample, "mean": mean(families.task())}


@pytest.fixture(scope="module", params=ABLATIONS)
def ablation(request, gpt2):
    return ABLATIONS[request.param](gpt2)


def _batch(task=TASK):
    (found,) = task.batches(9)
    return found


def _blends(model, *n):
    noise = torch.Generator().manual_seed(0)
    exists = model.graph.exists[..., None]
    blends = torch.rand(*n, *model.graph.exists.shape, 4, generator=noise, dtype=torch.float64)
    return blends * exists


def test_masks_by_span_give_what_sums_edge_by_edge_give(gpt2, ablation):
    ends, removed = run_ends(gpt2, _batch(), ablation), _blends(gpt2)
    hooks = spanned.SlowSpans(gpt2, _batch(), ablation, removed).hooks()
    with torch.no_grad():
        expected = gpt2.answer_logits(_batch().clean, _batch(), hooks)
    found = run_masked(gpt2, _batch(), ends, removed)
    # some hundred additions of terms of order 10
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-11)


def test_masks_that_are_alike_at_all_spans_are_those_without(gpt2, ablation):
    ends, removed = run_ends(gpt2, _batch(), ablation), _blends(gpt2)[..., 0]
    expected = run_masked(gpt2, _batch(), ends, removed)
    found = run_masked(gpt2, _batch(), ends, removed[..., None].expand(-1, -1, 4))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("task", [TASK, spanned.task("left").by_span(), spanned.several()])
def test_examples_can_have_masks_by_span_of_their_own(gpt2, task):
    batch = _batch(task.by_span())
    removed = _blends(gpt2, len(batch))
    ends = run_ends(gpt2, batch, resample(gpt2))
    logits = run_masked(gpt2, batch, ends, removed)
    for i, one in enumerate(removed):
        mine = batch._asked_of(torch.tensor([i]))
        alone = run_masked(gpt2, batch, ends, one)
        torch.testing.assert_close(logits[mine], alone[mine], rtol=0, atol=1e-11)


def test_slopes_by_masks_at_spans_equal_finite_differences(gpt2, ablation):
    ends, removed = run_ends(gpt2, _batch(), ablation), _blends(gpt2).requires_grad_()

    def value(by):
        return logit_diff(run_masked(gpt2, _batch(), ends, by), _batch()).sum()

    (slope,) = torch.autograd.grad(value(removed), removed)
    cells = gpt2.graph.exists.nonzero()[::71].tolist()
    for i, edge in enumerate(cells):
        step = torch.zeros_like(removed)
        step[(*edge, i % 4)] = 1e-5  # error of the central difference: 1e-10 of the third slope
        up, down = (float(value(removed.detach() + by)) for by in (step, -step))
        found = float(slope[(*edge, i % 4)])
        assert found == pytest.approx((up - down) / 2e-5, abs=1e-6 * float(slope.abs().max()))


def test_masks_of_another_shape_are_refused_with_the_spans(gpt2):
    ends = run_ends(gpt2, _batch(), resample(gpt2))
    with pytest.raises(ValueError, match=r"\[source, dest, span\], or one .* 3 examples; got \[2"):
        run_masked(gpt2, _batch(), ends, torch.zeros(2, 11, 27, 4))


@pytest.mark.parametrize("learn", [edge_pruning, uniform_sampling])
def test_masks_are_learned_of_edges_at_spans(learn):
    """On the linear model the head reads at the first token, and the metric at the second."""
    model, task = toys.linear_model(), each_position(toys.task(4)).by_span()
    plan = Schedule(steps=20, rate=1.0, batch_size=4)
    learned = learn(model, task, logit_diff, size=3, schedule=plan)
    assert learned.scores.graph == SpanGraph.of(model.graph, ("rest", "0", "1"))
    expected = [("embed", "a0.h0.v@0"), ("a0.h0", "m0@1"), ("m0", "logits@1")]
    assert learned.circuit() == Circuit.from_edges(learned.scores.graph, expected)
    assert "spans" in learned.scores.provenance


def test_nodes_are_masked_at_all_spans_alone(gpt2):
    with pytest.raises(ValueError, match="subnetwork probing keeps no spans apart"):
        subnetwork_probing(gpt2, TASK, logit_diff, size=2)


def test_constants_outside_a_circuit_by_span_are_never_worse_than_means(gpt2):
    graph = SpanGraph.of(gpt2.graph, TASK.apart)
    circuit = Circuit.from_edges(graph, [edge for edge in Circuit.full(graph).edges[::2]])
    found = optimal_outside(gpt2, TASK, circuit, logit_diff, schedule=Schedule(steps=3))
    runs = evaluate(gpt2, TASK, [circuit], logit_diff, ablation=found)
    lost = float((runs.clean - runs.values[0]).abs().mean())
    assert lost == pytest.approx(float(found.losses), rel=1e-6)
    assert float(found.losses) <= float(found.mean_losses)


def test_scores_within_a_circuit_by_span_sum_to_those_without(gpt2):
    whole = Circuit.full(gpt2.graph)
    plain = scores_within(gpt2, families.ragged_task(), logit_diff, whole, steps=1)
    apart = by_span(whole, TASK.apart)
    found = scores_within(gpt2, spanned.task(), logit_diff, apart, steps=1)
    torch.testing.assert_close(collapsed(found).matrix, plain.matrix, rtol=0, atol=1e-11)
