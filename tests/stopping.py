"""Engines that stop, for tests of runs: what comes after must be as if nothing had happened."""

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pytest

from patching.work import Ranks, Run, carry_out

R = TypeVar("R")


class Stops(Exception):
    """What a machine that goes down looks like from outside."""


def stopping_after(n: int):
    """An engine that is gone after some chunks."""

    def engine(work, missing, keep):
        for number in missing()[:n]:
            keep(number, carry_out(work, number))
        raise Stops

    return engine


def nothing_left(work, missing, keep):
    """An engine that must not be needed."""
    assert not missing()


def resumed(compute: Callable[[Run], R], folder: Path) -> tuple[R, R]:
    """What `compute(run)` gives after it was stopped and another worker went on; and once more."""
    with pytest.raises(Stops):
        compute(Run(folder, stopping_after(1)))
    found = compute(Run(folder, Ranks(1, 2)))
    again = compute(Run(folder, nothing_left))
    return found, again
