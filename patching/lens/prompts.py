"""What a lens looks at: prompts as rows of token ids, and positions in them."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from patching.figures import token_labels
from patching.lens.text import token_texts
from patching.model import Model
from patching.tasks.task import Task
from patching.tasks.tokens import encode_prompt

Listed = str | Int[Tensor, "..."] | Sequence[str] | Sequence[int] | Sequence[Sequence[int]]
Source = Task | Listed
"""A text, several, token ids `[pos]` or `[batch pos]` (a tensor or lists), or a task's clean
prompts."""


@dataclass(frozen=True)
class Prompts:
    """Rows of token ids that a model can read, without padding. `task` is where they are from."""

    rows: tuple[tuple[int, ...], ...]
    name: str
    task: Task | None = None

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def hash(self) -> str:
        """A short hash of all token ids."""
        return hashlib.sha256(json.dumps(self.rows).encode()).hexdigest()[:16]

    def batches(self, size: int, device: torch.device) -> Iterator[Int[Tensor, "batch pos"]]:
        """The rows in order, `size` at a time, filled up on the right with token 0.

        A causal model sees nothing of what lies to the right, so no mask is needed.
        """
        for start in range(0, len(self), size):
            yield pad(self.rows[start : start + size]).to(device)

    def labels(self, model: Model, row: int = 0) -> tuple[str, ...]:
        """A row's tokens with their positions, as labels of an axis."""
        return token_labels(token_texts(model.tokenizer, self.rows[row]))


def pad(rows: Sequence[Sequence[int]]) -> Int[Tensor, "batch pos"]:
    """Rows of one length, filled up on the right with token 0."""
    longest = max(map(len, rows))
    return torch.tensor([[*row, *[0] * (longest - len(row))] for row in rows])


def read_prompts(model: Model, source: Source | Prompts) -> Prompts:
    """Prompts in any form as rows of ids, checked against the model; those that are so already.

    Raises:
        ValueError: if there is no prompt, one is empty, longer than the model reads or holds an
            id outside the vocabulary, or a text meets a model without tokenizer.
    """
    if isinstance(source, Prompts):
        return source
    if isinstance(source, Task):
        model.check(source)
        rows = tuple(prompt.clean for prompt in source.prompts)
        return Prompts(rows, f"task {source.name}", source)
    rows = tuple(_rows(model, source))
    if not rows:
        raise ValueError("got no prompts; give at least one")
    for i, row in enumerate(rows):
        _check(model, i, row)
    name = source if isinstance(source, str) else f"{len(rows)} prompts"
    return Prompts(rows, name)


def resolve_positions(
    prompts: Prompts, positions: int | Sequence[int] | None
) -> tuple[tuple[int, ...], Int[Tensor, "example place"]]:
    """Positions as asked for, and where each lies in every row.

    They count from a row's first token, or backwards from its last (-1). None: all positions
    where all rows are equally long.

    Raises:
        ValueError: if a position lies beyond a prompt, none is given, or the lengths are unequal.
    """
    lengths = [len(row) for row in prompts.rows]
    if positions is None:
        if len(set(lengths)) > 1:
            raise ValueError(
                f"these prompts have {min(lengths)} to {max(lengths)} tokens, so they share no "
                "positions; say which, counted from the end: positions=-1"
            )
        positions = range(lengths[0])
    asked = (positions,) if isinstance(positions, int) else tuple(positions)
    if not asked:
        raise ValueError("got no positions; give at least one, such as -1, the last")
    for position in asked:
        for row, length in enumerate(lengths):
            if not -length <= position < length:
                raise ValueError(
                    f"position {position} lies beyond prompt {row}, which has {length} tokens: "
                    f"0 to {length - 1}, or -{length} to -1 from its end"
                )
    return asked, torch.tensor([[p % length for p in asked] for length in lengths])


def _rows(model: Model, source: Listed) -> Iterator[tuple[int, ...]]:
    if isinstance(source, str):
        yield _encode(model, source)
        return
    listed = _from_tensor(source) if isinstance(source, Tensor) else source
    if len(listed) and isinstance(listed[0], int):
        yield tuple(_ids(listed))
        return
    for row in listed:
        yield _encode(model, row) if isinstance(row, str) else tuple(_ids(row))


def _from_tensor(tokens: Int[Tensor, "..."]) -> list[int] | list[list[int]]:
    if tokens.ndim not in (1, 2):
        raise ValueError(f"tokens are [pos] or [batch pos], got shape {list(tokens.shape)}")
    return tokens.tolist()


def _ids(row: object) -> Iterator[int]:
    if not isinstance(row, Sequence) or not all(isinstance(token, int) for token in row):
        raise ValueError(f"a prompt is a text or a list of token ids, got {row!r}")
    yield from row


def _encode(model: Model, text: str) -> tuple[int, ...]:
    if model.tokenizer is None:
        raise ValueError(
            f"{model.name} has no tokenizer to read the text {text[:40]!r} with; give token ids"
        )
    if not text:
        raise ValueError("the prompt is empty; give at least one word")
    return encode_prompt(model.tokenizer, text)


def _check(model: Model, i: int, row: tuple[int, ...]) -> None:
    vocab, longest = int(model.bridge.cfg.d_vocab), int(model.bridge.cfg.n_ctx)
    if not row:
        raise ValueError(f"prompt {i} is empty; give at least one token")
    if len(row) > longest:
        raise ValueError(f"prompt {i} has {len(row)} tokens; {model.name} reads at most {longest}")
    bad = next((token for token in row if not 0 <= token < vocab), None)
    if bad is not None:
        raise ValueError(
            f"prompt {i} holds token id {bad}; the ids of {model.name} are 0 to {vocab - 1}"
        )
