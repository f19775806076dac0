"""EAP and EAP-IG: whole numbers by hand, the laws they obey, and what they refuse."""

from dataclasses import replace

import families
import pytest
import torch
import toys

from circuits.scoring import METHODS, QUADRATURES, eap, eap_ig
from circuits.scoring.contract import edge_scores
from patching import tasks
from patching.capture import capture
from patching.gradients import GradientSum
from patching.live import Start
from patching.memory import budget
from patching.metrics import accuracy, kl, logit_diff, prob_diff
from patching.model import Model
from patching.quadrature import midpoint
from patching.tasks import Prompt, Task

FAMILIES = ["gpt2", "llama", "gemma2", "olmo2", "neox"]
ROUNDING = 2e-6  # relative: the float32 norms of Llama-like families


@pytest.fixture(scope="module", params=FAMILIES)
def model(request):
    return families.load(request.param, torch.float64)


@pytest.mark.parametrize("scorer", [eap, eap_ig])
def test_on_a_linear_model_scores_are_the_whole_numbers_worked_out_by_hand(scorer):
    scores = scorer(toys.linear_model(), toys.task(3), logit_diff)
    for (source, dest), expected in toys.SCORES.items():
        assert scores.of(source, dest) == pytest.approx(expected, abs=1e-9), (source, dest)
    assert int((scores.matrix.abs() > 1e-9).sum()) == len(toys.SCORES)


@pytest.mark.parametrize("scorer", [eap, eap_ig])
def test_edge_scores_out_of_a_writer_sum_to_its_node_score(model, scorer):
    """The stream is a sum, so the gradient at a write is the sum of its readers' gradients."""
    task = families.task()
    (batch,) = task.batches(len(task))
    points, weights = ([1.0], [1.0]) if scorer is eap else midpoint(5)
    expected = torch.zeros(len(model.graph.sources), dtype=torch.float64)
    for point, weight in zip(points, weights, strict=True):
        expected += weight * node_scores(model, batch, point)
    found = scorer(model, task, logit_diff).node_scores()
    error = (found - expected / len(task)).abs().max() / expected.abs().max()
    assert error < ROUNDING


def node_scores(model, batch, point):
    """Attribution patching of every writer by plain autograd at its own write, in d_model."""
    clean, corrupt = (capture(model, t, batch) for t in (batch.clean, batch.corrupt))
    embedding = torch.lerp(corrupt.embedding, clean.embedding, point)
    live = {}

    def root(_):
        live["embed"] = embedding.clone().requires_grad_()
        return live["embed"]

    def keep(name):
        def hook(x):
            live[name] = x.view_as(x)
            return live[name]

        return hook

    hooks = [("blocks.0.hook_in", root)]
    for block in model.blocks:
        hooks += [
            (block.attention_out, keep((block.index, "a"))),
            (block.mlp_out, keep(block.index)),
        ]
    values = logit_diff(model.answer_logits(batch.clean, batch, hooks), batch)
    gradients = dict(zip(live, torch.autograd.grad(values.sum(), list(live.values())), strict=True))
    difference = clean.writes - corrupt.writes
    chosen = batch.can_differ
    scores = torch.zeros(len(model.graph.sources), dtype=torch.float64)
    scores[0] = (difference.embed * gradients["embed"][chosen]).sum()
    for block in model.blocks:
        i = block.index
        writes = block.head_writes(difference.heads[i])
        at_attention = gradients[i, "a"][chosen]
        scores[model.graph.head_sources(i)] = (writes * at_attention).sum(dim=(1, 2)).double()
        mlp = (difference.mlps[i] * gradients[i][chosen]).sum()
        scores[model.graph.mlp_source(i)] = mlp
    return scores


def test_the_completeness_delta_is_the_embeddings_scores_minus_the_gap(model):
    task = families.task()
    scores = eap_ig(model, task, logit_diff, steps=3)
    (batch,) = task.batches(len(task))
    gap = logit_diff(model.answer_logits(batch.clean, batch), batch).mean()
    gap = gap - logit_diff(model.answer_logits(batch.corrupt, batch), batch).mean()
    expected = scores.node_scores()[0] - gap
    assert abs(float(scores.completeness.mean() - expected)) < ROUNDING * float(gap.abs() + 1)


def test_completeness_improves_as_the_midpoint_rule_promises(gpt2):
    """Second order: four times the steps leave about a sixteenth of the error."""
    deltas = [
        float(eap_ig(gpt2, families.task(), logit_diff, steps=n).completeness.abs().max())
        for n in (20, 80, 320)
    ]
    assert deltas[1] < deltas[0] / 10
    assert deltas[2] < deltas[1] / 10


def test_one_gauss_legendre_step_is_one_midpoint_step(gpt2):
    task = families.task()
    one = eap_ig(gpt2, task, logit_diff, steps=1, quadrature=QUADRATURES["gauss-legendre"])
    other = eap_ig(gpt2, task, logit_diff, steps=1)
    torch.testing.assert_close(one.matrix, other.matrix, atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("rule", QUADRATURES.values(), ids=QUADRATURES)
def test_quadrature_weights_sum_to_one_and_points_lie_on_the_path(rule):
    for steps in (2, 5, 9):
        points, weights = rule(steps)
        assert len(points) == len(weights) == steps
        assert sum(weights) == pytest.approx(1, abs=1e-12)
        assert all(0 <= p <= 1 for p in points)
        # every rule integrates a constant; all but the one-sided ones a slope, too
        if rule.__name__ not in ("left", "right"):
            mean = sum(w * p for p, w in zip(points, weights, strict=True))
            assert mean == pytest.approx(0.5, abs=1e-12)


@pytest.mark.parametrize("scorer", [eap, eap_ig])
def test_scores_do_not_depend_on_the_batch_size(model, scorer):
    task = families.ragged_task((9, 6, 7, 9))
    together = scorer(model, task, logit_diff, batch_size=16).matrix
    for size in (1, 2):
        alone = scorer(model, task, logit_diff, batch_size=size).matrix
        assert (alone - together).abs().max() < ROUNDING * together.abs().max()


@pytest.mark.parametrize("scorer", [eap, eap_ig])
@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma3", "opt", "gptneo", "phi", "gptj"])
def test_padding_left_and_right_gives_the_same_scores_in_float32(family, scorer):
    model = Model.load(families.module(family, torch.float32))
    task = families.ragged_task((9, 6, 7, 9))
    right = scorer(model, task, logit_diff).matrix
    left = scorer(model, replace(task, padding="left"), logit_diff).matrix
    # float32: some hundred additions of terms as large as the largest score
    assert (left - right).abs().max() < 5e-5 * right.abs().max()


@pytest.mark.parametrize("scorer", [eap, eap_ig])
def test_scores_are_zero_when_clean_equals_corrupt(model, scorer, monkeypatch):
    monkeypatch.setattr(Task, "require_contrast", lambda task: None)
    same = tuple(replace(p, corrupt=p.clean) for p in families.task().prompts)
    scores = scorer(model, Task("same", same), logit_diff)
    assert float(scores.matrix.abs().max()) == 0
    assert float(scores.completeness.abs().max()) == 0


def test_token_tiles_do_not_change_the_scores(model):
    whole = eap(model, families.task(), logit_diff)
    with budget(1):  # byte: one token a tile
        tiled = eap(model, families.task(), logit_diff)
    assert (tiled.matrix - whole.matrix).abs().max() < 1e-12 * whole.matrix.abs().max()
    counts = {"largest_tile": 1, "halved": 0, "batches_halved": 0}
    assert tiled.provenance["memory"] == {"limit": 1, **counts}


def test_bfloat16_models_are_scored_in_float32():
    exact, model = Model.load("toy"), Model.load("toy", dtype=torch.bfloat16)
    task = tasks.ioi(exact.tokenizer, n=16, seed=0)
    wide, rough = (eap(m, task, logit_diff) for m in (exact, model))
    assert rough.provenance["dtype"] == "bfloat16"
    # bfloat16 keeps 8 bits (0.4 %); products and sums in float32 add nothing to that
    assert (rough.matrix - wide.matrix).abs().max() < 0.02 * wide.matrix.abs().max()
    (batch,) = task.batches(16)
    gradients = GradientSum(model, batch.can_differ)
    gradients.add(batch, logit_diff, Start(1.0, batch.clean))
    run = capture(model, batch.corrupt, batch)
    assert run.writes.embed.dtype == torch.float32
    assert edge_scores(model, run.writes, gradients.finish()).dtype == torch.float64


def test_kl_works_on_a_path_and_is_refused_at_the_clean_run(gpt2):
    scores = eap_ig(gpt2, families.task(), kl)
    assert float(scores.matrix.abs().max()) > 0
    with pytest.raises(ValueError, match="kl has no slope at the clean run"):
        eap(gpt2, families.task(), kl)


def test_scoring_leaves_no_hooks_no_gradients_and_the_same_weights(gpt2):
    before = {n: p.clone() for n, p in gpt2.bridge.named_parameters()}
    eap_ig(gpt2, families.task(), prob_diff)
    assert not any(point.fwd_hooks or point.bwd_hooks for point in gpt2.bridge.hook_dict.values())
    for name, parameter in gpt2.bridge.named_parameters():
        assert parameter.grad is None
        assert torch.equal(parameter, before[name])


def test_provenance_says_what_was_done(gpt2):
    scores = eap_ig(gpt2, families.task(), prob_diff, steps=2, quadrature=QUADRATURES["left"])
    said = scores.provenance
    assert said["method"] == "eap-ig"
    assert said["options"]["steps"] == 2
    assert said["options"]["quadrature"] == "left"
    assert (said["options"]["rule"], said["options"]["path"]) == ("plain", "inputs")
    assert said["metric"] == "prob-diff"
    assert said["n_examples"] == len(families.task())
    assert said["weights"] == gpt2.weights
    assert said["sign"] == "clean - corrupt: positive helps the metric in the clean run"
    assert "direction" not in said  # that says noising or denoising


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
class TestEveryMethod:
    def test_refuses_a_metric_without_gradient(self, method, gpt2):
        if not method.by_gradient:
            pytest.skip("takes no gradients")
        with pytest.raises(ValueError, match="accuracy has no gradient"):
            method.function(gpt2, families.task(), accuracy)

    def test_refuses_pairs_that_do_not_differ(self, method, gpt2):
        if not method.paired:
            pytest.skip("looks at clean runs alone")
        same = Task("same", (Prompt((5, 6), (5, 6), (7,), (8,)),))
        with pytest.raises(ValueError, match="corrupt prompt equal to the clean one in row 0"):
            method.function(gpt2, same, logit_diff)

    def test_refuses_a_metric_that_returns_a_mean(self, method, gpt2):
        if not method.paired:
            pytest.skip("uses no metric")

        def mean(logits, batch):
            return logit_diff(logits, batch).mean()

        with pytest.raises(ValueError, match=r"mean returned shape \(\) for 3 examples"):
            method.function(gpt2, families.task(), mean)

    def test_refuses_a_batch_of_no_examples(self, method, gpt2):
        with pytest.raises(ValueError, match="batch_size=0"):
            method.function(gpt2, families.task(), logit_diff, batch_size=0)

    def test_refuses_token_ids_of_another_vocabulary(self, method, gpt2):
        task = Task("big", (Prompt((5, 960), (5, 961), (7,), (8,)),))
        with pytest.raises(ValueError, match="has only 97 tokens"):
            method.function(gpt2, task, logit_diff)


def test_integration_needs_a_step(gpt2):
    with pytest.raises(ValueError, match="at least 1 step, got 0"):
        eap_ig(gpt2, families.task(), logit_diff, steps=0)
    with pytest.raises(ValueError, match="trapezoid rule needs at least 2"):
        eap_ig(gpt2, families.task(), logit_diff, steps=1, quadrature=QUADRATURES["trapezoid"])
