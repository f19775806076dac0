"""Token ids of another tokenizer: told by what they say after their prompts. Knows no files.

A file's ids are right for one tokenizer. Read with another they are other words, and a model scored
on them looks as if it could not do its task.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import cast

from patching.files.parsing import shown
from patching.tasks.prompt import Prompt, tokens_of
from patching.tasks.tokens import Tokenizer, encode_prompt

TOLERATED = 0.2
"""The share of rows that may look strange: of right ids hardly any do, of foreign ones half."""

Decode = Callable[[list[int]], str]


def refuse_foreign(tokenizer: Tokenizer | None, rows: Iterable[tuple[int, str, Prompt]]) -> None:
    """Refuse rows whose ids do not say what a text goes on with, or what their own text says.

    Each row is its number, the text of its clean prompt, and what it was read as. An answer is
    strange if prompt and answer, written together and tokenised, give other ids; so are answers of
    one row of which some begin a word and some continue one.

    Raises:
        ValueError: if more than `TOLERATED` of the rows, and more than one, are strange; with the
            first of them as text.
    """
    decode = cast("Decode | None", getattr(tokenizer, "decode", None))
    if tokenizer is None or decode is None:
        return
    found, n = [], 0
    for i, text, prompt in rows:
        n += 1
        why = _strange(tokenizer, decode, text, prompt)
        if why is not None:
            found.append((i, why))
    if len(found) > max(1, TOLERATED * n):
        i, why = found[0]
        raise ValueError(
            f"{len(found)} of {n} rows hold token ids that do not fit this tokenizer: row {i}: "
            f"{why}; were they made for another one? Give the answers as text, or the ids of this "
            "tokenizer"
        )


def _strange(tokenizer: Tokenizer, decode: Decode, text: str, prompt: Prompt) -> str | None:
    """What is strange about a row's ids, if anything is."""
    if prompt.answer_positions:
        return None
    before = encode_prompt(tokenizer, text)
    if before != prompt.clean:
        return f"the text {shown(text)} has other token ids than its clean prompt"
    ids = [tokens_of(answer) for answer in (*prompt.answers, *prompt.wrong_answers)]
    gaps = [_gaps(tokenizer, decode, text, before, answer) for answer in ids]
    if not ids or set.intersection(*gaps):
        return None
    odd = next((answer for answer, found in zip(ids, gaps, strict=True) if not found), ids[0])
    said, number = shown(decode(list(odd))), ", ".join(map(str, odd))
    return f"...{shown(text[-40:])} is answered by {said} (id {number})"


def _gaps(
    tokenizer: Tokenizer, decode: Decode, text: str, before: Sequence[int], answer: tuple[int, ...]
) -> set[bool]:
    """Whether an answer may begin a word after its prompt, or go on in it: either, both or none."""
    said = decode(list(answer))
    spoken = (said, f" {said}")  # SentencePiece drops the space that a token begins with
    wanted = (*before, *answer)
    return {way[:1].isspace() for way in spoken if encode_prompt(tokenizer, text + way) == wanted}
