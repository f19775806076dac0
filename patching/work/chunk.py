"""One chunk of a long computation: its number, what it came to, and what it took.

Work is cut into a fixed list of numbered chunks. Doing a chunk again gives the same parts, so that
anybody may do it, anywhere, more than once.
"""

import os
import platform
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from torch import Tensor

from patching.memory import budget, peak_bytes
from patching.modes import as_typed

Parts = Mapping[str, Tensor]
"""What a chunk comes to: named tensors on the CPU, float64 where they will be added up."""

Work = Callable[[int], Parts]
"""From a chunk's number to its parts; depends on nothing else."""


@dataclass(frozen=True)
class Limited:
    """Work under the memory budget of whoever asked for it, wherever it is done.

    The budget decides how products are tiled, and so how numbers are rounded. So would autocast,
    which is off.
    """

    work: Work
    limit: int | float | None


@dataclass(frozen=True, eq=False)
class Done:
    """A chunk that is done: its parts, who did it, how long it took, how much memory it needed.

    `memory` is the report of the budget it ran under: how often tiles and batches were halved.
    `peak_bytes` are peaks of the process so far, on "cpu" and, where there is one, on "cuda".
    """

    parts: Parts
    worker: str
    seconds: float
    memory: Mapping[str, int] = field(default_factory=dict)
    peak_bytes: Mapping[str, int] = field(default_factory=dict)


def carry_out(limited: Limited, number: int) -> Done:
    """Do one chunk here and now; every engine does its chunks with this."""
    start = time.perf_counter()
    with budget(limited.limit) as ledger, as_typed():
        parts = {name: part.detach().cpu() for name, part in limited.work(number).items()}
    return Done(
        parts,
        worker=f"{platform.node()}:{os.getpid()}",
        seconds=round(time.perf_counter() - start, 4),
        memory=ledger.counts(),
        peak_bytes=peak_bytes(),
    )
