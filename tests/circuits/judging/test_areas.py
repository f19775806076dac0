import math

import pytest
import torch
from handmade import curve

from circuits.judging.areas import area, cmd, cpr, linear, logarithmic
from circuits.judging.faithfulness import MIB_SHARES

STEP = [0.0] * 9 + [1.0]


def judged(kept: list[float], ranking: str, **changes):
    """A MIB curve with these values of faithfulness: the clean run has 1, the corrupt one 0."""
    values = torch.tensor(kept, dtype=torch.float64)[:, None].expand(-1, 4)
    ones, zeros = torch.ones(4), torch.zeros(4)
    changes = {"shares": MIB_SHARES, "ranking": ranking, **changes}
    return curve(values, ones, zeros, **changes)


def test_circuits_that_keep_nothing_get_the_published_random_row():
    assert cpr(judged(STEP, "signed")).value == pytest.approx(0.25, abs=1e-12)
    assert cmd(judged(STEP, "absolute")).value == pytest.approx(0.749, abs=1e-12)


def test_circuits_like_the_model_get_the_whole_axis():
    assert cpr(judged([1.0] * 10, "signed")).value == pytest.approx(0.999, abs=1e-12)
    assert cmd(judged([1.0] * 10, "absolute")).value == 0


def test_more_than_the_model_raises_one_area_and_worsens_the_other():
    kept = [2.0] * 10
    assert cpr(judged(kept, "signed")).value == pytest.approx(2 * 0.999)
    assert cmd(judged(kept, "absolute")).value == pytest.approx(0.999)


def test_every_point_weighs_what_the_trapezoids_give_it():
    weights = [0.0005, 0.002, 0.004, 0.0075, 0.02, 0.04, 0.075, 0.2, 0.4, 0.25]
    one_each = torch.eye(10, dtype=torch.float64)
    assert [area(MIB_SHARES, one) for one in one_each] == pytest.approx(weights)


def test_the_logarithmic_axis_is_a_mean_over_tenfolds():
    whole = cpr(judged([1.0] * 10, "signed"), logarithmic).value
    assert whole == pytest.approx(1)
    last = math.log(2) / math.log(1000) / 2  # half of the step from 50 % to 100 %
    assert cpr(judged(STEP, "signed"), logarithmic).value == pytest.approx(last)
    assert cmd(judged(STEP, "absolute"), logarithmic).value == pytest.approx(1 - last)


def test_areas_have_intervals_over_examples():
    generator = torch.Generator().manual_seed(0)
    noise = 0.2 * torch.randn(10, 30, generator=generator, dtype=torch.float64)
    ones, zeros = torch.ones(30), torch.zeros(30)
    fields = {"shares": MIB_SHARES, "n_bootstrap": 500}
    found = cpr(curve(0.7 + noise, ones, zeros, **fields))
    assert found.low < found.value < found.high
    assert found.value == pytest.approx(0.7 * 0.999, abs=0.05)
    assert math.isnan(cpr(curve(0.7 + noise, ones, zeros, shares=MIB_SHARES)).low)


def test_areas_of_other_points_are_trapezoids_too():
    assert area([0.2, 0.6], torch.tensor([1.0, 0.5]), linear) == pytest.approx(0.3)


@pytest.mark.parametrize("shares", [[0.5], [0.0, 1.0], [0.5, 0.5], [0.5, 0.2]])
def test_an_axis_that_does_not_grow_is_refused(shares):
    with pytest.raises(ValueError, match="two or more shares that grow from above 0"):
        area(shares, torch.ones(len(shares)))


def test_areas_are_refused_where_they_are_not_defined():
    with pytest.raises(ValueError, match="CPR is defined for pruned circuits by signed score; th"):
        cpr(judged(STEP, "absolute"))
    with pytest.raises(ValueError, match="CMD is defined for pruned circuits by absolute score"):
        cmd(judged(STEP, "signed"))
    with pytest.raises(ValueError, match="this curve is of unpruned circuits"):
        cpr(judged(STEP, "signed", pruned=False))
    with pytest.raises(ValueError, match="CPR is defined for the ten shares"):
        cpr(curve([[0.0], [1.0]], [1.0], [0.0]))
