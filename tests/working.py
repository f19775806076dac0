"""Work for the tests of `patching.work`: chunks of random numbers, here or in other processes.

`python tests/working.py FOLDER SECONDS` does all of it in FOLDER, each chunk in so many seconds, as
the worker that RANK and WORLD_SIZE say, and prints a hash of the sum.
"""

import hashlib
import sys
import time
from pathlib import Path

import torch

from patching.work import Ranks, Run, do, ranks

N = 12
SETTINGS = {"weights": "abc", "steps": 5}


def chunk(number: int) -> dict[str, torch.Tensor]:
    """Numbers whose sum depends, in its last bits, on the order of adding."""
    torch.manual_seed(number)
    total = torch.randn(3, 40, dtype=torch.float64) * 10.0 ** (number % 7)
    return {"total": total, "seen": torch.tensor([number])}


def slowly(seconds: float):
    """The same, each in at least so many seconds."""

    def work(number: int) -> dict[str, torch.Tensor]:
        time.sleep(seconds)
        return chunk(number)

    return work


def add_up(run: Run | None, work=chunk, **settings: object) -> str:
    """A hash of the sum over all chunks in the order they come."""
    total, seen = torch.zeros(3, 40, dtype=torch.float64), []
    for done in do(run, work, N, what="adding", settings={**SETTINGS, **settings}):
        total = total + done.parts["total"]
        seen.append(int(done.parts["seen"]))
    assert seen == list(range(N))
    return hashlib.sha256(total.numpy().tobytes()).hexdigest()


def as_one_of(folder: Path, seconds: float, rank: int, size: int) -> str:
    """All of it as one of several workers that share a folder."""
    return add_up(Run(folder, Ranks(rank, size)), slowly(seconds))


if __name__ == "__main__":
    sys.stdout.write(add_up(Run(sys.argv[1], ranks()), slowly(float(sys.argv[2]))) + "\n")
