"""Spans in rows of files: a field `spans`, with token ranges, or with marks in the row's texts."""

from collections.abc import Callable, Mapping
from dataclasses import replace

from patching.files.parsing import parse_json
from patching.tasks.prompt import Prompt
from patching.tasks.spans import MARKED, Span, read_spans, unmark
from patching.tasks.tokens import Tokenizer, token_spans

Row = Mapping[str, object]

FIELD = "spans"
_CLEAN = ("clean", "prompt", "clean_prefix")
"""What the clean text of a row is called, in one format or another."""


def with_spans(row: Row, tokenizer: Tokenizer | None, read: Callable[[Row], Prompt]) -> Prompt:
    """The prompt that `read` makes of a row, with the spans that the row says.

    `{"IO": [3, 4]}` are tokens of the prompt as the model reads it, BOS included, half open. With
    `"marked"`, texts have marks (`When {IO:Mary} and ...`), which are taken out before anything
    else; those of the clean text are the spans.

    Raises:
        ValueError: if the field is of another form, a mark cuts a token, and as `read`.
    """
    said = row.get(FIELD)
    if isinstance(said, str) and said != MARKED:  # a cell of a table
        said = parse_json(said) if said.strip() else None
    rest = {key: value for key, value in row.items() if key != FIELD}
    if said != MARKED:
        spans = read_spans(said)
        prompt = read(rest)
        return replace(prompt, spans=spans) if spans else prompt
    marked = next((value for key in _CLEAN if isinstance(value := row.get(key), str)), None)
    if marked is None or tokenizer is None:
        raise ValueError(f'spans are "{MARKED}", and there is no clean text with marks to read')
    prompt = read({key: _without_marks(value) for key, value in rest.items()})
    return replace(prompt, spans=_spans_of(marked, prompt, tokenizer))


def _spans_of(marked: str, prompt: Prompt, tokenizer: Tokenizer) -> tuple[Span, ...]:
    text, marks = unmark(marked)
    found = token_spans(tokenizer, text, prompt.clean, marks)
    cut = [span for span, tokens in found.items() if tokens is None]
    if cut:
        word = text[cut[0].start : cut[0].stop]
        raise ValueError(
            f"the mark {cut[0].name!r} around {word!r} is empty, or begins or ends inside a token; "
            "mark whole tokens"
        )
    return tuple(span for span in found.values() if span is not None)


def _without_marks(value: object) -> object:
    if isinstance(value, str):
        return unmark(value)[0]
    if isinstance(value, list):
        return [*map(_without_marks, value)]
    if isinstance(value, dict):
        return {key: _without_marks(part) for key, part in value.items()}
    return value
