"""Where prompts of a batch are asked when that is at several positions, and for which tokens.

An answer of several tokens is predicted token by token behind its prompt and its own first tokens
(teacher forcing), so that a prompt is run once for each answer that does not begin as another one
does: a *row*. Contexts that rows share are asked in the first of them alone. Knows no model.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from os.path import commonprefix

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from patching.tasks.prompt import Answer, Prompt, tokens_of

Tokens = tuple[int, ...]
Term = tuple[int, int]
"""Which of a prompt's asked positions, and the token that is right (or wrong) there."""


@dataclass(frozen=True)
class Asking:
    """How one prompt is run and asked: what its rows go on with, and where answers are looked up.

    `asked` are row and position, `right` and `wrong` the terms of each answer.
    """

    rows: tuple[Tokens, ...]
    asked: tuple[tuple[int, int], ...]
    right: tuple[tuple[Term, ...], ...]
    wrong: tuple[tuple[Term, ...], ...]


def ask(prompt: Prompt) -> Asking:
    """The fewest rows and positions at which all answers of a prompt can be looked up.

    >>> found = ask(Prompt((1, 2), (1, 3), answers=((5, 6),), wrong_answers=(7, (5, 8))))
    >>> found.rows, found.asked
    (((5,),), ((0, 1), (0, 2)))
    >>> found.right, found.wrong
    ((((0, 5), (1, 6)),), (((0, 7),), ((0, 5), (1, 8))))
    """
    if prompt.answer_positions:
        right, wrong = (
            (tuple(enumerate(map(int, answers))),) if answers else ()  # pyright: ignore[reportArgumentType]
            for answers in (prompt.answers, prompt.wrong_answers)
        )
        return Asking(((),), tuple((0, at) for at in prompt.answer_positions), right, wrong)
    contexts = _contexts((*prompt.answers, *prompt.wrong_answers))
    rows = _longest(contexts)
    asked = [_first_with(rows, context) for context in contexts]
    last = len(prompt.clean) - 1
    return Asking(
        rows,
        tuple((row, last + len(context)) for row, context in zip(asked, contexts, strict=True)),
        _terms(prompt.answers, contexts),
        _terms(prompt.wrong_answers, contexts),
    )


def _contexts(answers: Sequence[Answer]) -> tuple[Tokens, ...]:
    """What stands before each token of each answer, the shortest first."""
    found = {
        tokens[:n]: None for tokens in map(tokens_of, answers) for n in range(max(1, len(tokens)))
    }
    return tuple(sorted(found, key=len))


def _longest(contexts: Sequence[Tokens]) -> tuple[Tokens, ...]:
    """Those that are not the beginning of another one."""
    begun = {context[:-1] for context in contexts if context}
    return tuple(context for context in contexts if context not in begun)


def _first_with(rows: Sequence[Tokens], context: Tokens) -> int:
    return next(i for i, row in enumerate(rows) if row[: len(context)] == context)


def _terms(answers: Sequence[Answer], contexts: Sequence[Tokens]) -> tuple[tuple[Term, ...], ...]:
    number = {context: i for i, context in enumerate(contexts)}
    return tuple(
        tuple((number[tokens[:n]], token) for n, token in enumerate(tokens))
        for tokens in map(tokens_of, answers)
    )


@dataclass(frozen=True)
class Options:
    """Some answers of each example, padded: a token, and the asked position it is looked up at.

    `at` counts an example's own asked positions.
    """

    ids: Int[Tensor, "example option token"]
    at: Int[Tensor, "example option token"]
    is_token: Bool[Tensor, "example option token"]

    @staticmethod
    def of(examples: Sequence[Sequence[Sequence[Term]]], device: torch.device | str) -> "Options":
        """The terms of every example's answers."""
        n_options = max(map(len, examples))
        n_tokens = max((len(option) for some in examples for option in some), default=0)
        ids = torch.zeros(len(examples), n_options, n_tokens, dtype=torch.long)
        at, is_token = torch.zeros_like(ids), torch.zeros_like(ids, dtype=torch.bool)
        for i, some in enumerate(examples):
            for j, option in enumerate(some):
                n = len(option)
                at[i, j, :n], ids[i, j, :n] = torch.tensor(option).T
                is_token[i, j, :n] = True
        return Options(ids.to(device), at.to(device), is_token.to(device))

    @property
    def is_option(self) -> Bool[Tensor, "example option"]:
        """Which entries count."""
        return self.is_token.any(dim=2)

    def chosen(self, examples: Int[Tensor, " chosen"]) -> "Options":
        """Those of some examples."""
        return Options(self.ids[examples], self.at[examples], self.is_token[examples])


@dataclass(frozen=True)
class Several:
    """Rows and asked positions of a batch, example by example, and answers looked up there.

    `rows` and `asked` say how many an example has. `repeated` is with how many tokens an earlier
    row of the same example began as well. `inside` are examples with answer positions;
    `long` is the first with an answer of several tokens, known without asking the device.
    """

    rows: Int[Tensor, " example"]
    asked: Int[Tensor, " example"]
    asked_row: Int[Tensor, " asked"]
    asked_pos: Int[Tensor, " asked"]
    repeated: Int[Tensor, " row"]
    right: Options
    wrong: Options
    inside: Bool[Tensor, " example"]
    long: int | None

    @staticmethod
    def of(
        prompts: Sequence[Prompt],
        askings: Sequence[Asking],
        starts: Sequence[int],
        device: torch.device | str,
    ) -> "Several":
        """Of some prompts; `starts` are the padding before each row."""
        row, asked = 0, []
        for asking in askings:
            asked += [(row + r, starts[row + r] + at) for r, at in asking.asked]
            row += len(asking.rows)
        counts = torch.tensor([(len(a.rows), len(a.asked)) for a in askings], device=device)
        at = torch.tensor(asked, device=device)
        return Several(
            rows=counts[:, 0],
            asked=counts[:, 1],
            asked_row=at[:, 0],
            asked_pos=at[:, 1],
            repeated=torch.tensor(
                [
                    n
                    for prompt, asking in zip(prompts, askings, strict=True)
                    for n in _repeated(prompt, asking.rows)
                ],
                device=device,
            ),
            right=Options.of([asking.right for asking in askings], device),
            wrong=Options.of([asking.wrong for asking in askings], device),
            inside=torch.tensor([bool(p.answer_positions) for p in prompts], device=device),
            long=next((i for i, prompt in enumerate(prompts) if prompt.is_long), None),
        )

    @cached_property
    def example(self) -> Int[Tensor, " row"]:
        """Whose each row is."""
        return torch.arange(len(self.rows), device=self.rows.device).repeat_interleave(self.rows)

    @cached_property
    def example_asked(self) -> Int[Tensor, " asked"]:
        """Whose each asked position is."""
        return torch.arange(len(self.asked), device=self.rows.device).repeat_interleave(self.asked)

    def at(self, examples: Int[Tensor, " chosen"]) -> "Several":
        """Some examples in the given order, with repetition; `long` stays that of all."""
        rows, asked = self.rows[examples], self.asked[examples]
        moved = _starts(rows) - _starts(self.rows)[examples]
        chosen = indices(self.asked, examples)
        return Several(
            rows,
            asked,
            self.asked_row[chosen] + moved.repeat_interleave(asked),
            self.asked_pos[chosen],
            self.repeated[indices(self.rows, examples)],
            self.right.chosen(examples),
            self.wrong.chosen(examples),
            self.inside[examples],
            self.long,
        )

    def looked_up(
        self, values: Float[Tensor, "asked vocab"], options: Options
    ) -> Float[Tensor, "example option token"]:
        """What each token of each answer has of some values of the vocabulary."""
        return values[_starts(self.asked)[:, None, None] + options.at, options.ids]

    def best(
        self, logits: Float[Tensor, "asked vocab"], options: Options
    ) -> Int[Tensor, "example option token"]:
        """The likeliest token wherever one of an answer is looked up."""
        return logits.argmax(dim=-1)[_starts(self.asked)[:, None, None] + options.at]


def _repeated(prompt: Prompt, rows: Sequence[Tokens]) -> list[int]:
    """Of each row, how many tokens an earlier one begins with as well."""
    found = [0]
    for i, row in enumerate(rows[1:], start=1):
        shared = max(len(commonprefix((row, before))) for before in rows[:i])
        found.append(len(prompt.clean) + shared)
    return found


def indices(counts: Int[Tensor, " example"], chosen: Int[Tensor, " chosen"]) -> Int[Tensor, " _"]:
    """Of things that belong to examples, one after another, those of the chosen examples.

    >>> indices(torch.tensor([1, 3, 2]), torch.tensor([2, 0, 2])).tolist()
    [4, 5, 0, 4, 5]
    """
    n = counts[chosen]
    moved = _starts(counts)[chosen] - _starts(n)
    return torch.arange(int(n.sum()), device=n.device) + moved.repeat_interleave(n)


def _starts(counts: Int[Tensor, " n"]) -> Int[Tensor, " n"]:
    return counts.cumsum(0) - counts
