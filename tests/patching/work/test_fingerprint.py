"""Fingerprints tell functions apart that share a name."""

import functools
from dataclasses import dataclass

import pytest
import torch

from patching.metrics import kl, logit_diff
from patching.paths import along_inputs, at_clean
from patching.quadrature import left, midpoint
from patching.rules import RULES
from patching.work.fingerprint import fingerprint


def made(n: int):
    def metric(x):
        return x * n

    return metric


@dataclass(frozen=True)
class Value:
    size: int


DIFFERENT = (
    *(logit_diff, kl, at_clean, along_inputs(5), along_inputs(6), along_inputs(5, left)),
    *(1, 1.0, "1", True, None, b"1", (1, 2), (12,), [1], {1: 2}, {1}, int, len, Value(1), Value(2)),
    *(made(1), made(2), functools.partial(made, 1), functools.partial(made, 2)),
    *(torch.ones(2), torch.ones(1, 2), torch.ones(2, dtype=torch.float64), torch.tensor([1.0, 2])),
    *(lambda x: x + 1, lambda x: x + 2, lambda x, n=1: x + n, lambda x, n=2: x + n),
    *RULES.values(),
)


def test_different_things_have_different_fingerprints():
    assert len({fingerprint(thing) for thing in DIFFERENT}) == len(DIFFERENT)


def test_things_made_alike_have_the_same():
    assert fingerprint(made(3)) == fingerprint(made(3))
    assert fingerprint(along_inputs(5, midpoint)) == fingerprint(along_inputs(5))
    assert fingerprint({2, 1, 3}) == fingerprint({3, 2, 1})


def test_a_function_that_refers_to_itself_can_be_told():
    def fall(n):
        return fall(n - 1) if n else 0

    assert fingerprint(fall) == fingerprint(fall)


def test_what_cannot_be_told_apart_is_refused():
    class Strange:
        pass

    with pytest.raises(ValueError, match="cannot for .*Strange: use functions"):
        fingerprint((logit_diff, Strange()))


def scaled(factor: float):
    def decorate(metric):
        @functools.wraps(metric)
        def wrapper(logits, batch):
            return factor * metric(logits, batch)

        return wrapper

    return decorate


def test_a_decorated_function_is_another_than_the_bare_one():
    made = [logit_diff, scaled(2.0)(logit_diff), scaled(3.0)(logit_diff), scaled(2.0)(kl)]
    assert len({fingerprint(one) for one in made}) == 4
    assert fingerprint(scaled(2.0)(logit_diff)) == fingerprint(made[1])


def test_what_a_dataclass_does_counts_not_only_what_it_holds():
    def of(sign: int):
        if sign > 0:

            @dataclass(frozen=True)
            class Metric:
                a: int = 1

                def __call__(self, x):
                    return x
        else:

            @dataclass(frozen=True)
            class Metric:
                a: int = 1

                def __call__(self, x):
                    return -x

        return Metric()

    assert fingerprint(of(1)) == fingerprint(of(1)) != fingerprint(of(-1))


def test_a_function_that_keeps_its_results_counts_as_itself():
    assert fingerprint(functools.cache(made(2))) != fingerprint(functools.cache(made(3)))


def test_a_metric_without_gradients_is_the_metric():
    assert fingerprint(torch.no_grad()(logit_diff)) == fingerprint(logit_diff)


def test_what_a_callable_of_a_class_holds_cannot_be_told_and_is_refused():
    class Scaled:
        def __init__(self, metric, factor):
            functools.update_wrapper(self, metric)
            self.factor = factor

        def __call__(self, logits, batch):
            return self.factor * logit_diff(logits, batch)

    with pytest.raises(ValueError, match="use functions, frozen dataclasses"):
        fingerprint(Scaled(logit_diff, 2.0))
