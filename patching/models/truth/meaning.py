"""What a program means: run on words, without weights; and which edges matter on a task by that.

Knows nothing of tensors or models. An edge's value can be swapped for that of another prompt, as
exact patching of edges does with activations.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from patching.models.truth.program import LOGITS, TOKEN, Head, Match, Previous, Program
from patching.models.word_level import BOS
from patching.span_graph import AT
from patching.tasks.prompt import Prompt
from patching.tasks.spans import labels
from patching.tasks.task import Task

Words = Sequence[str]
Read = Callable[[str, str], tuple[str, ...]]  # what a reader finds in a slot


@dataclass(frozen=True)
class State:
    """What every slot holds at every position; a split attention gives words joined by `|`."""

    slots: Mapping[str, tuple[str, ...]]

    def answer(self, program: Program) -> tuple[str, ...]:
        """What the answer slots hold at the last position."""
        return tuple(self.slots[slot][-1] for slot in program.answers)


@dataclass(frozen=True)
class Swap:
    """An edge, `writer->reader`, that carries what its writer wrote in another run.

    At all positions, or at some.
    """

    edge: str
    other: State
    at: frozenset[int] | None = None


def run(program: Program, prompt: Words, swap: Swap | None = None) -> State:
    """Run a program on a prompt, which starts with `<bos>`.

    With a swap, the state's answer slots hold what the logits read.

    >>> from patching.models.truth.program import Head, Program, previous
    >>> echo = Program(("a", "b"), (Head(0, 0, previous(), "token", "old"),), ("old",), n_layers=1)
    >>> run(echo, ["<bos>", "a", "b"]).answer(echo)
    ('a',)
    """
    slots: dict[str, tuple[str, ...]] = {TOKEN: tuple(prompt)}
    read = partial(_read, program, swap, slots)
    for step in program.in_order:
        if isinstance(step, Head):
            values = read(f"{step.node}.v", step.copy)
            attended = _attended(step, read, len(prompt))
            slots[step.into] = tuple("|".join(values[p] for p in places) for places in attended)
        else:
            rows = zip(*(read(step.node, slot) for slot in step.slots), strict=True)
            slots[step.into] = tuple(step.table.get(row, step.otherwise) for row in rows)
    slots |= {slot: read(LOGITS, slot) for slot in program.answers}
    return State(slots)


def active_edges(program: Program, task: Task) -> frozenset[str]:
    """The structural edges that change the answer of some pair if they carry the corrupt value.

    Only these can have an effect under this task; all others carry the same in both prompts, or
    what they carry is not what decides. By the program's meaning, not by any model's weights. Where
    the task keeps spans apart, edges at which of them: `writer->reader@span`.
    """
    found: set[str] = set()
    for prompt in task.prompts:
        clean, corrupt = (
            [program.vocabulary[i] for i in ids] for ids in (prompt.clean, prompt.corrupt)
        )
        right, other = run(program, clean).answer(program), run(program, corrupt)
        for edge in program.structural:
            for at, span in _parts(prompt, task.apart):
                name = edge + span
                swap = Swap(edge, other, at)
                if name not in found and run(program, clean, swap).answer(program) != right:
                    found.add(name)
    return frozenset(found)


def _parts(prompt: Prompt, apart: Sequence[str]) -> list[tuple[frozenset[int] | None, str]]:
    """Positions of each span that is kept apart, and what an edge there is called after it."""
    if not apart:
        return [(None, "")]
    numbers = labels(prompt.spans, apart, len(prompt.clean))
    return [
        (frozenset(p for p, n in enumerate(numbers) if n == i), f"{AT}{span}")
        for i, span in enumerate(apart)
    ]


def _read(
    program: Program, swap: Swap | None, slots: Mapping[str, Words], reader: str, slot: str
) -> tuple[str, ...]:
    if swap is None or swap.edge != f"{program.writers[slot]}->{reader}":
        return tuple(slots[slot])
    other = swap.other.slots[slot]
    if swap.at is None:
        return other
    return tuple(other[i] if i in swap.at else own for i, own in enumerate(slots[slot]))


def _attended(step: Head, read: Read, length: int) -> list[list[int]]:
    """The positions that each position attends to."""
    attend = step.attend
    if isinstance(attend, Previous):
        return [[max(here - attend.back, 0)] for here in range(length)]
    keys = read(f"{step.node}.k", attend.key)
    asked = _asked(step, attend, read, length)
    rest = read(f"{step.node}.k", TOKEN).index(BOS)
    return [
        [there for there in range(here + 1) if keys[there] == asked[here]] or [rest]
        for here in range(length)
    ]


def _asked(step: Head, attend: Match, read: Read, length: int) -> tuple[str, ...]:
    if attend.query is not None:
        return read(f"{step.node}.q", attend.query)
    assert attend.word is not None, "a match asks for a slot or for a word"
    return (attend.word,) * length
