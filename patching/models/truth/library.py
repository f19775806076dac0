"""The known circuits that ship with the package, each in two formats.

* `truth/induction`: which letter followed this one before? A previous-token head writes at each
  position what stands before it; the induction head looks for the present letter there, and copies
  the letter it finds. In `-noise` all other heads have small random weights, in `-distractor`
  another head is as active as they are but nobody reads it, in `-redundant` two induction heads
  share the work.
* `truth/copy`: which letter follows the mark? As above, but what is looked for is always the mark:
  queries are constant.
* `truth/comparison`: is a digit less than the next? A head brings the first digit along, and an MLP
  compares the two by a table.
* `truth/composition`: two steps, and edges that skip them. An MLP says which digit comes next, a
  head looks for it and takes what another head had written there, and a second MLP adds that to
  the digit asked.

With the suffix `-llama` the same program is a Llama. With `-relu` it is a GPT-2 whose neurons are
ReLUs, each a row of a table: a model whose neurons are its features, and nothing is left over.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from itertools import product
from typing import cast

import torch

from patching.models.truth import tasks
from patching.models.truth.compiled import Compiled, compile_gpt2, compile_llama
from patching.models.truth.meaning import active_edges
from patching.models.truth.program import Head, Lookup, Program, marked, previous, same
from patching.span_graph import AT
from patching.tasks.generators import Generator
from patching.tasks.task import Task
from patching.tasks.tokens import Tokenizer

PREFIX, LLAMA, RELU = "truth/", "-llama", "-relu"
NOISE = 0.02  # standard deviation of the other heads' weights, in the noisy variant


@dataclass(frozen=True)
class Known:
    """The truth about a model: a task, and what its circuit is.

    `structural` are all edges that the computation reads. `active` are those among them that
    change the answer of some pair of this task if they carry the corrupt value: only these can have
    an effect, so scores are to be judged against them. The others carry constants: positions, the
    key of `<bos>`, a table's thresholds. Edges are written `source->destination`.
    """

    task: Task
    structural: frozenset[str]
    active: frozenset[str]


@dataclass(frozen=True)
class Example:
    """A program of the library with its task; `noise` is what the compiler gives unused heads."""

    program: Program
    generate: Generator
    noise: float = 0.0


def known(name: str, *, n: int = 96, seed: int = 0, by_span: bool = False) -> Known:
    """The circuit of an embedded model, with a task of `n` pairs drawn by `seed`.

    With `by_span` the task keeps its spans apart, and edges say theirs, `a0.h1->a1.h3.k@next`: read
    at all spans, active at few.

    >>> truth = known("truth/copy")
    >>> sorted(truth.active)[0], len(truth.structural)
    ('a0.h0->a1.h2.k', 8)

    Raises:
        ValueError: if there is no such model, or `n` is less than 1.
    """
    example = find(name)
    if example is None:
        raise ValueError(f"no known circuit {name!r}; there are {', '.join(names())}")
    tokenizer = cast(Tokenizer, compiled(name).tokenizer)
    task = example.generate(tokenizer, n, seed)
    task = task.by_span() if by_span else task
    structural = example.program.structural
    if task.apart:
        structural = frozenset(f"{edge}{AT}{span}" for edge in structural for span in task.apart)
    return Known(task, structural, active_edges(example.program, task))


def compiled(name: str, *, dtype: torch.dtype = torch.float32) -> Compiled:
    """A fresh model of the library.

    Raises:
        ValueError: if there is none of this name.
    """
    example = find(name)
    if example is None:
        raise ValueError(f"no known circuit {name!r}; there are {', '.join(names())}")
    if name.endswith(LLAMA):
        return compile_llama(example.program, noise=example.noise, dtype=dtype)
    activation = "relu" if name.endswith(RELU) else "gelu_new"
    return compile_gpt2(example.program, noise=example.noise, dtype=dtype, activation=activation)


def find(name: str) -> Example | None:
    """The example of a name, in any format."""
    return examples().get(name.removesuffix(LLAMA).removesuffix(RELU))


def names() -> tuple[str, ...]:
    """All names, first those in GPT-2's format; without those of `relu_names`."""
    return (*examples(), *(name + LLAMA for name in examples()))


def relu_names() -> tuple[str, ...]:
    """Those whose MLPs do something, with ReLUs for neurons; otherwise as without the suffix."""
    return tuple(
        name + RELU
        for name, one in examples().items()
        if any(isinstance(step, Lookup) for step in one.program.steps)
    )


@cache
def examples() -> Mapping[str, Example]:
    """All programs by their name in GPT-2's format."""
    plain = _induction()
    return {
        PREFIX + "induction": plain,
        PREFIX + "induction-noise": Example(plain.program, plain.generate, NOISE),
        PREFIX + "induction-distractor": _induction(Head(0, 2, previous(), "token", "unread")),
        PREFIX + "induction-redundant": _induction(_induction_head(0, "answer too")),
        PREFIX + "copy": _copy(),
        PREFIX + "comparison": _comparison(),
        PREFIX + "composition": _composition(),
    }


def _induction(*more: Head) -> Example:
    steps = (
        Head(0, 1, attend=previous(), copy="token", into="before"),
        _induction_head(3, "answer"),
        *more,
    )
    answers = tuple(step.into for step in steps if step.into.startswith("answer"))
    return Example(Program(tasks.LETTERS, steps, answers), tasks.repeated_letter)


def _induction_head(head: int, into: str) -> Head:
    return Head(1, head, attend=same("token", "before"), copy="token", into=into)


def _copy() -> Example:
    steps = (
        Head(0, 0, attend=previous(), copy="token", into="before"),
        Head(1, 2, attend=marked(tasks.MARK, "before"), copy="token", into="answer"),
    )
    return Example(Program((*tasks.LETTERS, tasks.MARK), steps, ("answer",)), tasks.marked_letter)


def _comparison() -> Example:
    table = {pair: tasks.relation(*pair) for pair in product(tasks.DIGITS, repeat=2)}
    steps = (
        Head(0, 2, attend=previous(), copy="token", into="before"),
        Lookup(1, ("before", "token"), table, otherwise=tasks.UNKNOWN, into="answer"),
    )
    words = (*tasks.DIGITS, *tasks.RELATIONS, tasks.UNKNOWN)
    return Example(Program(words, steps, ("answer",)), tasks.digit_comparison)


def _composition() -> Example:
    successors = {(digit,): tasks.add(digit, "1") for digit in tasks.DIGITS}
    sums = {pair: tasks.add(*pair) for pair in product(tasks.DIGITS, repeat=2)}
    steps = (
        Head(0, 1, attend=previous(), copy="token", into="before"),
        Lookup(0, ("token",), successors, otherwise=tasks.UNKNOWN, into="next"),
        Head(1, 3, attend=same("next", "token"), copy="before", into="found"),
        Lookup(1, ("found", "token"), sums, otherwise=tasks.UNKNOWN, into="answer"),
    )
    program = Program((*tasks.DIGITS, tasks.UNKNOWN), steps, ("answer",))
    return Example(program, tasks.digit_composition)
