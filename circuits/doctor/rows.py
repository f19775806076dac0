"""Reading a task row by row: what is sound becomes a task, what is not is kept with its fault.

Loading a file stops at the first fault; a doctor goes on. Knows no model.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from patching.tasks import Prompt, Task, Tokenizer
from patching.tasks.formats import open_rows
from patching.tasks.prompt import FAULTS, told_of

UNREADABLE = "a form that cannot be read"
NO_CONTRAST = "a corrupt prompt equal to the clean one"

KINDS = (UNREADABLE, *FAULTS, NO_CONTRAST)
"""Faults that keep a row from being used, in the order in which a row is asked."""


@dataclass(frozen=True)
class Fault:
    """Why a row cannot be used: one of `KINDS`, and what was found there."""

    row: int
    kind: str
    found: str = ""


@dataclass(frozen=True)
class Reading:
    """A task as far as it can be used.

    `task` holds the sound rows (None: there are none), and `rows` their numbers in the whole, from
    0. `faults` are the others.
    """

    name: str
    n_rows: int
    task: Task | None
    rows: tuple[int, ...]
    faults: tuple[Fault, ...]


def read_rows(
    path: str | Path,
    tokenizer: Tokenizer | None = None,
    *,
    first_token: bool = False,
    limit: int | None = None,
) -> Reading:
    """A task file row by row (the first `limit`), in any form that `patching.from_file` reads.

    Raises:
        ValueError: if the file as a whole is of no such form, its token ids are another
            tokenizer's, or a CSV comes without a tokenizer.
        OSError: if it cannot be opened.
    """
    if Path(path).suffix == ".csv" and tokenizer is None:
        raise ValueError(f"there is no tokenizer to read the texts of {path} with")
    rows = open_rows(path, tokenizer)
    n = len(rows) if limit is None else min(limit, len(rows))
    found = _sort(rows.name, n, lambda i: rows.prompt(i, first_token=first_token))
    if found.task is not None:
        rows.require_own_ids(dict(zip(found.rows, found.task.prompts, strict=True)))
    return found


def sound_rows(task: Task) -> Reading:
    """A task in memory: its rules have been checked, only contrast is left."""
    return _sort(task.name, len(task), lambda i: task.prompts[i], task)


def _sort(name: str, n: int, read: Callable[[int], Prompt], like: Task | None = None) -> Reading:
    prompts: list[tuple[int, Prompt]] = []
    texts: list[tuple[int, Prompt]] = []
    faults: list[Fault] = []
    for i in range(n):
        found = _judged(i, read)
        if isinstance(found, Fault):
            faults.append(found)
        elif found.clean != found.corrupt:
            prompts.append((i, found))
        else:
            faults.append(Fault(i, NO_CONTRAST))
            texts += [(i, found)] if found.is_text else []
    if not prompts and texts:  # which need no corrupt prompts, where no row has any
        prompts, faults = texts, [fault for fault in faults if fault.kind != NO_CONTRAST]
    sound = tuple(prompt for _, prompt in prompts)
    task = None
    if sound:
        task = Task(name, sound) if like is None else replace(like, prompts=sound)
    return Reading(name, n, task, tuple(i for i, _ in prompts), tuple(faults))


def _judged(i: int, read: Callable[[int], Prompt]) -> Prompt | Fault:
    try:
        found = read(i)
    except ValueError as error:
        return Fault(i, UNREADABLE, str(error))
    for kind, is_bad in FAULTS.items():
        if is_bad(found):
            told = told_of(kind, found) or f"{len(found.clean)} and {len(found.corrupt)}"
            return Fault(i, kind, f"{told} tokens")
    return found
