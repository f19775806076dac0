"""The laws of tasks, and of generators of them: `(tokenizer, n, seed) -> Task`."""

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from circuits.checks.law import require
from patching.tasks import Generator, Task, Tokenizer, from_json, to_json
from patching.tasks.task import FAULTS
from patching.tasks.tokens import n_bos

N = 24


def check_task(task: Task | Generator, tokenizer: Tokenizer | None = None) -> None:
    """Hold a task, or what a generator makes for a tokenizer, to the laws of tasks.

    Pairs differ, at equal length; every row has answers and none that is wrong too; a file keeps
    the prompts. Of a generator also: n prompts, the same for equal seeds and others for others, n
    of 0 refused. With a tokenizer: prompts begin with one BOS where it uses one, and no word is
    unknown to it.

    >>> from patching import Model
    >>> from patching.tasks import ioi
    >>> check_task(ioi, Model.load("toy").tokenizer)

    Raises:
        AssertionError: if a law is broken; rows are named.
        ValueError: if a generator comes without a tokenizer, or refuses it.
    """
    if isinstance(task, Task):
        _check(task, tokenizer)
        return
    if tokenizer is None:
        raise ValueError("a generator of tasks is tried with a tokenizer; give one")
    made = task(tokenizer, N, 0)
    law = "a generator makes as many prompts as it is asked for"
    require(len(made) == N, law, f"{len(made)} instead of {N}")
    law = "equal seeds make equal tasks, other seeds others"
    require(task(tokenizer, N, 0).hash == made.hash, law, "a second task of seed 0 differs")
    require(task(tokenizer, N, 1).hash != made.hash, law, "seed 1 made the task of seed 0")
    law = "a task of no prompts is refused with a ValueError"
    require(_refuses_none(task, tokenizer), law, "n = 0 went through")
    _check(made, tokenizer)


def _check(task: Task, tokenizer: Tokenizer | None) -> None:
    prompts = task.prompts
    for what, is_bad in FAULTS.items():
        _none([i for i, p in enumerate(prompts) if is_bad(p)], f"no row has {what}")
    _none([i for i, p in enumerate(prompts) if p.clean == p.corrupt], "clean and corrupt differ")
    if tokenizer is not None:
        _spelled(task, tokenizer)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "task.json"
        to_json(task, path)
        found = from_json(path).hash
    law = "a file keeps the prompts"
    require(found == task.hash, law, f"their hash was {task.hash} and is {found}")


def _spelled(task: Task, tokenizer: Tokenizer) -> None:
    bos = tokenizer.bos_token_id
    uses = bos is not None and bos in tokenizer.encode("a", add_special_tokens=True)[:1]
    if uses:
        ids = [(p.clean, p.corrupt) for p in task.prompts]
        bad = [i for i, pair in enumerate(ids) if any(n_bos(one, bos) != 1 for one in pair)]
        _none(bad, f"prompts begin with exactly one BOS (id {bos})")
    unknown = getattr(tokenizer, "unk_token_id", None)
    if unknown is not None and unknown not in (bos, getattr(tokenizer, "eos_token_id", None)):
        ids = [{*p.ids} for p in task.prompts]
        _none([i for i, one in enumerate(ids) if unknown in one], "every word is known")


def _none(rows: Sequence[int], law: str) -> None:
    shown = ", ".join(map(str, rows[:10]))
    require(not rows, law, f"row {shown}{', ...' if len(rows) > 10 else ''} breaks it")


def _refuses_none(generator: Callable[..., Task], tokenizer: Tokenizer) -> bool:
    try:
        generator(tokenizer, 0, 0)
    except ValueError:
        return True
    return False
