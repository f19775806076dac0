"""From a way to score one batch to the scores of a task: chunks, sums.

A chunk of a run is what one portion says of one batch, as one number an edge, summed over examples.
"""

import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TypeVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from circuits.scores import Scores
from patching.graph import Graph
from patching.model import Model
from patching.runs.batches import Found, Keeping, added_up, in_batches
from patching.span_graph import kept_apart
from patching.tasks.task import Batch, Task
from patching.work import Interrupted, Parts

R = TypeVar("R")


@dataclass(frozen=True)
class BatchScores:
    """Scores of some examples, summed, and the completeness delta of each."""

    matrix: Float[Tensor, "source dest *pos"]
    completeness: Float[Tensor, " example"] | None


ScoreBatch = Callable[[Batch], BatchScores]


@dataclass(frozen=True)
class TaskScores:
    """Means over the examples so far, and the completeness delta of each, where there is one.

    Of all examples, unless something interrupted; `provenance` says of how many.
    """

    mean: Float[Tensor, "source dest *pos"]
    deltas: Float[Tensor, " example"] | None
    graph: Graph
    provenance: Mapping[str, object]


def to_scores(found: TaskScores) -> Scores:
    """With one number an edge; a warning where they add up to something else than they should."""
    return with_caution(Scores(found.mean, found.graph, found.provenance, found.deltas))


def with_caution(scores: Scores) -> Scores:
    """Scores that say how far their sum is off, where that is known; a warning where it is far."""
    if scores.completeness_error is None:
        return scores
    if scores.caution:
        warnings.warn(scores.caution, stacklevel=1)
    error = float(f"{scores.completeness_error:.3g}")
    said = {**scores.provenance, "completeness_error": error}
    if not math.isfinite(error):  # which is no number in JSON
        said.pop("completeness_error")
    return replace(scores, provenance=said)


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


def score_batches(
    model: Model,
    task: Task,
    portions: Sequence[Portion],
    keeping: Keeping,
    finish: Callable[[TaskScores], R],
) -> R:
    """What `finish` makes of the scores of all examples, added up in float64, in their order.

    The portions together are for all readers.

    Raises:
        Interrupted: with what `finish` makes of a part, if somebody interrupts after the first
            batch.
        KeyboardInterrupt: before that.
        MemoryError: if not even one example fits into memory.
        ValueError: if the model cannot read the task, the batch size is no number of examples,
            scores are not finite, or a run is asked for and settings cannot be told from others.
    """
    model.check(task)
    graph, n_batches = kept_apart(model.graph, task.apart), task.n_batches(keeping.doing.batch_size)
    measures = [partial(_edges, portion, graph.exists) for portion in portions] * n_batches
    counts = [int(graph.exists[:, portion.readers].sum()) for portion in portions]
    axes = partial(_lengths, counts)
    batches = in_batches(model, task, measures, keeping, join=_joined, axes=axes)
    add = partial(_with_one, graph.exists, portions)
    return added_up(batches, task, keeping.doing, add, partial(_finish, graph, keeping, finish))


def _edges(portion: Portion, exists: Bool[Tensor, "source dest"], batch: Batch) -> Parts:
    """What a portion says of some examples."""
    found = portion.score_batch(batch)
    edges = found.matrix[:, portion.readers][exists[:, portion.readers]]
    if found.completeness is None:
        return {"edges": edges}
    return {"edges": edges, "completeness": found.completeness.double().cpu()}


def _joined(first: Parts, second: Parts) -> Parts:
    """Of the examples of both halves of a batch: sums of scores, and all deltas."""
    edges = {"edges": first["edges"] + second["edges"]}
    deltas = [part["completeness"] for part in (first, second) if "completeness" in part]
    return edges | ({"completeness": torch.cat(deltas)} if deltas else {})


def _lengths(counts: Sequence[int], part: str, portion: int, n_examples: int) -> Mapping[int, int]:
    """A sum for each edge into a portion of the readers, a delta for each example."""
    return {0: counts[portion] if part == "edges" else n_examples}


@dataclass(frozen=True)
class _Sums:
    """Over the first batches."""

    total: Float[Tensor, "source dest *pos"]
    completeness: tuple[Float[Tensor, " _"], ...]


def _with_one(
    exists: Bool[Tensor, "source dest"],
    portions: Sequence[Portion],
    before: _Sums | None,
    batch: Sequence[Parts],
) -> _Sums:
    """The sums with one more batch, which has a part for each portion."""
    some = batch[0]["edges"]
    total = torch.zeros(*exists.shape, *some.shape[1:], dtype=torch.float64)
    for portion, parts in zip(portions, batch, strict=True):
        total[:, portion.readers][exists[:, portion.readers]] = parts["edges"].to(total)
    deltas = tuple(parts["completeness"] for parts in batch if "completeness" in parts)
    if before is None:
        return _Sums(total, deltas)
    return _Sums(before.total + total, before.completeness + deltas)


def _finish(
    graph: Graph, keeping: Keeping, finish: Callable[[TaskScores], R], found: Found[_Sums]
) -> R:
    sums, provenance = found.total, found.provenance(keeping.described)
    deltas = torch.cat(sums.completeness) if sums.completeness else None
    return finish(TaskScores(sums.total / found.n_examples, deltas, graph, provenance))
