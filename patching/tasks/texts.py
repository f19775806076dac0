"""A plain text as a task: what comes next, at every token. Knows no model."""

from pathlib import Path

from patching.files.whole import read_text
from patching.tasks.task import Prompt, Task
from patching.tasks.tokens import Tokenizer, encode_prompt

LENGTH = 64
"""Tokens to a piece, unless told otherwise."""


def from_text(
    path: str | Path, tokenizer: Tokenizer, *, length: int = LENGTH, n: int | None = None
) -> Task:
    """A text in pieces of `length` tokens (the last of what is left), asked at every token but one.

    With `logprob_per_token` what is measured is minus the loss, in nats per token. There are no
    corrupt prompts: take `zero`, `mean` or `optimal` ablation. Each piece begins with one BOS where
    the tokenizer uses one.

    Args:
        path: of the text.
        tokenizer: cuts it.
        length: tokens to a piece, a BOS counted.
        n: how many pieces, from the first on; None: all.

    Raises:
        ValueError: if a piece would ask nothing, the text is empty or too short, or it holds what
            is no text.
    """
    if length < 2:
        raise ValueError(f"a piece of a text has at least 2 tokens, got length={length}")
    ids = encode_prompt(tokenizer, read_text(Path(path)))
    start = encode_prompt(tokenizer, "")
    body, step = ids[len(start) :], length - len(start)
    pieces = [(*start, *body[i : i + step]) for i in range(0, len(body), max(step, 1))]
    prompts = [_asked_everywhere(piece) for piece in pieces if len(piece) > 1][:n]
    if not prompts:
        raise ValueError(f"{path} holds {len(body)} tokens of text; at least 2 are needed")
    origin = {"file": str(path), "length": length, "n": n}
    return Task(Path(path).stem, tuple(prompts), origin=origin)


def _asked_everywhere(piece: tuple[int, ...]) -> Prompt:
    at = tuple(range(len(piece) - 1))
    return Prompt(piece, piece, answers=piece[1:], answer_positions=at)
