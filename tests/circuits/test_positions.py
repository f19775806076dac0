"""Edge scores with positions kept: they sum to the scores, and each is what its token is worth."""

from dataclasses import dataclass, replace

import families
import pytest
import torch
import toys

from circuits.running.pair import run_pair
from circuits.scoring import Recipe, along_activations, along_inputs, at_both, at_clean, score
from circuits.scoring.positions import position_scores
from patching.ablations import Prepared, resample, zero
from patching.metrics import accuracy, kl, logit_diff
from patching.model import Model
from patching.rules import relp
from patching.tasks import Prompt, Task

ROUNDING = 2e-6  # relative: the float32 norms of Llama-like families
RECIPES = {
    "eap": Recipe(),
    "relp": Recipe(rule=relp),
    "relp on inputs": Recipe(along_inputs(2), rule=relp),
    "clean-corrupt": Recipe(at_both),
    "own activations": Recipe(along_activations(1, own_edges_only=True)),
    "zero": Recipe(ablation=zero),
}


@pytest.fixture(scope="module", params=["gpt2", "llama", "gemma2"])
def model(request):
    return families.load(request.param, torch.float64)


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_scores_sum_over_positions_to_the_ordinary_scores(model, recipe):
    expected = score(model, families.ragged_task(), logit_diff, recipe)
    found = position_scores(model, families.ragged_task(), logit_diff, recipe=recipe, batch_size=2)
    assert found.tensor.shape == (*model.graph.exists.shape, 9)
    error = (found.total().matrix - expected.matrix).abs().max() / expected.matrix.abs().max()
    assert error < ROUNDING


def test_on_a_linear_model_the_head_reads_at_the_first_token_and_the_metric_at_the_second():
    scores = position_scores(toys.linear_model(), toys.task(3), logit_diff)
    by_hand = {
        ("embed", "a0.h0.v"): (8, 0),
        ("embed", "a0.h1.v"): (-3, 0),
        ("a0.h0", "m0"): (0, 10),
        ("a0.h0", "logits"): (0, -2),
        ("m0", "logits"): (0, 10),
    }
    for edge, expected in by_hand.items():
        assert scores.of(*edge).tolist() == pytest.approx(expected, abs=1e-9), edge


@dataclass(frozen=True)
class AtOnePlace:
    """Only one position's writes are replaced: what is left of an ablation there."""

    inner: Prepared
    place: int
    name: str = "one place"
    paired: bool = True

    def tokens(self, batch):
        return self.inner.tokens(batch) & (batch.places == self.place)

    def replace(self, batch, clean, corrupt):
        return self.inner.replace(batch, clean, corrupt)


def test_both_runs_are_themselves_where_an_ablation_leaves_tokens_alone(model):
    """Prompts differ at more tokens than it replaces: what it puts in is of the corrupt run."""
    batch = next(families.task().batches(4, model.device))
    usual = run_pair(model, batch, resample(model))
    found = run_pair(model, batch, AtOnePlace(resample(model), 5))
    there = (batch.places[usual.tokens] == 5).nonzero().squeeze(1)
    torch.testing.assert_close(found.clean.logits, usual.clean.logits, rtol=0, atol=1e-12)
    replaced, expected = found.replaced.mlps, usual.replaced[there].mlps
    for one, other in zip(replaced, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)


@pytest.mark.parametrize("place", [2, 5, 8])
def test_a_positions_scores_are_those_of_an_ablation_at_that_position_alone(model, place):
    task = families.task()
    ablation = lambda m: AtOnePlace(resample(m), place)  # noqa: E731
    expected = score(model, task, logit_diff, Recipe(at_clean, ablation=ablation)).matrix
    found = position_scores(model, task, logit_diff).tensor
    error = (found[:, :, place] - expected).abs().max() / found.abs().max()
    assert error < ROUNDING


def test_scores_do_not_depend_on_the_side_of_padding():
    model = Model.load(families.module("gpt2", torch.float32))
    right = position_scores(model, families.ragged_task(), logit_diff).tensor
    left = position_scores(
        model, replace(families.ragged_task(), padding="left"), logit_diff
    ).tensor
    # float32: some hundred additions of terms as large as the largest score
    assert (left - right).abs().max() < 5e-5 * right.abs().max()


def test_spans_are_scores_that_say_which_positions_they_hold(gpt2):
    scores = position_scores(gpt2, families.task(), logit_diff)
    parts = scores.over_spans({"start": range(0, 6), "end": range(6, 9)})
    assert list(parts) == ["start", "end"]
    assert parts["end"].provenance["positions"] == "end: [6, 7, 8]"
    together = parts["start"].matrix + parts["end"].matrix
    torch.testing.assert_close(together, scores.total().matrix)


def test_spans_beyond_the_prompts_are_refused(gpt2):
    scores = position_scores(gpt2, families.task(), logit_diff)
    with pytest.raises(ValueError, match="the span 'far' is .* positions 0 to 8"):
        scores.over_spans({"far": range(8, 10)})
    with pytest.raises(ValueError, match="no edge m1->m0"):
        scores.of("m1", "m0")


def test_what_cannot_be_scored_is_refused(gpt2):
    with pytest.raises(ValueError, match="accuracy has no gradient"):
        position_scores(gpt2, families.task(), accuracy)
    with pytest.raises(ValueError, match="kl has no slope at the clean run"):
        position_scores(gpt2, families.task(), kl)
    with pytest.raises(ValueError, match="batch_size=0"):
        position_scores(gpt2, families.task(), logit_diff, batch_size=0)
    same = Task("same", (Prompt((5, 6), (5, 6), (7,), (8,)),))
    with pytest.raises(ValueError, match="corrupt prompt equal to the clean one in row 0"):
        position_scores(gpt2, same, logit_diff)
