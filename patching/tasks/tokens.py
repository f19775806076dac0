"""Text to token ids: one BOS, answers as continuations of their prompt. Knows no model."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Int
from torch import Tensor

from patching.files.parsing import shown
from patching.tasks.prompt import Answer, Prompt
from patching.tasks.spans import Span, placed, unmark, with_end


@runtime_checkable
class Tokenizer(Protocol):
    """What this project needs of a tokenizer; every Hugging Face tokenizer offers it."""

    bos_token_id: int | None

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """Token ids of a text."""
        ...


@dataclass(frozen=True)
class TextPrompt:
    """A pair as text. Answers are written as they continue the prompt, space included.

    `spans` are characters of the clean text.
    """

    clean: str
    corrupt: str
    answers: tuple[str, ...]
    wrong_answers: tuple[str, ...] = ()
    spans: tuple[Span, ...] = ()

    @staticmethod
    def marked(
        clean: str, corrupt: str, answers: tuple[str, ...], wrong_answers: tuple[str, ...]
    ) -> "TextPrompt":
        """A pair whose clean text has marks.

        >>> TextPrompt.marked("Hi {name:Mary}", "Hi John", (" and",), ()).clean
        'Hi Mary'
        """
        text, spans = unmark(clean)
        return TextPrompt(text, corrupt, answers, wrong_answers, spans)


def encode_prompt(tokenizer: Tokenizer, text: str) -> tuple[int, ...]:
    """Token ids of a prompt, with exactly one BOS where the tokenizer uses one.

    A BOS that the text itself spells out (a chat template's, say) is not doubled; a closing
    token that the tokenizer would add is left away, since the prompt is to be continued.
    """
    plain = tokenizer.encode(text, add_special_tokens=False)
    bos = tokenizer.bos_token_id
    adds_bos = bos is not None and bos in tokenizer.encode("a", add_special_tokens=True)[:1]
    if adds_bos and plain[:1] != [bos]:
        plain = [bos, *plain]
    return tuple(plain)


def encode_answer(
    tokenizer: Tokenizer, prompt: str, answer: str, *, first_token: bool = False
) -> Answer:
    """The token, or the several, with which `answer` continues `prompt`.

    Prompt and answer are tokenised together: an answer alone is cut differently by tokenizers
    that mark the start of a text. Of several tokens all count, unless `first_token` is on.

    Raises:
        ValueError: if the answer is empty, or changes the prompt's own tokens.
    """
    before = encode_prompt(tokenizer, prompt)
    together = encode_prompt(tokenizer, prompt + answer)
    if together[: len(before)] != before:
        raise ValueError(
            f"the answer {shown(answer)} merges with the end of its prompt ...{prompt[-20:]!r} "
            "into other tokens; move the space between them from the prompt to the answer"
        )
    continuation = together[len(before) :]
    if not continuation:
        raise ValueError(f"the answer {answer!r} adds no token to its prompt ...{prompt[-20:]!r}")
    return continuation[0] if first_token or len(continuation) == 1 else continuation


def to_prompt(tokenizer: Tokenizer, text: TextPrompt, *, first_token: bool = False) -> Prompt:
    """A pair of texts as a pair of token ids; both answer sets continue the clean prompt.

    Of marked texts the last token is `end`; a mark that begins or ends inside a token is none.
    """
    answers, wrong = (
        tuple(encode_answer(tokenizer, text.clean, a, first_token=first_token) for a in some)
        for some in (text.answers, text.wrong_answers)
    )
    return pair_of(tokenizer, text, answers, wrong)


def pair_of(
    tokenizer: Tokenizer,
    text: TextPrompt,
    answers: Sequence[Answer],
    wrong_answers: Sequence[Answer],
) -> Prompt:
    """As `to_prompt`, with answers whose token ids are known."""
    clean = encode_prompt(tokenizer, text.clean)
    spans = token_spans(tokenizer, text.clean, clean, text.spans).values()
    return Prompt(
        clean=clean,
        corrupt=encode_prompt(tokenizer, text.corrupt),
        answers=tuple(answers),
        wrong_answers=tuple(wrong_answers),
        extra={"clean_text": text.clean, "corrupt_text": text.corrupt},
        spans=with_end([span for span in spans if span], len(clean)) if text.spans else (),
    )


def n_bos(ids: tuple[int, ...], bos: int | None) -> int:
    """How many of the first two tokens, from the first on, are the BOS."""
    return 0 if ids[:1] != (bos,) else 1 + (ids[1:2] == (bos,))


def token_spans(
    tokenizer: Tokenizer, text: str, ids: Sequence[int], marks: Sequence[Span]
) -> dict[Span, Span | None]:
    """The tokens of marked characters of a prompt; None where a mark cuts a token."""
    return placed(partial(tokenizer.encode, add_special_tokens=False), text, ids, marks)


def as_tokens(
    prompts: Int[Tensor, "batch pos"] | Sequence[int] | str,
    tokenizer: Tokenizer | None,
    reader: str,
    *,
    vocab: int,
) -> Int[Tensor, "batch pos"]:
    """Token ids, ids of one prompt, or one text, as rows of ids that the reader knows.

    Raises:
        ValueError: if there is no tokenizer for a text, or an id outside the vocabulary.
    """
    if isinstance(prompts, str):
        if tokenizer is None:
            raise ValueError(f"{reader} has no tokenizer: give token ids, not text")
        prompts = encode_prompt(tokenizer, prompts)
    tokens = prompts if isinstance(prompts, Tensor) else torch.tensor([list(prompts)]).long()
    if not tokens.numel() or int(tokens.min()) < 0 or int(tokens.max()) >= vocab:
        found = f" from {int(tokens.min())} to {int(tokens.max())}" if tokens.numel() else ""
        raise ValueError(
            f"prompts hold at least one token id, each from 0 to {vocab - 1} in {reader}; got "
            f"{list(tokens.shape)} ids{found}"
        )
    return tokens
