"""Drawing the rows of a generated task: no row twice, no pair of unequal length. Knows no words."""

import random
from collections.abc import Callable, Hashable, Mapping, Sequence
from functools import partial
from typing import Protocol, TypeVar, runtime_checkable

from patching.tasks.task import Prompt, Task
from patching.tasks.tokens import TextPrompt, Tokenizer, to_prompt

MAX_TRIES = 100
TRIES_PER_ROW = 20  # with all of N equally likely rows drawn, 20 N tries miss one by e^-20

Left = Mapping[str, tuple[int, int]]
"""For each kind of word: how many the tokenizer keeps whole, and of how many."""

Row = TypeVar("Row", bound=Hashable)


@runtime_checkable
class Generator(Protocol):
    """`(tokenizer, n, seed) -> Task` of `n` prompts; equal arguments give equal tasks."""

    def __call__(self, tokenizer: Tokenizer, n: int, seed: int = 0) -> Task:
        """Draw the task."""
        ...


def draw(
    name: str,
    n: int,
    seed: int,
    make: Callable[[random.Random], Prompt],
    *,
    left: Left | None = None,
) -> Task:
    """A task of `n` prompts made one after another.

    Pairs that are equal or of unequal length are drawn again; so are rows that came up before,
    until no new ones do: then all may come again. `left` is kept in the task's `extra["words"]`.

    Raises:
        ValueError: if `n` is less than 1, or no pair of equal length comes up.
    """
    return _draw(name, n, seed, make, lambda prompt: prompt, left)


def draw_texts(
    name: str,
    n: int,
    seed: int,
    make: Callable[[random.Random], TextPrompt],
    tokenizer: Tokenizer,
    *,
    left: Left,
) -> Task:
    """Like `draw`, from pairs of texts; only texts that are new are encoded.

    Raises:
        ValueError: if `n` is less than 1, or no pair of equal length comes up.
    """
    return _draw(name, n, seed, make, partial(to_prompt, tokenizer), left)


def variant(task: str, corruption: str, corruptions: Sequence[str]) -> str:
    """The name of a task under a corruption: its own for the first one, else `ioi:swap`.

    Raises:
        ValueError: if the task has no such corruption.
    """
    if corruption not in corruptions:
        raise ValueError(
            f"the task {task!r} has no corruption {corruption!r}; there are "
            f"{', '.join(corruptions)}"
        )
    return task if corruption == corruptions[0] else f"{task}:{corruption}"


def any_length(name: str, several: bool) -> str:
    """The name of a task whose answers may have several tokens: `facts:any`."""
    return f"{name}:any" if several else name


def _draw(
    name: str,
    n: int,
    seed: int,
    make: Callable[[random.Random], Row],
    encode: Callable[[Row], Prompt],
    left: Left | None,
) -> Task:
    if n < 1:
        raise ValueError(f"a task needs at least one prompt, got n={n}")
    rng, seen = random.Random(seed), set[Row]()
    prompts = tuple(_draw_new(name, rng, make, encode, seen) for _ in range(n))
    words = {kind: list(counts) for kind, counts in (left or {}).items()}
    return Task(name, prompts, extra={"words": words} if words else {})


def _draw_new(
    name: str,
    rng: random.Random,
    make: Callable[[random.Random], Row],
    encode: Callable[[Row], Prompt],
    seen: set[Row],
) -> Prompt:
    """The next new row; forgets what it saw when nothing new comes up for long.

    Raises:
        ValueError: if no pair of equal length comes up.
    """
    unusable = repeats = 0
    while unusable < MAX_TRIES:
        row = make(rng)
        if row in seen:
            repeats, unusable = repeats + 1, 0
            if repeats > MAX_TRIES + TRIES_PER_ROW * len(seen):
                seen.clear()
            continue
        prompt = encode(row)
        if len(prompt.clean) == len(prompt.corrupt) and prompt.clean != prompt.corrupt:
            seen.add(row)
            return prompt
        unusable += 1
    raise ValueError(
        f"task {name!r}: {MAX_TRIES} pairs in a row had clean and corrupt prompts that are equal "
        "or of unequal token length with this tokenizer; choose another task or another tokenizer"
    )
