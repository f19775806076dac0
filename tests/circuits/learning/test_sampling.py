"""The two distributions of masks: how often they are what, and their slopes."""

import math

import pytest
import torch

from circuits.learning import hard_concrete, uniform

N = 40_000


def draw(module, log_odds):
    values = torch.tensor(log_odds, dtype=torch.float64, requires_grad=True)
    return values, module.sample(values, N, torch.Generator().manual_seed(0))


def test_hard_concrete_masks_are_as_often_above_zero_as_is_said():
    values, masks = draw(hard_concrete, [-3.0, 0.0, 2.0])
    expected = hard_concrete.keep_probability(values).detach()
    # Four standard errors of a share of 40,000 draws
    torch.testing.assert_close((masks > 0).double().mean(dim=0), expected, atol=0.01, rtol=0)
    assert float(expected[1]) == pytest.approx(1 / (1 + 11 ** (-2 / 3)))  # (0.1 / 1.1)^(2/3)
    assert bool(((masks == 0) | (masks == 1)).any(dim=0).all())


def test_uniform_masks_are_whole_but_in_a_window_as_wide_as_their_variance():
    values, masks = draw(uniform, [-1.0, 0.0, 1.0])
    kept = values.sigmoid().detach()
    masks = masks.detach()
    torch.testing.assert_close(masks.mean(dim=0), kept, atol=0.01, rtol=0)
    between = ((masks > 0) & (masks < 1)).double().mean(dim=0)
    torch.testing.assert_close(between, kept * (1 - kept), atol=0.01, rtol=0)


def test_the_slope_of_uniform_masks_by_their_probability_is_one_in_the_window_and_zero_outside():
    values, masks = draw(uniform, [1.0])
    kept = float(values.detach().sigmoid())
    (slope,) = torch.autograd.grad(masks.sum(), values)
    inside = float(((masks > 0) & (masks < 1)).sum())
    assert float(slope) == pytest.approx(inside * kept * (1 - kept))


def test_slopes_of_hard_concrete_masks_equal_finite_differences():
    def total(by):
        values = torch.tensor([0.3 + by], dtype=torch.float64, requires_grad=True)
        masks = hard_concrete.sample(values, 1000, torch.Generator().manual_seed(1))
        return values, masks.sum()

    values, found = total(0.0)
    (slope,) = torch.autograd.grad(found, values)
    difference = float((total(1e-6)[1] - total(-1e-6)[1]).detach()) / 2e-6
    assert float(slope) == pytest.approx(difference, rel=1e-2)  # kinks at 0 and 1
    assert math.isfinite(float(slope))
