"""Conflicts: questions with and without a context that contradicts what a model has memorised.

Knows no model. Reading and writing files: `formats`.
"""

import hashlib
import json
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch

from patching.models import context_tasks, toy_tasks
from patching.tasks.prompt import tokens_of
from patching.tasks.task import Batch, PaddingSide, Prompt, Task
from patching.tasks.tokens import Tokenizer, encode_answer, encode_prompt


@dataclass(frozen=True)
class Conflict:
    """A question as token ids, alone and after a context, with the two answers in competition.

    `answer` is what the context says, `memorised` what the model would say by itself (it may be
    unknown: empty). Both may have several tokens; the first is the one that is scored. `extra`
    keeps the texts and whatever else a file said.
    """

    without_context: tuple[int, ...]
    with_context: tuple[int, ...]
    answer: tuple[int, ...]
    memorised: tuple[int, ...] = ()
    extra: Mapping[str, object] = field(default_factory=dict, compare=False)

    @property
    def ids(self) -> tuple[int, ...]:
        """Every token id in it."""
        return self.without_context + self.with_context + self.answer + self.memorised


@dataclass(frozen=True)
class ConflictTask:
    """A named, checked collection of conflicts.

    >>> conflict = Conflict((1, 5), (1, 7, 5), answer=(6,), memorised=(8,))
    >>> task = ConflictTask("capitals", (conflict, conflict))
    >>> found, held_out = task.split(0.5)
    >>> len(found), len(held_out)
    (1, 1)

    Raises:
        ValueError: if there are no conflicts, or one has an empty prompt, the same prompt with
            and without context, no answer, negative ids, or answers that start alike; the rows
            are named.
    """

    name: str
    conflicts: tuple[Conflict, ...]
    padding: PaddingSide = "right"
    extra: Mapping[str, object] = field(default_factory=dict, compare=False)

    def __post_init__(self) -> None:
        if not self.conflicts:
            raise ValueError(f"conflict task {self.name!r} is empty; at least one row is needed")
        self._refuse(lambda c: not c.without_context, "an empty question")
        self._refuse(lambda c: not c.with_context, "an empty prompt with context")
        self._refuse(lambda c: min(c.ids) < 0, "negative token ids")
        self._refuse(lambda c: not c.answer, "no answer")
        self._refuse(
            lambda c: c.without_context == c.with_context,
            "the same prompt with and without context (an empty context?)",
        )
        self._refuse(
            lambda c: c.answer[:1] == c.memorised[:1],
            "equal first tokens of the context's and the memorised answer (so nothing tells "
            "them apart)",
        )

    def __len__(self) -> int:
        return len(self.conflicts)

    def take(self, n: int) -> "ConflictTask":
        """The first `n` conflicts.

        Raises:
            ValueError: if that is none.
        """
        if n < 1:
            raise ValueError(f"take at least one conflict, got {n}")
        return replace(self, conflicts=self.conflicts[:n])

    def split(self, share: float = 0.5, seed: int = 0) -> tuple["ConflictTask", "ConflictTask"]:
        """Two disjoint tasks, the first with about `share` of the conflicts, at random by `seed`.

        Raises:
            ValueError: if one part would be empty.
        """
        n_first = round(share * len(self))
        if not 0 < n_first < len(self):
            raise ValueError(
                f"a split of {len(self)} conflicts at {share} leaves one part empty; "
                "give more conflicts or a share nearer 0.5"
            )
        rows = list(range(len(self)))
        random.Random(seed).shuffle(rows)
        return self._rows(sorted(rows[:n_first])), self._rows(sorted(rows[n_first:]))

    @cached_property
    def hash(self) -> str:
        """A short hash of all token ids: equal for equal conflicts in equal order."""
        rows = [(c.without_context, c.with_context, c.answer, c.memorised) for c in self.conflicts]
        return hashlib.sha256(json.dumps(rows).encode()).hexdigest()[:16]

    @cached_property
    def with_context(self) -> Task:
        """The prompts with context as a task: first tokens of the answers, right and wrong.

        Metrics such as `accuracy` and `prob_diff` work on it; nothing is corrupted in it.
        """
        return self._task("with context", lambda conflict: conflict.with_context)

    @cached_property
    def without_context(self) -> Task:
        """The questions alone as a task, with the same answers."""
        return self._task("without context", lambda conflict: conflict.without_context)

    def batches(
        self, size: int, device: torch.device | str = "cpu"
    ) -> Iterator[tuple[Batch, Batch]]:
        """The conflicts in order, `size` at a time: the prompts with and without context.

        Raises:
            ValueError: if a batch would be empty.
        """
        with_context = self.with_context.batches(size, device)
        yield from zip(with_context, self.without_context.batches(size, device), strict=True)

    def _task(self, which: str, prompt: Callable[[Conflict], tuple[int, ...]]) -> Task:
        prompts = tuple(
            Prompt(prompt(c), prompt(c), c.answer[:1], c.memorised[:1], c.extra)
            for c in self.conflicts
        )
        return Task(f"{self.name}, {which}", prompts, self.padding)

    def _rows(self, rows: Sequence[int]) -> "ConflictTask":
        return replace(self, conflicts=tuple(self.conflicts[i] for i in rows))

    def _refuse(self, is_bad: Callable[[Conflict], bool], what: str) -> None:
        rows = [i for i, conflict in enumerate(self.conflicts) if is_bad(conflict)]
        if rows:
            shown = ", ".join(map(str, rows[:10])) + (", ..." if len(rows) > 10 else "")
            raise ValueError(f"conflict task {self.name!r} has {what} in row {shown}")


def from_text(
    tokenizer: Tokenizer,
    question: str,
    context: str,
    answer: str,
    memorised: str = "",
    extra: Mapping[str, object] | None = None,
) -> Conflict:
    """A conflict from texts: the prompt with context is the context, a space and the question.

    No space is added where there is white space already. Answers are written as they continue the
    question, space included; all their tokens are kept.

    Raises:
        ValueError: if question, context or answer is empty, or an answer does not leave the
            tokens of the prompt as they are.
    """
    for what, text in (("question", question), ("context", context), ("answer", answer)):
        if not text.strip():
            raise ValueError(f"the {what} is empty; a conflict needs one")
    touching = context[-1].isspace() or question[0].isspace()
    together = context + ("" if touching else " ") + question
    return Conflict(
        without_context=encode_prompt(tokenizer, question),
        with_context=encode_prompt(tokenizer, together),
        answer=_continuation(tokenizer, together, answer),
        memorised=_continuation(tokenizer, together, memorised) if memorised.strip() else (),
        extra={
            **(extra or {}),
            "question": question,
            "context": context,
            "answer_text": answer,
            "memorised_text": memorised,
        },
    )


def toy_conflicts(tokenizer: Tokenizer, n: int, seed: int = 0) -> ConflictTask:
    """Capitals that a context gets wrong: the toy task `conflict`, question and context apart.

    >>> from patching import Model
    >>> task = toy_conflicts(Model.load("toy").tokenizer, n=2, seed=0)
    >>> print(task.conflicts[0].extra["question"])
    The capital of Chile is

    Raises:
        ValueError: if `n` is less than 1, or too few countries and capitals are single tokens.
    """
    return _apart(tokenizer, toy_tasks.conflict(tokenizer, n, seed), "capitals")


def indirect_conflicts(tokenizer: Tokenizer, n: int, seed: int = 0) -> ConflictTask:
    """Capitals that a context gets wrong without naming one: what `toy-context` is made for.

    >>> from patching import Model
    >>> task = indirect_conflicts(Model.load("toy-context").tokenizer, n=2, seed=0)
    >>> str(task.conflicts[0].extra["context"]).split(" is ")[1]
    'the third city of the West.'

    Raises:
        ValueError: if `n` is less than 1, or too few countries and capitals are single tokens.
    """
    drawn = context_tasks.indirect_conflict(tokenizer, n, seed)
    return _apart(tokenizer, drawn, "indirect capitals")


def _apart(tokenizer: Tokenizer, task: Task, name: str) -> ConflictTask:
    """Context and question, which a full stop ends and starts, as conflicts."""
    rows = []
    for prompt in task.prompts:
        context, question = str(prompt.extra["clean_text"]).split(". ")
        texts = {"context": f"{context}.", "question": question}
        alone = encode_prompt(tokenizer, question)
        both = prompt.answers, prompt.wrong_answers
        right, wrong = (tuple(t for answer in one for t in tokens_of(answer)) for one in both)
        rows.append(Conflict(alone, prompt.clean, right, wrong, texts))
    return ConflictTask(name, tuple(rows))


def _continuation(tokenizer: Tokenizer, prompt: str, answer: str) -> tuple[int, ...]:
    encode_answer(tokenizer, prompt, answer, first_token=True)
    before = len(encode_prompt(tokenizer, prompt))
    return encode_prompt(tokenizer, prompt + answer)[before:]
