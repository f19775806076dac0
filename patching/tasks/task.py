"""A task: pairs of clean and corrupt prompts with right and wrong answers, as token ids.

Knows no model and no tokenizer: see `tokens` for text, `files` for reading and writing.
"""

import hashlib
import json
import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch

from patching.files.brief import briefly
from patching.tasks.batch import Batch, PaddingSide, to_batch, with_spans
from patching.tasks.origin import Origin, then
from patching.tasks.prompt import FAULTS, Answer, Prompt, names_in_order, told_of
from patching.tasks.spans import REST

__all__ = ["FAULTS", "Answer", "Batch", "PaddingSide", "Prompt", "Task"]


@briefly
@dataclass(frozen=True)
class Task:
    """A named, checked collection of prompts.

    `padding` says on which side shorter prompts of a batch are filled up; the numbers do not
    depend on it. `two_way` says that the task is for a model in which positions see what follows
    them. `extra` keeps whatever else a file said about the task; `origin` says how it was made.
    `apart` are the spans that scores keep apart, `rest` first: none, unless by `by_span`.

    >>> pair = Prompt(clean=(1, 5, 6), corrupt=(1, 5, 7), answers=(6,), wrong_answers=(7,))
    >>> task = Task("copy", (pair, pair))
    >>> found, held_out = task.split(0.5)
    >>> len(found), len(held_out)
    (1, 1)

    Raises:
        ValueError: if there are no prompts, or a prompt is empty, of unequal length, without
            answer, has an answer that is also wrong, or one of several tokens while positions see
            what follows them; the row is named.
    """

    name: str
    prompts: tuple[Prompt, ...]
    padding: PaddingSide = "right"
    extra: Mapping[str, object] = field(default_factory=dict, compare=False)
    two_way: bool = False
    origin: Origin = field(default_factory=dict, compare=False)
    apart: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.prompts:
            raise ValueError(f"task {self.name!r} has no prompts; at least one is needed")
        if self.padding not in ("right", "left"):
            raise ValueError(f"padding is 'right' or 'left', got {self.padding!r}")
        for what, is_bad in FAULTS.items():
            refuse_rows(self, is_bad, what)
        if self.two_way:
            what = "answers of several tokens, and its positions see what follows them"
            refuse_rows(self, lambda p: p.is_long, what)

    def __len__(self) -> int:
        return len(self.prompts)

    def some(self, rows: Iterable[int]) -> "Task":
        """The prompts of these rows, in this order; a row may come again."""
        return replace(self, prompts=tuple(self.prompts[i] for i in rows))

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

    @cached_property
    def span_names(self) -> tuple[str, ...]:
        """`rest`, then the names of spans, in the order in which they mostly stand in prompts."""
        return (REST, *names_in_order(self.prompts))

    def by_span(self, names: Sequence[str] | None = None) -> "Task":
        """The task for scores that keep spans apart: all of them, or those that are named.

        Tokens of all other spans are `rest`.

        Raises:
            ValueError: if there are no spans, or none of a name.
        """
        known = self.span_names
        if len(known) == 1:
            raise ValueError(
                f"no prompt of task {self.name!r} has a span; generated tasks do, files name them "
                "in a field `spans`, and patching.tasks has rules (each_position, from_end)"
            )
        chosen = [name for name in known if names is None or name in (REST, *names)]
        unknown = [name for name in names or () if name not in known]
        if unknown:
            shown = ", ".join(known)
            raise ValueError(f"task {self.name!r} has no span {unknown[0]!r}, but {shown}")
        return replace(self, apart=tuple(chosen))

    def with_spans_of(self, spans: Sequence[str]) -> "Task":
        """The task with the spans apart that something keeps apart; as it is, if it keeps none.

        Raises:
            ValueError: if prompts have no span of a name, or others are kept apart.
        """
        if not spans or self.apart == tuple(spans):
            return self
        said = f"spans {', '.join(spans)} are kept apart there"
        if self.apart:
            raise ValueError(f"{said}, and {', '.join(self.apart)} in task {self.name!r}")
        missing = [name for name in spans if name not in self.span_names]
        if missing:
            known = ", ".join(self.span_names)
            raise ValueError(
                f"{said}, and no prompt of task {self.name!r} has the span {missing[0]!r} "
                f"(it has {known})"
            )
        return replace(self, apart=tuple(spans))

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
        refuse_rows(
            self, lambda p: len(set(by_length[len(p.clean)])) < 2, "no other prompt of its length"
        )
        prompts = [
            replace(p, corrupt=others.choice([c for c in by_length[len(p.clean)] if c != p.clean]))
            for p in self.prompts
        ]
        name, origin = f"{self.name}, random corrupt", then(self.origin, "random corrupt", seed)
        return replace(self, name=name, prompts=tuple(prompts), origin=origin)

    def require_plain(self, who: str) -> None:
        """Refuse prompts that ask for more than one token, for `who` can only look at one.

        Raises:
            ValueError: naming the rows, and what would be right.
        """
        what = f"answers of several tokens or positions ({who} reads one token behind the prompt"
        hint = "; give such answers, or first_token=True where texts are read)"
        refuse_rows(self, lambda p: not p.is_plain, what + hint)

    def require_whole(self, who: str) -> None:
        """Refuse spans that are kept apart, for `who` cannot.

        Raises:
            ValueError: saying so.
        """
        if self.apart:
            raise ValueError(
                f"{who} keeps no spans apart: give the task as it was before by_span()"
            )

    def require_contrast(self) -> None:
        """Refuse pairs whose corrupt prompt is the clean one: nothing could be measured on them.

        Raises:
            ValueError: naming the rows; of a text, what would be right.
        """
        what = "a corrupt prompt equal to the clean one"
        hint = " (a text has none: take zero, mean or optimal ablation)" if self.is_text else ""
        refuse_rows(self, lambda p: p.clean == p.corrupt, what + hint)

    @cached_property
    def is_text(self) -> bool:
        """Whether no prompt needs a corrupt one, and none has any."""
        return all(p.is_text for p in self.prompts)

    @cached_property
    def is_plain(self) -> bool:
        """Whether each prompt asks for one token, behind its last."""
        return all(p.is_plain for p in self.prompts)

    @property
    def without_answers(self) -> "Task":
        """The prompts as rows of their own, whatever is asked: for what only reads them."""
        if self.is_plain:
            return self
        nothing = {"answers": (0,), "wrong_answers": (), "answer_positions": ()}
        rows = (replace(p, **nothing) for p in self.prompts)
        return replace(self, prompts=tuple(rows))

    @property
    def aligned(self) -> "Task":
        """As it is, or padded on the right where a prompt may have several rows.

        So that they begin at one column; which changes no number.
        """
        return self if self.is_plain else replace(self, padding="right")

    @cached_property
    def max_length(self) -> int:
        """The longest row that is run, in tokens: a prompt with all but the last of an answer's."""
        return max(p.n_tokens for p in self.prompts)

    @cached_property
    def max_id(self) -> int:
        """The largest token id in any prompt or answer."""
        return max(max(p.ids) for p in self.prompts)

    @cached_property
    def hash(self) -> str:
        """A short hash of all token ids: equal for equal prompts in equal order."""
        rows = [
            (p.clean, p.corrupt, p.answers, p.wrong_answers, *filter(None, [p.answer_positions]))
            for p in self.prompts
        ]
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
        batch = to_batch(prompts, self.padding, device, plain=self.is_plain, two_way=self.two_way)
        return with_spans(batch, prompts, self.apart) if self.apart else batch

    def _rows(self, rows: Sequence[int], *step: object) -> "Task":
        """The prompts of some rows; `step` is what to call this in the origin."""
        return replace(self.some(rows), origin=then(self.origin, str(step[0]), *step[1:]))


def refuse_rows(task: Task, is_bad: Callable[[Prompt], bool], what: str) -> None:
    """Refuse a task some of whose rows are bad.

    Raises:
        ValueError: naming the rows, and `what` they have.
    """
    rows = [i for i, prompt in enumerate(task.prompts) if is_bad(prompt)]
    if rows:
        shown = ", ".join(map(str, rows[:10])) + (", ..." if len(rows) > 10 else "")
        told = told_of(what, task.prompts[rows[0]])
        seen = f" (row {rows[0]}: {told} tokens)" if told else ""
        raise ValueError(f"task {task.name!r} has {what} in row {shown}{seen}")
