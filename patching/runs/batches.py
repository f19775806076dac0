"""Numbers of a task's examples, batch by batch: cut, fitted into memory, checked, kept, added up.

A chunk is what one measure says of one batch: named tensors with a row for each of its examples, or
sums over them. It is done in a run's folder, or here and now. Where memory runs out the batch is
halved, inside its chunk.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial, reduce
from typing import Generic, TypeVar

import torch

from patching.finite import require_finite
from patching.memory import Ledger, current, in_halves
from patching.model import Model
from patching.provenance import run_settings
from patching.tasks.task import Batch, Task
from patching.work import Done, Interrupted, Parts, Run, do

R = TypeVar("R")
T = TypeVar("T")

Measure = Callable[[Batch], Parts]
Measures = Measure | Sequence[Measure]
"""One for all batches; or one for each chunk, as many for each batch, batch after batch."""

Join = Callable[[Parts, Parts], Parts]

Axes = Callable[[str, int, int], Mapping[int, int | None]]
"""From a part, the number of its measure and of examples to lengths of axes: None, if unknown."""


@dataclass(frozen=True)
class Doing:
    """How a computation is carried out: examples to a batch, and the run that keeps batches."""

    batch_size: int
    run: Run | None = None


@dataclass(frozen=True)
class Keeping:
    """What a computation is: `what` is its name in a run, and `doing` how it is carried out.

    `described` is its provenance, which with `functions`, those that a user may have written, is
    all that decides the result. Messages call its numbers `called`, or else by their names.
    """

    what: str
    described: Mapping[str, object]
    functions: object
    doing: Doing
    called: str | None = None


@dataclass(frozen=True)
class Found(Generic[T]):
    """What the first examples came to: all of them, unless something interrupted."""

    total: T
    n_examples: int
    n_of: int
    chunks: tuple[Mapping[str, int], ...] = ()

    def provenance(self, described: Mapping[str, object]) -> dict[str, object]:
        """With the memory that was used, and of how many examples this is if not of all."""
        memory = Ledger(current().limit)
        for counts in self.chunks:
            memory.add(counts)
        said = {**described, "memory": memory.report()}
        if self.n_examples == self.n_of:
            return said
        partial = {"n_examples": self.n_examples, "of": self.n_of}
        return {**said, "n_examples": self.n_examples, "partial": partial}


def rows_joined(first: Parts, second: Parts) -> Parts:
    """More examples of the same."""
    return {name: torch.cat([part, second[name]]) for name, part in first.items()}


def sums_joined(first: Parts, second: Parts) -> Parts:
    """Sums over more examples of the same."""
    return {name: part + second[name] for name, part in first.items()}


def of_rows(part: str, measure: int, n_examples: int) -> Mapping[int, int]:
    """A row for each example."""
    return {0: n_examples}


def of_sums(part: str, measure: int, n_examples: int) -> Mapping[int, int]:
    """As long for any number of examples."""
    return {}


def in_batches(
    model: Model,
    task: Task,
    measures: Measures,
    keeping: Keeping,
    *,
    join: Join = rows_joined,
    axes: Axes = of_rows,
) -> Iterator[list[Done]]:
    """The chunks of each batch, in order; `join` puts halves of a batch together.

    `axes` says how long parts must be: chunks that a folder holds are checked for it.

    Raises:
        KeyboardInterrupt: if somebody interrupts, after the first batches that are there.
        MemoryError: if not even one example fits into memory.
        ValueError: if numbers are not finite, a batch would be empty, or a run is asked for and
            settings cannot be told from others.
    """
    size, run = keeping.doing.batch_size, keeping.doing.run
    n_batches, settings = task.n_batches(size), {}
    each = measures if isinstance(measures, Sequence) else [measures] * n_batches
    if run is not None:
        described, functions = keeping.described, keeping.functions
        settings = run_settings(model, described, task, batch_size=size, functions=functions)
    work = _Work(model, task, each, size, join, keeping.called)
    batch: list[Done] = []
    lengths = partial(work.lengths, axes)
    for done in do(run, work, len(each), what=keeping.what, settings=settings, lengths=lengths):
        batch.append(done)
        if len(batch) == work.n_portions:
            yield batch
            batch = []


def added_up(
    batches: Iterable[Sequence[Done]],
    task: Task,
    doing: Doing,
    add: Callable[[T | None, Sequence[Parts]], T],
    finish: Callable[[Found[T]], R],
) -> R:
    """What `finish` makes of all batches; `add` adds one to those before it, as a new value.

    Raises:
        Interrupted: with what `finish` makes of the first batches, if somebody interrupts after
            the first.
        KeyboardInterrupt: before that.
        ValueError: as `in_batches`.
    """
    found, n_of = None, len(task)
    try:
        for batch in batches:
            before = found or Found(None, 0, n_of)
            n = min(before.n_examples + doing.batch_size, n_of)
            total = add(before.total, [done.parts for done in batch])
            found = Found(total, n, n_of, (*before.chunks, *(done.memory for done in batch)))
    except KeyboardInterrupt:
        if found is None or found.n_examples == n_of:
            raise
        raise Interrupted(finish(found), found.n_examples, n_of) from None
    assert found is not None, "a task has a batch"
    return finish(found)


def all_rows(
    model: Model,
    task: Task,
    measures: Measures,
    keeping: Keeping,
    finish: Callable[[Found[Parts]], R],
) -> R:
    """What `finish` makes of the rows of all examples, of measures with one chunk a batch.

    Raises:
        Interrupted: as `added_up`.
        KeyboardInterrupt: as `added_up`.
        ValueError: as `in_batches`.
    """
    batches = in_batches(model, task, measures, keeping)
    return added_up(batches, task, keeping.doing, _one_more, partial(_finish_rows, finish))


def all_sums(
    model: Model,
    task: Task,
    measure: Measure,
    keeping: Keeping,
    finish: Callable[[Found[Parts]], R],
) -> R:
    """What `finish` makes of sums over all examples.

    Raises:
        Interrupted: as `added_up`.
        KeyboardInterrupt: as `added_up`.
        ValueError: as `in_batches`.
    """
    batches = in_batches(model, task, measure, keeping, join=sums_joined, axes=of_sums)
    return added_up(batches, task, keeping.doing, _one_added, finish)


def _one_added(before: Parts | None, batch: Sequence[Parts]) -> Parts:
    return reduce(sums_joined, batch if before is None else [before, *batch])


def _one_more(before: list[Parts] | None, batch: Sequence[Parts]) -> list[Parts]:
    return [*(before or []), *batch]


def _finish_rows(finish: Callable[[Found[Parts]], R], found: Found[list[Parts]]) -> R:
    rows = {name: torch.cat([one[name] for one in found.total]) for name in found.total[0]}
    return finish(Found(rows, found.n_examples, found.n_of, found.chunks))


@dataclass(frozen=True)
class _Work:
    """A chunk: one batch, measured at once or, where memory runs out, in halves.

    Padding stays that of the whole batch.
    """

    model: Model
    task: Task
    measures: Sequence[Measure]
    batch_size: int
    join: Join
    called: str | None

    @property
    def n_portions(self) -> int:
        """How many chunks a batch makes."""
        return len(self.measures) // self.task.n_batches(self.batch_size)

    def lengths(self, axes: Axes, number: int, part: str) -> Mapping[int, int | None]:
        """Lengths of a part in a chunk, as far as they are known before it is done."""
        batch, measure = divmod(number, self.n_portions)
        left = len(self.task) - batch * self.batch_size
        return axes(part, measure, min(left, self.batch_size))

    def __call__(self, number: int) -> Parts:
        batch = self.task.batch(number // self.n_portions, self.batch_size, self.model.device)
        found = in_halves(batch, self.measures[number], self.join)
        for name, part in found.items():
            if part.is_floating_point():
                require_finite(part, self.called or name, self.model, batch)
        return found
