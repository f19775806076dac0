"""From a way to score one batch to the scores of a task: checks, chunks, sums.

A chunk of a run is one batch: its scores summed over examples. Where memory runs out the batch is
halved, inside its chunk.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TypeVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from patching.finite import require_finite
from patching.memory import Ledger, current
from patching.model import Model
from patching.runs.batchwise import provenance_of
from patching.runs.fitting import fitted
from patching.tasks.task import Batch, Task
from patching.work import Done, Interrupted, Parts, Run, do

R = TypeVar("R")


@dataclass(frozen=True)
class BatchScores:
    """Scores of some examples, summed, and the completeness delta of each."""

    matrix: Float[Tensor, "source dest *pos"]
    completeness: Float[Tensor, " example"] | None

    def __add__(self, other: "BatchScores") -> "BatchScores":
        """Of the examples of both."""
        if self.completeness is None or other.completeness is None:
            return BatchScores(self.matrix + other.matrix, None)
        deltas = torch.cat([self.completeness, other.completeness])
        return BatchScores(self.matrix + other.matrix, deltas)


ScoreBatch = Callable[[Batch], BatchScores]


@dataclass(frozen=True)
class TaskScores:
    """Scores summed over the examples so far: all of them, unless something interrupted."""

    total: Float[Tensor, "source dest *pos"]
    completeness: tuple[Float[Tensor, " _"], ...]
    n_examples: int
    n_of: int
    memory: Ledger = field(default_factory=Ledger)

    @property
    def mean(self) -> Float[Tensor, "source dest *pos"]:
        """The mean over the examples so far."""
        return self.total / self.n_examples

    @property
    def deltas(self) -> Float[Tensor, " example"] | None:
        """The completeness delta of every example, where the method has one."""
        return torch.cat(self.completeness) if self.completeness else None

    def provenance(self, described: Mapping[str, object]) -> dict[str, object]:
        """With the memory that was used, and of how many examples this is if not of all."""
        return provenance_of(described, self.memory, self.n_examples, self.n_of)


@contextmanager
def whole() -> Iterator[None]:
    """An interrupt inside is a plain one: a part of one pass is no part of what all of them give.

    Raises:
        KeyboardInterrupt: when interrupted.
    """
    try:
        yield
    except Interrupted:
        raise KeyboardInterrupt from None


@dataclass(frozen=True)
class Portion:
    """A way to score edges into some of the readers; what it says of others is left out."""

    score_batch: ScoreBatch
    readers: slice = field(default_factory=lambda: slice(None))


@dataclass(frozen=True)
class Scoring:
    """How a task is scored: by which functions of a batch, of what size, in which run.

    A chunk is one batch scored by one of `portions`, which together are for all readers. `settings`
    say all that decides the result, and `what` names it; both are for the run.
    """

    portions: Sequence[Portion]
    batch_size: int
    run: Run | None
    settings: Mapping[str, object]
    what: str = "scoring"


def score_batches(
    model: Model, task: Task, scoring: Scoring, finish: Callable[[TaskScores], R]
) -> R:
    """What `finish` makes of the scores of all examples, added up in float64, in their order.

    Raises:
        Interrupted: with what `finish` makes of a part, if somebody interrupts after the first
            batch.
        KeyboardInterrupt: before that.
        MemoryError: if not even one example fits into memory.
        ValueError: if the model cannot read the task, the batch size is no number of examples, or
            a run is asked for and settings cannot be told from others.
    """
    model.check(task)
    n = task.n_batches(scoring.batch_size) * len(scoring.portions)
    work = _Work(model, task, scoring)
    sums = _Sums(task, scoring, model.graph.exists)
    try:
        for done in do(scoring.run, work, n, what=scoring.what, settings=scoring.settings):
            sums = sums.with_one(done)
    except KeyboardInterrupt:
        partial = sums.finish() if sums.total is not None else None
        if partial is None or partial.n_examples == partial.n_of:
            raise
        raise Interrupted(finish(partial), partial.n_examples, partial.n_of) from None
    return finish(sums.finish())


@dataclass(frozen=True)
class _Work:
    """A chunk: what one portion says of one batch, as one number an edge."""

    model: Model
    task: Task
    scoring: Scoring

    def __call__(self, number: int) -> Parts:
        row, column = divmod(number, len(self.scoring.portions))
        batch = self.task.batch(row, self.scoring.batch_size, self.model.device)
        portion = self.scoring.portions[column]
        found = fitted(batch, portion.score_batch, BatchScores.__add__)
        require_finite(found.matrix, "scores", self.model, batch)
        exists = self.model.graph.exists[:, portion.readers]
        parts = {"edges": found.matrix[:, portion.readers][exists]}
        if found.completeness is not None:
            parts["completeness"] = found.completeness.double()
        return parts


@dataclass(frozen=True)
class _Sums:
    """The sum over the first batches; a new one for each chunk, so that an interrupt does no harm.

    `batch` is what is known of the batch after them.
    """

    task: Task
    scoring: Scoring
    exists: Bool[Tensor, "source dest"]
    total: Float[Tensor, "source dest *pos"] | None = None
    batch: Float[Tensor, "source dest *pos"] | None = None
    completeness: tuple[Float[Tensor, " _"], ...] = ()
    n_chunks: int = 0
    memory: tuple[Mapping[str, int], ...] = ()

    def with_one(self, done: Done) -> "_Sums":
        edges, n_portions = done.parts["edges"], len(self.scoring.portions)
        readers = self.scoring.portions[self.n_chunks % n_portions].readers
        zeros = torch.zeros(*self.exists.shape, *edges.shape[1:], dtype=torch.float64)
        batch = _plus(self.batch, zeros)  # a new one
        batch[:, readers][self.exists[:, readers]] = edges
        deltas = (done.parts["completeness"],) if "completeness" in done.parts else ()
        whole = (self.n_chunks + 1) % n_portions == 0
        return replace(
            self,
            total=_plus(self.total, batch) if whole else self.total,
            batch=None if whole else batch,
            completeness=self.completeness + deltas,
            n_chunks=self.n_chunks + 1,
            memory=(*self.memory, done.memory),
        )

    def finish(self) -> TaskScores:
        assert self.total is not None, "a task has a batch"
        ledger = Ledger(current().limit)
        for counts in self.memory:
            ledger.add(counts)
        batches = self.n_chunks // len(self.scoring.portions)
        n_examples = min(batches * self.scoring.batch_size, len(self.task))
        return TaskScores(self.total, self.completeness, n_examples, len(self.task), ledger)


def _plus(
    known: Float[Tensor, "*shape"] | None, more: Float[Tensor, "*shape"]
) -> Float[Tensor, "*shape"]:
    return more if known is None else known + more
