"""The adjusted path, written out plainly with the model library alone."""

import families
import pytest
import torch

from patching.ablations import resample
from patching.approach import approach, logits_from
from patching.capture import capture
from patching.paths import Ends, adjusted


@pytest.fixture(scope="module")
def model():
    return families.load("gpt2", torch.float64)


@pytest.fixture(scope="module")
def ends(model):
    (batch,) = families.task(n=2, length=6).batches(4)
    clean, corrupt = (capture(model, ids, batch) for ids in (batch.clean, batch.corrupt))
    replaced = resample(model).replace(batch, clean, corrupt)
    return Ends(model, batch, batch.can_differ, clean, replaced)


def test_logits_from_the_corrupt_embedding_are_those_of_the_corrupt_run(model, ends):
    expected = model.run(ends.batch.corrupt).logits
    torch.testing.assert_close(logits_from(model, ends.batch, ends.replaced.embedding), expected)


def test_each_step_goes_down_the_distance_by_its_length(model, ends):
    """Against the derivative along the step, by differences."""
    target = logits_from(model, ends.batch, ends.replaced.embedding)

    def distance(embedding):
        return (logits_from(model, ends.batch, embedding) - target).square().sum(dim=(1, 2))

    here = ends.clean.embedding
    length = torch.tensor([1e-5, 2e-5], dtype=torch.float64)
    there = approach(model, ends.batch, here, target, length)
    step = (there - here).flatten(1)
    torch.testing.assert_close(step.norm(dim=1), length)
    fallen = distance(here) - distance(there)
    generator = torch.Generator().manual_seed(0)
    for _ in range(5):  # no other direction is steeper
        other = torch.randn(step.shape, generator=generator, dtype=torch.float64)
        other = (other / other.norm(dim=1, keepdim=True) * length[:, None]).view_as(here)
        assert bool((distance(here) - distance(here - other) < fallen).all())


def test_who_has_arrived_stays(model, ends):
    end = ends.replaced.embedding
    target = logits_from(model, ends.batch, end)
    length = torch.ones(2, dtype=torch.float64)
    assert torch.equal(approach(model, ends.batch, end, target, length), end)


@pytest.mark.parametrize("scaled", [False, True])
def test_steps_are_as_long_as_one_or_as_those_of_a_straight_path(ends, scaled):
    path = adjusted(4, scaled=scaled)
    assert path.between is not None
    points = [ends.clean.embedding, *(step.embedding for step in path.between(ends))]
    straight = (ends.clean.embedding - ends.replaced.embedding).flatten(1).norm(dim=1) / 4
    expected = straight if scaled else torch.ones_like(straight)
    for before, after in zip(points, points[1:], strict=False):
        torch.testing.assert_close((after - before).flatten(1).norm(dim=1), expected)


def test_no_steps_are_refused():
    with pytest.raises(ValueError, match="need at least 1 step, got 0"):
        adjusted(0)
