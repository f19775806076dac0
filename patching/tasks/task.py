"""A task: pairs of clean and corrupt prompts with right and wrong answers, as token ids.

Knows no model and no tokenizer: see `tokens` for text, `files` for reading and writing.
"""

import hashlib
import json
import random
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from patching.files.brief import briefly
from patching.tasks.origin import Origin, then

PaddingSide = Literal["right", "left"]


@briefly
@dataclass(frozen=True)
class Prompt:
    """One pair: `clean` shows the behaviour, `corrupt` differs in what the behaviour hangs on.

    `extra` keeps whatever else a file said about the pair.
    """

    clean: tuple[int, ...]
    corrupt: tuple[int, ...]
    answers: tuple[int, ...]
    wrong_answers: tuple[int, ...] = ()
    extra: Mapping[str, object] = field(default_factory=dict, compare=False)


@briefly
@dataclass(frozen=True)
class Batch:
    """Some prompts of a task as tensors, padded to one length.

    `is_token` marks real tokens (the two runs of a pair have equal lengths, so one mask serves
    both). `answer_pos` is the last real token, where the answer is predicted. `answers` and
    `wrong_answers` are padded; their masks say which entries count. `clean_logits` are filled in
    by whoever has run the clean prompts. `two_way` is the task's. Known without asking the device,
    of the rows it was made of: whether one starts with padding, which is the first without wrongs.
    """

    clean: Int[Tensor, "batch pos"]
    corrupt: Int[Tensor, "batch pos"]
    is_token: Bool[Tensor, "batch pos"]
    answer_pos: Int[Tensor, " batch"]
    answers: Int[Tensor, "batch n_answers"]
    is_answer: Bool[Tensor, "batch n_answers"]
    wrong_answers: Int[Tensor, "batch n_wrong"]
    is_wrong_answer: Bool[Tensor, "batch n_wrong"]
    clean_logits: Float[Tensor, "batch vocab"] | None = None
    two_way: bool = False
    left_padded: bool = False
    without_wrong: int | None = None

    def __len__(self) -> int:
        return len(self.clean)

    def at(self, rows: Int[Tensor, " row"] | slice) -> "Batch":
        """The given rows in the given order, with repetition: for runs of many variants."""
        parts = {part.name: getattr(self, part.name) for part in fields(self)}
        return replace(self, **{k: t[rows] for k, t in parts.items() if isinstance(t, Tensor)})

    __getitem__ = at

    @cached_property
    def up_to_answer(self) -> Bool[Tensor, "batch pos"]:
        """Real tokens up to the answer position."""
        places = torch.arange(self.clean.shape[1], device=self.clean.device)
        return self.is_token & (places <= self.answer_pos[:, None])

    @property
    def places(self) -> Int[Tensor, "batch pos"]:
        """Each token's number in its own row, counted from the first real one."""
        return (self.is_token.long().cumsum(dim=1) - 1).clamp(min=0)

    @cached_property
    def can_differ(self) -> Bool[Tensor, "batch pos"]:
        """Tokens from the first difference between the two runs up to the answer position.

        Before, both runs of a causal model are equal; after, nothing reaches the answer. A model
        that reads both ways may differ anywhere.
        """
        if self.two_way:
            return self.is_token
        differs = (self.clean != self.corrupt).int().cummax(dim=1).values.bool()
        return differs & self.up_to_answer


@briefly
@dataclass(frozen=True)
class Task:
    """A named, checked collection of prompts.

    `padding` says on which side shorter prompts of a batch are filled up; the numbers do not
    depend on it. `two_way` says that the task is for a model in which positions see what follows
    them. `extra` keeps whatever else a file said about the task; `origin` says how it was made.

    >>> pair = Prompt(clean=(1, 5, 6), corrupt=(1, 5, 7), answers=(6,), wrong_answers=(7,))
    >>> task = Task("copy", (pair, pair))
    >>> found, held_out = task.split(0.5)
    >>> len(found), len(held_out)
    (1, 1)

    Raises:
        ValueError: if there are no prompts, or a prompt is empty, of unequal length, without
            answer, or has an answer that is also wrong; the row is named.
    """

    name: str
    prompts: tuple[Prompt, ...]
    padding: PaddingSide = "right"
    extra: Mapping[str, object] = field(default_factory=dict, compare=False)
    two_way: bool = False
    origin: Origin = field(default_factory=dict, compare=False)

    def __post_init__(self) -> None:
        if not self.prompts:
            raise ValueError(f"task {self.name!r} has no prompts; at least one is needed")
        if self.padding not in ("right", "left"):
            raise ValueError(f"padding is 'right' or 'left', got {self.padding!r}")
        for what, is_bad in FAULTS.items():
            _refuse(self, is_bad, what)

    def __len__(self) -> int:
        return len(self.prompts)

    def take(self, n: int) -> "Task":
        """The first `n` prompts.

        Raises:
            ValueError: if that is none.
        """
        if n < 1:
            raise ValueError(f"take at least one prompt, got {n}")
        return replace(self, prompts=self.prompts[:n], origin=then(self.origin, "take", n))

    def of_length(self, length: int | None = None) -> "Task":
        """The prompts of one length in tokens: by default the commonest, of equals the first seen.

        Raises:
            ValueError: if there are none of this length.
        """
        counts = Counter(len(p.clean) for p in self.prompts)
        n = counts.most_common(1)[0][0] if length is None else length
        if n not in counts:
            shown = ", ".join(map(str, sorted(counts)))
            raise ValueError(f"task {self.name!r} has no prompts of {n} tokens, but of {shown}")
        rows = [i for i, p in enumerate(self.prompts) if len(p.clean) == n]
        return self._rows(rows, "of length", n)

    def split(self, fraction: float = 0.7, seed: int = 0) -> tuple["Task", "Task"]:
        """Two disjoint tasks, the first with about `fraction` of the prompts, at random by `seed`.

        Raises:
            ValueError: if one part would be empty.
        """
        n_first = round(fraction * len(self))
        if not 0 < n_first < len(self):
            raise ValueError(
                f"a split of {len(self)} prompts at {fraction} leaves one part empty; "
                "give more prompts or a fraction nearer 0.5"
            )
        rows = list(range(len(self)))
        random.Random(seed).shuffle(rows)
        first, second = sorted(rows[:n_first]), sorted(rows[n_first:])
        how = ("split", fraction, seed)
        return self._rows(first, *how, "first"), self._rows(second, *how, "second")

    def with_random_corrupt(self, seed: int = 0) -> "Task":
        """Each prompt's corrupt version becomes another prompt's clean one, of equal length.

        Raises:
            ValueError: if a prompt has no other of its length; the rows are named.
        """
        others = random.Random(seed)
        by_length: dict[int, list[tuple[int, ...]]] = {}
        for prompt in self.prompts:
            by_length.setdefault(len(prompt.clean), []).append(prompt.clean)
        _refuse(
            self, lambda p: len(set(by_length[len(p.clean)])) < 2, "no other prompt of its length"
        )
        prompts = [
            replace(p, corrupt=others.choice([c for c in by_length[len(p.clean)] if c != p.clean]))
            for p in self.prompts
        ]
        name, origin = f"{self.name}, random corrupt", then(self.origin, "random corrupt", seed)
        return replace(self, name=name, prompts=tuple(prompts), origin=origin)

    def require_contrast(self) -> None:
        """Refuse pairs whose corrupt prompt is the clean one: nothing could be measured on them.

        Raises:
            ValueError: naming the rows.
        """
        _refuse(self, lambda p: p.clean == p.corrupt, "a corrupt prompt equal to the clean one")

    @cached_property
    def max_length(self) -> int:
        """The longest prompt, in tokens."""
        return max(len(p.clean) for p in self.prompts)

    @cached_property
    def max_id(self) -> int:
        """The largest token id in any prompt or answer."""
        return max(max(_ids(p)) for p in self.prompts)

    @cached_property
    def hash(self) -> str:
        """A short hash of all token ids: equal for equal prompts in equal order."""
        rows = [(p.clean, p.corrupt, p.answers, p.wrong_answers) for p in self.prompts]
        return hashlib.sha256(json.dumps(rows).encode()).hexdigest()[:16]

    def n_batches(self, size: int) -> int:
        """How many batches of `size` the prompts make.

        Raises:
            ValueError: if a batch would be empty.
        """
        if size < 1:
            raise ValueError(f"a batch holds at least one example, got batch_size={size}")
        return -(-len(self) // size)

    def batches(self, size: int, device: torch.device | str = "cpu") -> Iterator[Batch]:
        """The prompts in order, `size` at a time, on `device`."""
        return (self.batch(i, size, device) for i in range(self.n_batches(size)))

    def batch(self, number: int, size: int, device: torch.device | str = "cpu") -> Batch:
        """The batch of this number, from 0, of those that `batches` gives."""
        prompts = self.prompts[number * size : (number + 1) * size]
        return replace(_to_batch(prompts, self.padding, device), two_way=self.two_way)

    def _rows(self, rows: Sequence[int], *step: object) -> "Task":
        """The prompts of some rows; `step` is what to call this in the origin."""
        prompts = tuple(self.prompts[i] for i in rows)
        return replace(self, prompts=prompts, origin=then(self.origin, str(step[0]), *step[1:]))


def _unequal(prompt: Prompt) -> bool:
    return len(prompt.clean) != len(prompt.corrupt)


def _ids(prompt: Prompt) -> tuple[int, ...]:
    return prompt.clean + prompt.corrupt + prompt.answers + prompt.wrong_answers


FAULTS: dict[str, Callable[[Prompt], bool]] = {
    "clean and corrupt prompts of unequal token length": _unequal,
    "an empty prompt": lambda p: not p.clean,
    "negative token ids": lambda p: min(_ids(p)) < 0,
    "no answers": lambda p: not p.answers,
    "an answer that is also a wrong answer": lambda p: bool({*p.answers} & {*p.wrong_answers}),
}
"""What no row of a task may have, in words and as a test; a row is asked in this order."""


def _refuse(task: Task, is_bad: Callable[[Prompt], bool], what: str) -> None:
    rows = [i for i, prompt in enumerate(task.prompts) if is_bad(prompt)]
    if rows:
        shown = ", ".join(map(str, rows[:10])) + (", ..." if len(rows) > 10 else "")
        lengths = ""
        if is_bad is _unequal:
            pair = task.prompts[rows[0]]
            lengths = f" (row {rows[0]}: {len(pair.clean)} and {len(pair.corrupt)} tokens)"
        raise ValueError(f"task {task.name!r} has {what} in row {shown}{lengths}")


def _to_batch(prompts: Sequence[Prompt], padding: PaddingSide, device: torch.device | str) -> Batch:
    clean, is_token = _pad([p.clean for p in prompts], padding, device)
    corrupt, _ = _pad([p.corrupt for p in prompts], padding, device)
    answers, is_answer = _pad([p.answers for p in prompts], "right", device)
    wrong, is_wrong = _pad([p.wrong_answers for p in prompts], "right", device)
    answer_pos = (torch.arange(clean.shape[1], device=device) * is_token).amax(dim=1)
    parts = clean, corrupt, is_token, answer_pos, answers, is_answer, wrong, is_wrong
    lengths = {len(p.clean) for p in prompts}
    lacking = next((i for i, p in enumerate(prompts) if not p.wrong_answers), None)
    left = padding == "left" and len(lengths) > 1
    return Batch(*parts, left_padded=left, without_wrong=lacking)


def _pad(
    rows: Sequence[Sequence[int]], side: PaddingSide, device: torch.device | str
) -> tuple[Int[Tensor, "batch length"], Bool[Tensor, "batch length"]]:
    length = max(map(len, rows))
    ids = torch.zeros(len(rows), length, dtype=torch.long)
    is_real = torch.zeros(len(rows), length, dtype=torch.bool)
    for i, row in enumerate(rows):
        where = slice(length - len(row), length) if side == "left" else slice(0, len(row))
        ids[i, where] = torch.tensor(row, dtype=torch.long)
        is_real[i, where] = True
    return ids.to(device), is_real.to(device)
