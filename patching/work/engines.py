"""Who does the chunks: this process, or it and others that share a folder.

An engine is called with the work, a function that says which chunks are still missing, and one that
keeps a chunk that is done; it returns when nothing is missing. It needs to know nothing else, and
no engine can change a result: parts are added up in the order of their numbers.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from patching.work.chunk import Done, Limited, carry_out

Missing = Callable[[], Sequence[int]]
"""The numbers of the chunks that nobody has kept yet, in order; looks anew at every call."""

Keep = Callable[[int, Done], None]
"""Keeps a chunk for good. Keeping one twice does no harm: both are the same."""


@runtime_checkable
class Engine(Protocol):
    """Has `work` done for every chunk that is missing, and hands each to `keep`."""

    def __call__(self, work: Limited, missing: Missing, keep: Keep) -> None:
        """Return when nothing is missing; what `work` raises is raised here."""
        ...


def in_process(work: Limited, missing: Missing, keep: Keep) -> None:
    """Everything here, one chunk after the other."""
    for number in missing():
        keep(number, carry_out(work, number))


@dataclass(frozen=True)
class Ranks:
    """One of `size` processes that were started alike and share nothing but the run's folder.

    Worker i of n first does the missing chunks i, i + n, ..., then helps with whatever is still
    missing. So nobody waits for anybody, a worker that died is made up for, and all of them end
    with the whole result. At the end two may do the same chunk: that costs time, and changes
    nothing.
    """

    rank: int
    size: int

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.size:
            raise ValueError(
                f"{self.size} workers are numbered 0 to {self.size - 1}, got {self.rank}"
            )

    def __call__(self, work: Limited, missing: Missing, keep: Keep) -> None:
        """Do this worker's share, then help."""
        at_first = list(missing())
        for number in self._order(at_first):
            if number in missing():
                keep(number, carry_out(work, number))

    def _order(self, missing: Sequence[int]) -> list[int]:
        """Its own chunks, then those of the next worker from the last one back, and so on."""
        n = self.size
        mine = list(missing[self.rank :: n])
        others = (list(missing[(self.rank + i) % n :: n])[::-1] for i in range(1, n))
        return mine + [number for share in others for number in share]


LAUNCHERS = (
    ("torchrun", "RANK", "WORLD_SIZE"),
    ("a Slurm array", "SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_COUNT"),
    ("srun", "SLURM_PROCID", "SLURM_NTASKS"),
)
"""Who starts workers, and where they say which of how many this one is."""


def ranks(environment: Mapping[str, str] = os.environ) -> Ranks:
    """The worker this process is, as its launcher (torchrun or Slurm) says in the environment.

    Raises:
        ValueError: if no launcher has said anything.
    """
    for _, rank, size in LAUNCHERS:
        if rank in environment and size in environment:
            number = int(environment[rank])
            if rank == "SLURM_ARRAY_TASK_ID":  # an array may count 1, 3, 5
                number -= int(environment.get("SLURM_ARRAY_TASK_MIN", "0"))
                number //= int(environment.get("SLURM_ARRAY_TASK_STEP", "1"))
            return Ranks(number, int(environment[size]))
    names = ", ".join(f"{rank} and {size} ({who})" for who, rank, size in LAUNCHERS)
    raise ValueError(f"this process was not started as one of several: nothing has set {names}")


def leads(engine: Engine) -> bool:
    """Whether this process is the one of its engine's that writes and prints results."""
    return not isinstance(engine, Ranks) or engine.rank == 0
