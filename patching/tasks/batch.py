"""Some prompts of a task as tensors, padded to one length. Knows no model and no tokenizer."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from patching.files.brief import briefly
from patching.tasks.asked import Asking, Options, Several, ask, indices
from patching.tasks.prompt import Answer, Prompt
from patching.tasks.spans import labels

PaddingSide = Literal["right", "left"]


@briefly
@dataclass(frozen=True)
class Batch:
    """Some prompts of a task as tensors, padded to one length.

    A row is one prompt, unless answers have several tokens (`several`): then it is a prompt with
    the beginning of an answer, of which an example may need more than one. `is_token` marks real
    tokens (the two runs of a pair have equal lengths, so one mask serves both). `answer_pos` is the
    last position of a row that is asked: the last real token, where the answer is predicted.
    `answers` and `wrong_answers` are padded; their masks say which entries count; where `several`
    holds what is asked, they are empty. `clean_logits` are filled in by whoever has run the clean
    prompts, for metrics that compare with that run. `two_way` is the task's. Known without asking
    the device, of the rows that the batch was made of: whether one starts with padding (only then
    does a model need a mask), which is the first without wrong answers. `span` is the number of
    each token's span among those that the task keeps `apart`, if it does.
    """

    clean: Int[Tensor, "row pos"]
    corrupt: Int[Tensor, "row pos"]
    is_token: Bool[Tensor, "row pos"]
    answer_pos: Int[Tensor, " row"]
    answers: Int[Tensor, "batch n_answers"]
    is_answer: Bool[Tensor, "batch n_answers"]
    wrong_answers: Int[Tensor, "batch n_wrong"]
    is_wrong_answer: Bool[Tensor, "batch n_wrong"]
    clean_logits: Float[Tensor, "asked vocab"] | None = None
    two_way: bool = False
    left_padded: bool = False
    without_wrong: int | None = None
    several: Several | None = None
    span: Int[Tensor, "row pos"] | None = None
    apart: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.answers)

    @property
    def n_rows(self) -> int:
        """How many rows are run: as many as there are examples, unless answers need more."""
        return len(self.clean)

    def at(self, examples: Int[Tensor, " chosen"] | slice) -> "Batch":
        """The given examples in the given order, with repetition: for runs of many variants."""
        if isinstance(examples, slice):
            examples = torch.arange(len(self), device=self.clean.device)[examples]
        rows, asked = self.rows_of(examples), self._asked_of(examples)
        by_row = ("clean", "corrupt", "is_token", "answer_pos", "span")
        places = {**{name: rows for name in by_row}, "clean_logits": asked}
        parts = {part.name: getattr(self, part.name) for part in fields(self)}
        chosen = {
            name: part[places.get(name, examples)]
            for name, part in parts.items()
            if isinstance(part, Tensor)
        }
        several = None if self.several is None else self.several.at(examples)
        return replace(self, **chosen, several=several)

    __getitem__ = at

    def rows_of(self, examples: Int[Tensor, " chosen"]) -> Int[Tensor, " row"]:
        """The rows of some examples, one example after another."""
        return examples if self.several is None else indices(self.several.rows, examples)

    def _asked_of(self, examples: Int[Tensor, " chosen"]) -> Int[Tensor, " asked"]:
        return examples if self.several is None else indices(self.several.asked, examples)

    def by_row(self, values: Tensor) -> Tensor:
        """Values of examples as values of their rows."""
        return values if self.several is None else values[self.several.example]

    def by_example(self, values: Tensor) -> Tensor:
        """Values of rows, added up over those of each example."""
        return values if self.several is None else _totals(values, self.several.example, len(self))

    def over_asked(self, values: Float[Tensor, " asked"]) -> Float[Tensor, " batch"]:
        """Values at asked positions, as the mean over those of each example."""
        if self.several is None:
            return values
        return _totals(values, self.several.example_asked, len(self)) / self.several.asked

    @cached_property
    def asked(self) -> tuple[Int[Tensor, " asked"], Int[Tensor, " asked"]]:
        """Row and position of everything asked: what is unembedded."""
        if self.several is not None:
            return self.several.asked_row, self.several.asked_pos
        return torch.arange(self.n_rows, device=self.clean.device), self.answer_pos

    def asked_in(self, copies: int) -> tuple[Int[Tensor, " every"], Int[Tensor, " every"]]:
        """`asked`, where the batch stands several times over, one after another."""
        rows, positions = self.asked
        first = self.n_rows * torch.arange(copies, device=rows.device)
        return (first[:, None] + rows).flatten(), positions.repeat(copies)

    @cached_property
    def is_asked(self) -> Bool[Tensor, "row pos"]:
        """Where something is asked."""
        out = torch.zeros_like(self.is_token)
        out[self.asked] = True
        return out

    @cached_property
    def up_to_answer(self) -> Bool[Tensor, "row pos"]:
        """Real tokens up to the answer position."""
        places = torch.arange(self.clean.shape[1], device=self.clean.device)
        return self.is_token & (places <= self.answer_pos[:, None])

    @property
    def places(self) -> Int[Tensor, "row pos"]:
        """Each token's number in its own row, counted from the first real one."""
        return (self.is_token.long().cumsum(dim=1) - 1).clamp(min=0)

    @cached_property
    def distinct(self) -> Bool[Tensor, "row pos"]:
        """Real tokens, of those that rows of one example have in common only the first row's."""
        if self.several is None:
            return self.is_token
        return self.is_token & (self.places >= self.several.repeated[:, None])

    @cached_property
    def can_differ(self) -> Bool[Tensor, "row pos"]:
        """Tokens from the first difference between the two runs up to the answer position.

        Before, both runs of a causal model are equal; after, nothing reaches the answer. A model
        that reads both ways may differ anywhere.
        """
        if self.two_way:
            return self.is_token
        differs = (self.clean != self.corrupt).int().cummax(dim=1).values.bool()
        return differs & self.up_to_answer

    @property
    def right(self) -> Options:
        """The answers as tokens and where they are looked up, whether they have one or several."""
        return self._options(self.answers, self.is_answer, "right")

    @property
    def wrong(self) -> Options:
        """The wrong answers likewise."""
        return self._options(self.wrong_answers, self.is_wrong_answer, "wrong")

    def _options(self, ids: Tensor, counts: Tensor, side: str) -> Options:
        if self.several is not None:
            return self.several.right if side == "right" else self.several.wrong
        return Options(ids[..., None], torch.zeros_like(ids)[..., None], counts[..., None])


def to_batch(
    prompts: Sequence[Prompt],
    padding: PaddingSide,
    device: torch.device | str,
    *,
    plain: bool,
    two_way: bool = False,
) -> Batch:
    """Prompts as a batch; `plain` if all of the task's ask for one token behind them."""
    askings = [] if plain else [ask(prompt) for prompt in prompts]
    rows = _rows(prompts, askings, "clean")
    clean, is_token = _pad(rows, padding, device)
    corrupt, _ = _pad(_rows(prompts, askings, "corrupt"), padding, device)
    kept = [((p.answers, p.wrong_answers) if plain else ((), ())) for p in prompts]
    answers, is_answer = _pad([right for right, _ in kept], "right", device)
    wrong, is_wrong = _pad([wrong for _, wrong in kept], "right", device)
    answer_pos = (torch.arange(clean.shape[1], device=device) * is_token).amax(dim=1)
    several = None
    if not plain:
        starts = [(clean.shape[1] - len(row)) * (padding == "left") for row in rows]
        several = Several.of(prompts, askings, starts, device)
        answer_pos = torch.zeros_like(answer_pos).scatter_reduce(
            0, several.asked_row, several.asked_pos, "amax"
        )
    return Batch(
        clean,
        corrupt,
        is_token,
        answer_pos,
        answers,
        is_answer,
        wrong,
        is_wrong,
        two_way=two_way,
        left_padded=padding == "left" and len(set(map(len, rows))) > 1,
        without_wrong=next((i for i, p in enumerate(prompts) if not p.wrong_answers), None),
        several=several,
    )


def with_spans(batch: Batch, prompts: Sequence[Prompt], names: Sequence[str]) -> Batch:
    """The batch of these prompts with each token's span; tokens of answers are `rest`."""
    span = torch.zeros_like(batch.clean)
    first = batch.is_token.int().argmax(dim=1).tolist()
    owners = range(len(prompts)) if batch.several is None else batch.several.example.tolist()
    for row, (i, start) in enumerate(zip(owners, first, strict=True)):
        n = len(prompts[i].clean)
        found = labels(prompts[i].spans, names, n)
        span[row, start : start + n] = torch.tensor(found, device=span.device)
    return replace(batch, span=span, apart=tuple(names))


def _rows(prompts: Sequence[Prompt], askings: Sequence[Asking], side: str) -> list[tuple[int, ...]]:
    """The tokens of each row: of a prompt's side, and of an answer as far as it is given."""
    if not askings:
        return [getattr(prompt, side) for prompt in prompts]
    pairs = zip(prompts, askings, strict=True)
    return [getattr(prompt, side) + row for prompt, asking in pairs for row in asking.rows]


def _totals(values: Tensor, owner: Int[Tensor, " n"], n: int) -> Tensor:
    return values.new_zeros(n, *values.shape[1:]).index_add(0, owner, values)


def _pad(
    rows: Sequence[Sequence[Answer]], side: PaddingSide, device: torch.device | str
) -> tuple[Int[Tensor, "batch length"], Bool[Tensor, "batch length"]]:
    length = max(map(len, rows))
    ids = torch.zeros(len(rows), length, dtype=torch.long)
    is_real = torch.zeros(len(rows), length, dtype=torch.bool)
    for i, row in enumerate(rows):
        where = slice(length - len(row), length) if side == "left" else slice(0, len(row))
        ids[i, where] = torch.tensor(row, dtype=torch.long)
        is_real[i, where] = True
    return ids.to(device), is_real.to(device)
