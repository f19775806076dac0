"""Constants that hurt least: known by hand, never worse than means, and the same as evaluated."""

import families
import pytest
import torch

from circuits.checks.linear import STOP, A, B, linear_model
from circuits.circuit import Circuit
from circuits.running.evaluation import evaluate
from patching.ablations import mean
from patching.descent import Schedule
from patching.metrics import accuracy, logit_diff
from patching.model import Model
from patching.optimal import optimal
from patching.tasks import Prompt, Task


@pytest.fixture(scope="module")
def linear():
    return linear_model()


@pytest.fixture(scope="module")
def mixed():
    """Clean prompts A, A and B: the MLP adds 10, 10 and 0 to the metric."""
    pair = Prompt((A, STOP), (B, STOP), (A,), (B,))
    turned = Prompt((B, STOP), (A, STOP), (A,), (B,))
    return Task("mixed", (pair, pair, turned))


def test_the_best_constant_of_a_linear_writer_is_the_median_of_what_it_adds(linear, mixed):
    """Mean distances are least at a median: 10 of (10, 10, 0), where a third of 10 is lost."""
    plan = Schedule(steps=120, rate=0.1)
    found = optimal(linear, mixed, logit_diff, schedule=plan)
    mlp = linear.graph.source_index("m0")
    assert float(found.losses[mlp]) == pytest.approx(10 / 3, abs=0.3)  # Adam's last steps
    first, _, third, _ = found.constants.writes.mlps[0][0].tolist()
    assert first - third == pytest.approx(10, abs=0.5)
    assert float(found.mean_losses[mlp]) > 4


@pytest.mark.parametrize("family", ["gpt2", "gemma2", "granite", "neox"])
def test_no_writer_loses_more_than_by_its_mean_and_losses_are_those_of_circuits(family):
    """Removing a writer is removing all its edges."""
    model, task = Model.load(families.module(family, torch.float64)), families.task()
    found = optimal(model, task, logit_diff, schedule=Schedule(steps=2))
    assert bool((found.losses <= found.mean_losses).all())
    assert float(found.losses.sum()) < float(found.mean_losses.sum())
    without = []
    for writer in range(len(model.graph.sources)):
        mask = model.graph.exists.clone()
        mask[writer] = False
        without.append(Circuit(mask, model.graph))
    for ablation, losses in ((mean(task), found.mean_losses), (found, found.losses)):
        result = evaluate(model, task, without, logit_diff, ablation=ablation)
        lost = (result.clean - result.values).abs().mean(dim=1)
        # Parts of these families run in float32: 1e-7 of the largest value
        torch.testing.assert_close(lost, losses, atol=3e-6 * float(losses.max()), rtol=0)


def test_groups_of_writers_learn_what_all_learn_together(linear, mixed, monkeypatch):
    together = optimal(linear, mixed, logit_diff, schedule=Schedule(steps=5))
    monkeypatch.setattr("patching.optimal.ROWS", 6)  # two writers at a time
    apart = optimal(linear, mixed, logit_diff, schedule=Schedule(steps=5))
    torch.testing.assert_close(apart.losses, together.losses, atol=1e-6, rtol=0)  # Adam's epsilon


def test_a_stopped_training_of_constants_goes_on(linear, mixed, tmp_path):
    unbroken = optimal(linear, mixed, logit_diff, schedule=Schedule(steps=6))
    kept = Schedule(steps=6, folder=tmp_path)
    for _ in range(2):
        again = optimal(linear, mixed, logit_diff, schedule=kept)
        assert torch.equal(again.losses, unbroken.losses)


def test_constants_are_for_the_model_they_were_learned_in(linear, mixed):
    found = optimal(linear, mixed, logit_diff, schedule=Schedule(steps=1))
    other = Model.load("truth/copy")
    with pytest.raises(ValueError, match="than truth/copy's; learn them anew"):
        found(other)


def test_a_metric_without_gradient_is_refused(linear, mixed):
    with pytest.raises(ValueError, match="accuracy has no gradient to learn by"):
        optimal(linear, mixed, accuracy)
