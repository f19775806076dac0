import numpy as np
import pytest
import torch

from patching.intervals import interval, ratio_of_means


def simulate(rng: np.random.Generator, n: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Prompts of unequal difficulty and gap, and a circuit that keeps 70 % of each gap on average.

    Clean, corrupt and circuit share the prompt's difficulty; gaps are skewed.
    """
    corrupt = rng.normal(0, 2, n)
    gap = rng.gamma(4, 0.75, n)
    kept = corrupt + 0.7 * gap + rng.normal(0, 0.5, n)
    runs = (kept[None], corrupt + gap, corrupt)
    return tuple(torch.from_numpy(run) for run in runs)


def ends(*runs: torch.Tensor, n: int = 1000, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    return interval(ratio_of_means, *runs, n=n, seed=seed)


def test_intervals_hold_the_truth_as_often_as_they_promise():
    rng = np.random.default_rng(0)
    held = 0
    for seed in range(300):
        low, high = ends(*simulate(rng, 40), n=500, seed=seed)
        held += bool(low[0] <= 0.7 <= high[0])
    # 95 % promised; 300 trials have a standard error of 1.3 points
    assert 0.90 <= held / 300 <= 0.98


def test_drawing_the_runs_of_an_example_together_makes_intervals_narrow():
    rng = np.random.default_rng(0)
    values, clean, corrupt = simulate(rng, 40)
    low, high = ends(values, clean, corrupt)
    shuffled = torch.from_numpy(rng.permutation(corrupt.numpy()))
    apart_low, apart_high = ends(values, clean, shuffled)
    assert high[0] - low[0] < 0.7 * (apart_high[0] - apart_low[0])


def test_intervals_agree_with_draws_written_plainly():
    runs = simulate(np.random.default_rng(1), 30)
    rng = np.random.default_rng(2)
    draws = []
    for _ in range(4000):
        rows = torch.from_numpy(rng.integers(30, size=30))
        values, clean, corrupt = (run[..., rows].mean(dim=-1) for run in runs)
        draws.append(float((values - corrupt) / (clean - corrupt)))
    low, high = ends(*runs, n=4000)
    # the ends of 4000 draws have a Monte Carlo error of a few percent of the width
    assert low[0] == pytest.approx(np.quantile(draws, 0.025), abs=0.01)
    assert high[0] == pytest.approx(np.quantile(draws, 0.975), abs=0.01)


def test_the_whole_model_keeps_everything_in_every_draw():
    _, clean, corrupt = simulate(np.random.default_rng(0), 20)
    low, high = ends(torch.stack([clean, corrupt]), clean, corrupt)
    assert low.tolist() == [1, 0]
    assert high.tolist() == [1, 0]


def test_draws_depend_on_the_seed_alone():
    runs = simulate(np.random.default_rng(0), 20)
    assert ends(*runs, seed=1) == ends(*runs, seed=1)
    assert ends(*runs, seed=1) != ends(*runs, seed=2)


def test_memory_is_bounded_without_a_change_of_the_numbers(monkeypatch):
    runs = simulate(np.random.default_rng(0), 20)
    whole = ends(*runs)
    monkeypatch.setattr("patching.intervals._MOST_NUMBERS", 100)
    np.testing.assert_array_equal(ends(*runs), whole)


def test_no_draws_leave_intervals_undefined():
    low, high = ends(*simulate(np.random.default_rng(0), 20), n=0)
    assert np.isnan(low).all() and np.isnan(high).all()


def test_one_example_has_no_interval():
    with pytest.raises(ValueError, match="needs at least two, got 1"):
        ends(*simulate(np.random.default_rng(0), 1))


def test_a_negative_number_of_draws_is_refused():
    with pytest.raises(ValueError, match="cannot make -1 bootstrap draws; 0 leaves"):
        ends(*simulate(np.random.default_rng(0), 5), n=-1)
