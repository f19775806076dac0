"""Attribution patching of writers, their dimensions, positions and neurons: laws and refusals."""

from dataclasses import replace

import families
import pytest
import torch
import toys

from circuits.scoring import Recipe, score
from patching import memory
from patching.ablations import positional_mean, resample, zero
from patching.attribution import attribute, attribution_patching, over_spans
from patching.metrics import accuracy, kl, logit_diff
from patching.model import Model
from patching.rules import RULES, plain, relp
from patching.tasks import Prompt, Task

ROUNDING = 2e-6  # relative: the float32 norms of Llama-like families
FAMILIES = ["gpt2", "llama", "gemma2", "olmo2", "neox", "granite", "qwen3"]


@pytest.fixture(scope="module", params=FAMILIES)
def model(request):
    return families.load(request.param, torch.float64)


def assert_close(found, expected, tolerance=ROUNDING):
    assert (found - expected).abs().max() < tolerance * expected.abs().max()


@pytest.mark.parametrize("rule", ["plain", "relp", "relp-ah", "attn-lrp"])
def test_a_writers_score_is_the_sum_of_its_edges_scores(model, rule):
    """The stream is a sum, so the gradient at a write is the sum of its readers' gradients."""
    edges = score(model, families.task(), logit_diff, Recipe(rule=RULES[rule]))
    found = attribute(model, families.task(), logit_diff, rule=RULES[rule])
    assert_close(found.writers, edges.node_scores())


@pytest.mark.parametrize("rule", [plain, relp])
@pytest.mark.parametrize("ablation", [zero, positional_mean(families.task())])
def test_writers_are_sums_of_edges_under_other_ablations_too(gpt2, rule, ablation):
    edges = score(gpt2, families.task(), logit_diff, Recipe(rule=rule, ablation=ablation))
    found = attribute(gpt2, families.task(), logit_diff, rule=rule, ablation=ablation)
    assert_close(found.writers, edges.node_scores(), 1e-12)


def test_on_a_linear_model_scores_are_the_whole_numbers_worked_out_by_hand():
    scores = attribute(toys.linear_model(), toys.task(3), logit_diff)
    expected = {"embed": 5, "a0.h0": 8, "a0.h1": -3, "m0": 10}
    for name, value in expected.items():
        assert scores.of(name) == pytest.approx(value, abs=1e-9), name
    # head 0 writes (0, 0, 2, -2); the MLP makes (5x, -5x, 0, 0) of x = 2, and the metric takes
    # the first coordinate less the third, both less the mean: 5 * 2 - 2
    assert float(scores.dimensions[1].sum()) == pytest.approx(8, abs=1e-9)
    assert scores.dimensions[1, :2].tolist() == pytest.approx([0, 0], abs=1e-9)


def test_dimensions_and_positions_sum_to_the_writers(model):
    scores = attribute(model, families.ragged_task(), logit_diff)
    assert_close(scores.dimensions.sum(dim=1), scores.writers, 1e-9)
    assert scores.positions.shape == (len(model.graph.sources), 9)
    # clean and corrupt are equal before the third token
    assert float(scores.positions[:, :2].abs().max()) == 0


def test_a_dimensions_score_is_the_metrics_slope_along_that_part_of_the_write(gpt2):
    """A finite difference: move one dimension of one MLP's write towards the corrupt run's."""
    (batch,) = families.task().batches(16)
    name, kept = gpt2.blocks[0].mlp_out, []
    for tokens in (batch.clean, batch.corrupt):
        gpt2.answer_logits(tokens, batch, [(name, lambda x: kept.append(x.clone()))])
    clean, corrupt = kept
    direction = torch.zeros_like(clean)
    direction[..., 5] = (clean - corrupt)[..., 5]

    def metric_at(step):
        logits = gpt2.answer_logits(batch.clean, batch, [(name, lambda x: x + step * direction)])
        return float(logit_diff(logits, batch).mean())

    slope = (metric_at(1e-5) - metric_at(-1e-5)) / 2e-5  # second order: error about 1e-10
    found = attribute(gpt2, families.task(), logit_diff)
    assert float(found.dimensions[gpt2.graph.mlp_source(0), 5]) == pytest.approx(slope, rel=1e-6)


@pytest.mark.parametrize("family", ["gpt2", "llama", "neox", "phi3"])
@pytest.mark.parametrize("rule", [plain, relp])
def test_a_layers_neurons_sum_to_its_mlp_where_no_norm_follows(family, rule):
    model = Model.load(families.module(family, torch.float64))
    options = {"direction": "noising", "kinds": ["neurons"], "rule": rule, "batch_size": 2}
    found = attribution_patching(model, families.ragged_task(), logit_diff, **options)
    found = found["neurons"].mean
    graph = model.graph
    writers = attribute(model, families.ragged_task(), logit_diff, rule=rule).writers
    mlps = writers[[graph.mlp_source(layer) for layer in range(graph.n_layers)]]
    assert_close(found.sum(dim=1), mlps)
    assert found.shape[1] in (48, 64, 128)


def test_scores_do_not_depend_on_batches_or_tiles(model):
    task = families.ragged_task()
    whole = attribute(model, task, logit_diff)
    with memory.budget(1):
        tiled = attribute(model, task, logit_diff, batch_size=1)
    assert_close(tiled.positions, whole.positions)
    assert_close(tiled.dimensions, whole.dimensions)


@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma3"])
def test_positions_count_from_the_first_real_token_on_either_side_of_padding(family):
    model = Model.load(families.module(family, torch.float32))
    right = attribute(model, families.ragged_task(), logit_diff).positions
    left = attribute(model, replace(families.ragged_task(), padding="left"), logit_diff).positions
    # float32: some hundred additions of terms as large as the largest score
    assert_close(left, right, 5e-5)


def test_attribution_leaves_no_hooks_no_gradients_and_the_same_weights(gpt2):
    before = {n: p.clone() for n, p in gpt2.bridge.named_parameters()}
    attribute(gpt2, families.task(), logit_diff, rule=relp)
    assert not any(point.fwd_hooks or point.bwd_hooks for point in gpt2.bridge.hook_dict.values())
    for name, parameter in gpt2.bridge.named_parameters():
        assert parameter.grad is None
        assert torch.equal(parameter, before[name])


def test_mixtures_of_experts_are_scored_and_said_to_be_unruled():
    model = Model.load(families.module("mixtral", torch.float32))
    scores = attribute(model, families.task(), logit_diff, rule=relp)
    assert bool(scores.writers.isfinite().all())
    assert any("m0" in place for place in scores.unruled)


def test_spans_add_up_the_positions_they_name(gpt2):
    scores = attribute(gpt2, families.task(), logit_diff).positions
    found = over_spans(scores, {"end": range(7, 9), "start": range(0, 7)})
    torch.testing.assert_close(found[:, 0], scores[:, 7] + scores[:, 8])
    torch.testing.assert_close(found.sum(dim=1), scores.sum(dim=1))


@pytest.mark.parametrize("span", [range(7, 10), range(3, 3), range(-1, 2)])
def test_spans_outside_the_positions_are_refused(span):
    with pytest.raises(ValueError, match="the span 'x' is .* positions 0 to 8"):
        over_spans(torch.zeros(2, 9), {"x": span})


def test_spans_without_any_are_refused():
    with pytest.raises(ValueError, match="got no spans"):
        over_spans(torch.zeros(2, 9), {})


class TestRefusals:
    def test_refuses_a_metric_without_gradient(self, gpt2):
        with pytest.raises(ValueError, match="accuracy has no gradient"):
            attribute(gpt2, families.task(), accuracy)

    def test_refuses_a_metric_that_is_flat_at_the_clean_run(self, gpt2):
        with pytest.raises(ValueError, match="kl has no slope at the clean run"):
            attribute(gpt2, families.task(), kl)

    def test_refuses_pairs_that_do_not_differ(self, gpt2):
        same = Task("same", (Prompt((5, 6), (5, 6), (7,), (8,)),))
        with pytest.raises(ValueError, match="corrupt prompt equal to the clean one in row 0"):
            attribute(gpt2, same, logit_diff)

    def test_refuses_token_ids_of_another_vocabulary(self, gpt2):
        task = Task("big", (Prompt((5, 960), (5, 961), (7,), (8,)),))
        with pytest.raises(ValueError, match="has only 97 tokens"):
            attribute(gpt2, task, logit_diff)

    def test_refuses_a_batch_of_no_examples(self, gpt2):
        with pytest.raises(ValueError, match="batch_size=0"):
            attribute(gpt2, families.task(), logit_diff, batch_size=0)


def test_an_unknown_writer_is_refused(gpt2):
    with pytest.raises(ValueError, match="no source named 'a9.h0'"):
        attribute(gpt2, families.task(), logit_diff, ablation=resample).of("a9.h0")
