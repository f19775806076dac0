"""Numbers of a task's examples, batch by batch: done in a run's folder, or here and now.

A chunk is one batch: named tensors with a row for each of its examples, or sums over them. Where
memory runs out the batch is halved, inside its chunk.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch

from patching.finite import require_finite
from patching.memory import Ledger, current
from patching.model import Model
from patching.provenance import run_settings
from patching.runs.fitting import fitted
from patching.tasks.task import Batch, Task
from patching.work import Done, Interrupted, Parts, Run, do

R = TypeVar("R")

Measure = Callable[[Batch], Parts]
Measures = Measure | Sequence[Measure]
"""One for all batches, or one for each."""

Join = Callable[[Parts, Parts], Parts]


@dataclass(frozen=True)
class Keeping:
    """How a computation is cut and where it is kept: `what` is its name there.

    `described` is its provenance, which with `functions`, those that a user may have written, is
    all that decides the result.
    """

    what: str
    described: Mapping[str, object]
    functions: object
    batch_size: int
    run: Run | None


@dataclass(frozen=True)
class Rows:
    """Named numbers of the first examples, a row each: of all, unless something interrupted."""

    parts: Parts
    n_examples: int
    n_of: int
    memory: Ledger

    def provenance(self, described: Mapping[str, object]) -> dict[str, object]:
        """With the memory that was used, and of how many examples this is if not of all."""
        return provenance_of(described, self.memory, self.n_examples, self.n_of)


def provenance_of(
    described: Mapping[str, object], memory: Ledger, n_examples: int, n_of: int
) -> dict[str, object]:
    """With the memory that was used, and of how many examples this is if not of all `n_of`."""
    said = {**described, "memory": memory.report()}
    if n_examples == n_of:
        return said
    partial = {"n_examples": n_examples, "of": n_of}
    return {**said, "n_examples": n_examples, "partial": partial}


def rows_joined(first: Parts, second: Parts) -> Parts:
    """More examples of the same."""
    return {name: torch.cat([part, second[name]]) for name, part in first.items()}


def sums_joined(first: Parts, second: Parts) -> Parts:
    """Sums over more examples of the same."""
    return {name: part + second[name] for name, part in first.items()}


def in_batches(
    model: Model, task: Task, measure: Measures, keeping: Keeping, *, join: Join = rows_joined
) -> Iterator[Done]:
    """What `measure` gives for each batch, in order.

    Raises:
        KeyboardInterrupt: if somebody interrupts, after the first batches that are there.
        MemoryError: if not even one example fits into memory.
        ValueError: if numbers are not finite, a batch would be empty, or a run is asked for and
            settings cannot be told from others.
    """
    n, size = task.n_batches(keeping.batch_size), keeping.batch_size
    settings = {}
    if keeping.run is not None:
        described, functions = keeping.described, keeping.functions
        settings = run_settings(model, described, task, batch_size=size, functions=functions)
    work = _Work(model, task, measure, size, join)
    return do(keeping.run, work, n, what=keeping.what, settings=settings)


def all_rows(
    model: Model, task: Task, measure: Measures, keeping: Keeping, finish: Callable[[Rows], R]
) -> R:
    """What `finish` makes of the rows of all examples.

    Raises:
        Interrupted: with what `finish` makes of the first rows, if somebody interrupts after the
            first batch.
        KeyboardInterrupt: before that.
        ValueError: as `in_batches`.
    """
    done: list[Done] = []
    try:
        for one in in_batches(model, task, measure, keeping):
            done.append(one)
    except KeyboardInterrupt:
        n = min(len(done) * keeping.batch_size, len(task))
        if not 0 < n < len(task):
            raise
        raise Interrupted(finish(_rows(done, n, len(task))), n, len(task)) from None
    return finish(_rows(done, len(task), len(task)))


def used(done: Sequence[Done]) -> Ledger:
    """The memory that chunks took, whoever did them and when."""
    ledger = Ledger(current().limit)
    for one in done:
        ledger.add(one.memory)
    return ledger


def _rows(done: Sequence[Done], n_examples: int, n_of: int) -> Rows:
    parts = {name: torch.cat([one.parts[name] for one in done]) for name in done[0].parts}
    return Rows(parts, n_examples, n_of, used(done))


@dataclass(frozen=True)
class _Work:
    """A chunk: one batch, measured."""

    model: Model
    task: Task
    measure: Measures
    batch_size: int
    join: Join

    def __call__(self, number: int) -> Parts:
        batch = self.task.batch(number, self.batch_size, self.model.device)
        measure = self.measure[number] if isinstance(self.measure, Sequence) else self.measure
        found = fitted(batch, measure, self.join)
        for name, part in found.items():
            if part.is_floating_point():
                require_finite(part, name, self.model, batch)
        return found
