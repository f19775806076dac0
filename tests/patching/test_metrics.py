"""Every metric by hand; larger is better, one value per example."""

import math
from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from patching.metrics import (
    FLAT_AT_THE_CLEAN_RUN,
    METRICS,
    WITHOUT_GRADIENT,
    Metric,
    accuracy,
    kl,
    logit_diff,
    measure,
    prob_diff,
)
from patching.tasks import Batch, Prompt, Task

LN2 = math.log(2)
# Softmax gives the first row 1/8, 1/4, 1/8, 1/2 and the second 1/4 everywhere.
LOGITS = torch.tensor([[0.0, LN2, 0.0, 2 * LN2], [5.0, 5.0, 5.0, 5.0]], dtype=torch.float64)
# Whatever goes through exp and log keeps a few of float64's 16 digits' last ones free.
CLOSE = {"rtol": 0, "atol": 1e-14}


def batch(*answers: tuple[tuple[int, ...], tuple[int, ...]]) -> Batch:
    prompts = tuple(Prompt((1,), (2,), right, wrong) for right, wrong in answers)
    (made,) = Task("t", prompts).batches(len(prompts))
    return made


def values(*numbers: float) -> torch.Tensor:
    return torch.tensor(numbers, dtype=torch.float64)


def test_logit_diff_by_hand():
    found = logit_diff(LOGITS, batch(((3,), (1,)), ((0,), (2,))))
    assert_close(found, values(LN2, 0), **CLOSE)


def test_logit_diff_is_a_difference_of_means_over_several_answers():
    """Rows hold different numbers of answers; padding of the shorter ones must not count."""
    found = logit_diff(LOGITS, batch(((1, 3), (0,)), ((0,), (1, 2, 3))))
    assert_close(found, values(1.5 * LN2, 0), **CLOSE)
    found = logit_diff(LOGITS, batch(((3,), (0, 1)), ((0,), (1,))))
    assert_close(found, values(1.5 * LN2, 0), **CLOSE)


def test_logit_diff_without_wrong_answers_is_refused():
    with pytest.raises(ValueError, match="compares with wrong answers, and row 1 of a batch"):
        logit_diff(LOGITS, batch(((1,), (2,)), ((1,), ())))
    with pytest.raises(ValueError, match="row 0 of a batch has none"):
        logit_diff(LOGITS, batch(((1,), ()), ((1,), ())))
    twice = batch(((1,), (2,)), ((1,), ())).at(torch.tensor([1, 1]))
    with pytest.raises(ValueError, match="row 1 of a batch has none"):  # of the batch it is made of
        logit_diff(LOGITS, twice)


def test_prob_diff_by_hand_is_a_difference_of_sums():
    found = prob_diff(LOGITS, batch(((1, 3), (0, 2)), ((0,), (1, 2, 3))))
    assert_close(found, values(0.75 - 0.25, 0.25 - 0.75), **CLOSE)


def test_prob_diff_without_wrong_answers_is_the_probability_of_the_answers():
    found = prob_diff(LOGITS, batch(((1, 3), ()), ((0,), ())))
    assert_close(found, values(0.75, 0.25), **CLOSE)


def test_kl_is_minus_the_divergence_from_the_clean_run_in_nats():
    """Not symmetric: the clean run's probabilities are the weights."""
    skew = torch.tensor([[0.0, math.log(3)]], dtype=torch.float64)  # 1/4 and 3/4
    even = torch.zeros(1, 2, dtype=torch.float64)  # 1/2 and 1/2
    of_skew = replace(batch(((0,), (1,))), clean_logits=skew)
    of_even = replace(of_skew, clean_logits=even)
    # 1/4 ln (1/4 / 1/2) + 3/4 ln (3/4 / 1/2) = 3/4 ln 3 - ln 2
    assert_close(kl(even, of_skew), values(LN2 - 0.75 * math.log(3)), **CLOSE)
    # 1/2 ln (1/2 / 1/4) + 1/2 ln (1/2 / 3/4) = 1/2 ln 4/3
    assert_close(kl(skew, of_even), values(-0.5 * math.log(4 / 3)), **CLOSE)


def test_kl_is_zero_and_flat_at_the_clean_run_and_negative_elsewhere():
    generator = torch.Generator().manual_seed(0)
    clean = torch.randn(2, 4, generator=generator, dtype=torch.float64)
    other = torch.randn(2, 4, generator=generator, dtype=torch.float64)
    made = replace(batch(((3,), (1,)), ((0,), (2,))), clean_logits=clean)
    live = clean.clone().requires_grad_()
    at_clean = kl(live, made)
    assert_close(at_clean, values(0, 0), **CLOSE)
    (gradient,) = torch.autograd.grad(at_clean.sum(), live)
    assert_close(gradient, torch.zeros_like(gradient), **CLOSE)
    assert (kl(other, made) < 0).all()


def test_kl_without_the_clean_logits_is_refused():
    with pytest.raises(ValueError, match="clean run, whose logits this batch does not carry"):
        kl(LOGITS, batch(((3,), (1,)), ((0,), (2,))))


def test_accuracy_asks_for_the_best_of_the_whole_vocabulary():
    logits = torch.tensor([[0.0, 3.0, 2.0, 1.0]] * 4, dtype=torch.float64)
    rows = batch(((1,), (2,)), ((2,), (3,)), ((3, 1), ()), ((2,), (1,)))
    found = accuracy(logits, rows)
    assert found.tolist() == [1, 0, 1, 0]
    assert found.dtype == torch.float64


def test_padding_of_the_answers_is_no_answer():
    """Padding is id 0: where 0 is the best token, a padded row must not count as right."""
    logits = torch.tensor([[9.0, 0.0, 0.0, 0.0]] * 2, dtype=torch.float64)
    assert accuracy(logits, batch(((1,), (2,)), ((0, 1), (2,)))).tolist() == [0, 1]


@pytest.mark.parametrize("metric", METRICS.values(), ids=METRICS)
def test_every_metric_gives_one_value_per_example_whatever_constant_is_added(metric: Metric):
    made = replace(batch(((3,), (1,)), ((0,), (2,))), clean_logits=LOGITS)
    found = measure(metric, LOGITS, made)
    assert found.shape == (2,)
    assert found.isfinite().all()
    # adding 7 costs the logits, of size 1, three bits at most
    assert_close(measure(metric, LOGITS + 7, made), found, rtol=0, atol=1e-14)


@pytest.mark.parametrize("metric", [logit_diff, prob_diff, accuracy])
def test_pushing_the_answer_up_raises_the_metric(metric: Metric):
    made = batch(((2,), (3,)), ((2,), (3,)))
    pushed = LOGITS.clone()
    pushed[:, 2] += 3
    assert (metric(pushed, made) > metric(LOGITS, made)).all()


@pytest.mark.parametrize("metric", METRICS.values(), ids=METRICS)
def test_the_lists_of_metrics_without_a_usable_gradient_are_right(metric: Metric):
    made = replace(batch(((3,), (1,)), ((1,), (2,))), clean_logits=LOGITS)
    live = LOGITS.clone().requires_grad_()
    found = measure(metric, live, made).sum()
    assert found.requires_grad == (metric not in WITHOUT_GRADIENT)
    if found.requires_grad:
        (gradient,) = torch.autograd.grad(found, live)
        flat = bool((gradient.abs() < 1e-14).all())
        assert flat == (metric in FLAT_AT_THE_CLEAN_RUN)


def test_a_metric_that_averages_is_refused():
    def mean_logit(logits, batch):
        return logits.mean()

    with pytest.raises(ValueError, match=r"mean_logit returned shape \(\) for 2 examples; .* \[2"):
        measure(mean_logit, LOGITS, batch(((3,), (1,)), ((0,), (2,))))


def test_a_metric_of_another_shape_is_refused():
    with pytest.raises(ValueError, match=r"returned shape \(2, 4\) for 2 examples"):
        measure(lambda logits, batch: logits, LOGITS, batch(((3,), (1,)), ((0,), (2,))))
