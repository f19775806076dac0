"""Exact scores: whole numbers by hand, evaluation without one edge, and what they refuse."""

from dataclasses import replace

import families
import pytest
import torch
import toys

from circuits import Circuit
from circuits.running.evaluation import evaluate
from circuits.scores import merge
from circuits.scoring import eap
from circuits.scoring.single_edges import exact
from circuits.select import random_circuit
from patching.ablations import mean, zero
from patching.memory import budget
from patching.metrics import accuracy, kl, logit_diff
from patching.tasks import Prompt, Task

FAMILIES = ["gpt2", "llama", "gemma2", "neox"]
ROUNDING = 2e-6  # relative: the float32 norms of Llama-like families


@pytest.fixture(scope="module", params=FAMILIES)
def model(request):
    return families.load(request.param, torch.float64)


def some_edges(model, n=12):
    return random_circuit(model.graph, n, seed=1).edges


def test_on_a_linear_model_scores_are_the_whole_numbers_worked_out_by_hand():
    scores = exact(toys.linear_model(), toys.task(3), logit_diff)
    for (source, dest), expected in toys.SCORES.items():
        assert scores.of(source, dest) == pytest.approx(expected, abs=1e-9), (source, dest)
    assert int((scores.matrix.abs() > 1e-9).sum()) == len(toys.SCORES)


def test_under_zero_ablation_an_edge_loses_what_its_writer_wrote():
    """Nothing is written for B: head 1's edge and the value it would have read lose nothing."""
    scores = exact(toys.linear_model(), toys.task(), logit_diff, ablation=zero)
    # head 0 writes -2 into the metric, and through the MLP 10; head 1 writes nothing on A
    expected = {("a0.h0", "logits"): -2, ("a0.h0", "m0"): 10, ("a0.h1", "logits"): 0}
    for (source, dest), value in expected.items():
        assert scores.of(source, dest) == pytest.approx(value, abs=1e-9), (source, dest)


@pytest.mark.parametrize("ablation", ["resample", "mean"])
def test_an_edges_score_is_the_loss_of_the_full_circuit_without_it(model, ablation):
    task, edges = families.task(), some_edges(model)
    options = {"ablation": mean(task)} if ablation == "mean" else {}
    found = exact(model, task, logit_diff, edges=edges, **options)
    full = Circuit.full(model.graph)
    without = [full - Circuit.from_edges(model.graph, [edge]) for edge in edges]
    result = evaluate(model, task, without, logit_diff, **options)
    expected = (result.clean - result.values).mean(dim=1)
    scores = torch.tensor([found.of(*edge) for edge in edges], dtype=torch.float64)
    assert (scores - expected).abs().max() < ROUNDING * result.clean.abs().max()


def test_chosen_edges_get_the_scores_they_have_among_all(gpt2):
    task, edges = families.task(), some_edges(gpt2)
    everything = exact(gpt2, task, logit_diff)
    some = exact(gpt2, task, logit_diff, edges=edges)
    mask = Circuit.from_edges(gpt2.graph, edges).mask
    expected = everything.matrix * mask
    torch.testing.assert_close(some.matrix, expected, atol=1e-12, rtol=0)


def test_scores_do_not_depend_on_the_batch_size_or_on_how_edges_are_put_together(model):
    parts = [families.task(1, length, seed=length).prompts for length in (9, 6, 7, 9)]
    task = Task("ragged", tuple(prompt for part in parts for prompt in part))
    edges = some_edges(model, 60)
    together = exact(model, task, logit_diff, edges=edges).matrix
    with budget(1):  # one edge at a time
        alone = exact(model, task, logit_diff, edges=edges, batch_size=3).matrix
    assert (alone - together).abs().max() < ROUNDING * together.abs().max()


def test_scores_are_zero_when_clean_equals_corrupt(gpt2, monkeypatch):
    monkeypatch.setattr(Task, "require_contrast", lambda task: None)
    same = tuple(replace(p, corrupt=p.clean) for p in families.task().prompts)
    scores = exact(gpt2, Task("same", same), logit_diff)
    assert float(scores.matrix.abs().max()) < 1e-12


def test_metrics_without_a_gradient_will_do(gpt2):
    (batch,) = families.task().batches(3)
    best = gpt2.answer_logits(batch.clean, batch).argmax(dim=1).tolist()
    prompts = [
        replace(prompt, answers=(token,), wrong_answers=())
        for prompt, token in zip(families.task().prompts, best, strict=True)
    ]
    task = Task("right", tuple(prompts))
    lost = exact(gpt2, task, accuracy).matrix
    # every prompt is right in the clean run: each edge loses a number of thirds, never gains
    torch.testing.assert_close(lost * 3, (lost * 3).round(), atol=1e-12, rtol=0)
    assert float(lost.min()) >= 0
    assert float(lost.max()) > 0
    divergence = exact(gpt2, task, kl).matrix
    assert float(divergence.min()) > -1e-12  # minus KL is at most 0, its value at the clean run


def test_scoring_leaves_no_hooks_no_gradients_and_the_same_weights(gpt2):
    before = {n: p.clone() for n, p in gpt2.bridge.named_parameters()}
    blocks = list(gpt2.bridge.blocks)
    exact(gpt2, families.task(), logit_diff, edges=some_edges(gpt2))
    assert list(gpt2.bridge.blocks) == blocks
    assert not any(point.fwd_hooks or point.bwd_hooks for point in gpt2.bridge.hook_dict.values())
    for name, parameter in gpt2.bridge.named_parameters():
        assert parameter.grad is None
        assert torch.equal(parameter, before[name])


def test_provenance_says_which_edges_were_scored(gpt2):
    edges = [("embed", "m0"), ("m0", "logits"), ("embed", "m0")]
    some = exact(gpt2, families.task(), logit_diff, edges=edges, ablation=zero).provenance
    assert some["method"] == "exact"
    assert some["ablation"] == "zero"
    assert some["scored_edges"] == ["embed->m0", "m0->logits"]
    assert some["options"]["n_edges"] == 2
    everything = exact(toys.linear_model(), toys.task(), logit_diff).provenance
    assert everything["scored_edges"] == "all"
    assert everything["options"] == {"n_edges": 13, "edges": "all"}


def test_results_of_different_edges_are_not_merged(gpt2):
    one, other = (
        exact(gpt2, families.task(), logit_diff, edges=[edge])
        for edge in (("embed", "m0"), ("m0", "logits"))
    )
    with pytest.raises(ValueError, match="differ in options"):
        merge(one, other)


def test_first_order_scores_of_a_curved_model_are_not_exact(gpt2):
    """The test above would pass for a scorer that linearises; this one would not."""
    task = families.task()
    true, estimate = exact(gpt2, task, logit_diff).matrix, eap(gpt2, task, logit_diff).matrix
    assert (true - estimate).abs().max() > 0.01 * true.abs().max()


class TestRefusals:
    def test_no_edges(self, gpt2):
        with pytest.raises(ValueError, match="no edges to score; give at least one, or None"):
            exact(gpt2, families.task(), logit_diff, edges=[])

    def test_edges_that_the_graph_lacks(self, gpt2):
        with pytest.raises(ValueError, match="no edge m0->a0.h0.q"):
            exact(gpt2, families.task(), logit_diff, edges=[("m0", "a0.h0.q")])

    def test_pairs_that_do_not_differ(self, gpt2):
        same = Task("same", (Prompt((5, 6), (5, 6), (7,), (8,)),))
        with pytest.raises(ValueError, match="corrupt prompt equal to the clean one in row 0"):
            exact(gpt2, same, logit_diff)

    def test_token_ids_of_another_vocabulary(self, gpt2):
        task = Task("big", (Prompt((5, 960), (5, 961), (7,), (8,)),))
        with pytest.raises(ValueError, match="has only 97 tokens"):
            exact(gpt2, task, logit_diff)

    def test_a_metric_that_returns_a_mean(self, gpt2):
        def average(logits, batch):
            return logit_diff(logits, batch).mean()

        with pytest.raises(ValueError, match=r"average returned shape \(\) for 3 examples"):
            exact(gpt2, families.task(), average)

    def test_a_batch_of_no_examples(self, gpt2):
        with pytest.raises(ValueError, match="batch_size=0"):
            exact(gpt2, families.task(), logit_diff, batch_size=0)
