"""Token ids as text, and text as single tokens."""

from collections.abc import Iterable
from typing import Protocol, runtime_checkable

from patching.tasks.prompt import tokens_of
from patching.tasks.task import Prompt, Task
from patching.tasks.tokens import Tokenizer

_TAIL, _ANSWERS = 24, 3


@runtime_checkable
class _Decoder(Protocol):
    """A tokenizer that can also write; every Hugging Face tokenizer can."""

    def decode(self, token_ids: list[int]) -> str: ...

    def convert_ids_to_tokens(self, ids: int) -> str | None: ...


def token_texts(tokenizer: Tokenizer | None, ids: Iterable[int]) -> tuple[str, ...]:
    """Each token's own text, its leading space included; its number where there is no text.

    A token that is only a part of a character is shown as its tokenizer spells it.

    >>> token_texts(None, [3, 5])
    ('3', '5')
    """
    if not isinstance(tokenizer, _Decoder):
        return tuple(map(str, ids))
    return tuple(_text(tokenizer, int(i)) for i in ids)


def prompt_texts(tokenizer: Tokenizer | None, task: Task, n: int = 3) -> tuple[str, ...]:
    """The first prompts of a task with their answers, as the model reads them: one line each.

    Of a long prompt the last tokens are shown, of many answers the first. Ids of another tokenizer
    are seen at once: the answer makes no sense.

    >>> from patching.tasks import Prompt
    >>> prompt_texts(None, Task("t", (Prompt((1, 5), (1, 6), (7,), (8, 9)),)))
    ("'1 5' -> '7', not '8', '9'",)
    """
    return tuple(_line(tokenizer, prompt) for prompt in task.prompts[:n])


def _line(tokenizer: Tokenizer | None, prompt: Prompt) -> str:
    shown = list(prompt.clean[-_TAIL:])
    known = isinstance(tokenizer, _Decoder)
    tail = tokenizer.decode(shown) if known else " ".join(map(str, shown))
    cut = "..." if len(prompt.clean) > _TAIL else ""
    right, wrong = (
        ", ".join(repr("".join(token_texts(tokenizer, tokens_of(a)))) for a in some[:_ANSWERS])
        + (f", ... ({len(some)} in all)" if len(some) > _ANSWERS else "")
        for some in (prompt.answers, prompt.wrong_answers)
    )
    return f"{cut}{tail!r} -> {right}" + (f", not {wrong}" if wrong else "")


def single_token(tokenizer: Tokenizer | None, token: int | str, vocab: int) -> int:
    """The id of a token given as id or as text.

    Raises:
        ValueError: if the id is outside the vocabulary, or the text is not exactly one token that
            the tokenizer knows.
    """
    if isinstance(token, int):
        if not 0 <= token < vocab:
            raise ValueError(f"there is no token {token}; ids are 0 to {vocab - 1}")
        return token
    if tokenizer is None:
        raise ValueError(f"there is no tokenizer to read the token {token!r} with; give its id")
    ids = tokenizer.encode(token, add_special_tokens=False)
    bare = tokenizer.encode(token.lstrip(" "), add_special_tokens=False)
    if len(ids) != 1 and token_texts(tokenizer, bare) == (token,):  # it adds the space itself
        return bare[0]
    if len(ids) != 1:
        cut = f": {', '.join(map(repr, token_texts(tokenizer, ids)))}" if ids else ""
        raise ValueError(
            f"the text {token!r} is {len(ids)} tokens{cut}; give the text of one token "
            "(mind the leading space), or its id"
        )
    unknown = getattr(tokenizer, "unk_token_id", None)
    if ids[0] == unknown and token_texts(tokenizer, ids) != (token,):
        raise ValueError(f"the tokenizer does not know {token!r}: it reads an unknown token")
    return ids[0]


def _text(tokenizer: _Decoder, token: int) -> str:
    piece = tokenizer.convert_ids_to_tokens(token)
    if piece is None:  # vocabularies are often padded beyond what the tokenizer knows
        return str(token)
    text = tokenizer.decode([token])
    if not text or "\ufffd" in text:
        return piece.replace("\u2581", " ")
    # SentencePiece writes a leading space as U+2581, and leaves it out at the start of a text
    return f" {text}" if piece.startswith("\u2581") and not text.startswith(" ") else text
