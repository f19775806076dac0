"""Names for ranges of a prompt's tokens: what stands there, wherever that is. Knows no model.

A span is given by tokens, or by marks in the clean text: `{S1:Mary}`. Tokens of no span are `rest`.
Positions kept apart by name instead of by number: Haklay et al. 2025, arXiv:2502.04577.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from os.path import commonprefix

from patching.files.parsing import shown

REST = "rest"
"""The name of all tokens that are in no span."""

END = "end"
"""The name of a prompt's last token, where its answer is predicted, in generated tasks."""

MARKED = "marked"
"""What a row says of its `spans` when they are marked in its texts."""

_MARK = re.compile(r"\{([^\s{}:]+):([^{}]*)\}")
_NAME = re.compile(r"[\w.+\-']{1,40}")


@dataclass(frozen=True)
class Span:
    """Tokens `start` to `stop - 1` of a prompt, under a name; a name may have several ranges."""

    name: str
    start: int
    stop: int

    def __str__(self) -> str:
        return f"{self.name!r} at tokens {self.start} to {self.stop - 1}"


def is_misnamed(span: Span) -> bool:
    """Whether a name is `rest`, or has other than letters, digits and `. _ + - '`."""
    return span.name == REST or not _NAME.fullmatch(span.name)


def overlapping(spans: Sequence[Span]) -> list[Span]:
    """Spans that begin before another has ended."""
    ordered = sorted(spans, key=lambda span: (span.start, span.stop))
    return [later for earlier, later in pairwise(ordered) if later.start < earlier.stop]


def labels(spans: Sequence[Span], names: Sequence[str], n_tokens: int) -> list[int]:
    """The place of each token's span among `names`; 0, that of `rest`, for all others.

    >>> labels([Span("a", 1, 3)], ["rest", "a"], 4)
    [0, 1, 1, 0]
    """
    found = [0] * n_tokens
    for span in spans:
        if span.name in names:
            found[span.start : span.stop] = [names.index(span.name)] * (span.stop - span.start)
    return found


def read_spans(value: object) -> tuple[Span, ...]:
    """Spans as a file says them: names to one token, to `[start, stop]`, or to a list of these.

    A stop is the first token behind the span.

    >>> read_spans({"IO": [3, 5], "end": 9})
    (Span(name='IO', start=3, stop=5), Span(name='end', start=9, stop=10))

    Raises:
        ValueError: if they are of another form.
    """
    if value is None:
        return ()
    if not isinstance(value, dict):
        raise ValueError(
            f'spans are names and token ranges, {{"IO": [3, 4]}}, or "{MARKED}"; got {shown(value)}'
        )
    return tuple(
        Span(str(name), *bounds) for name, said in value.items() for bounds in _ranges(name, said)
    )


def spans_json(spans: Sequence[Span]) -> dict[str, list[list[int]]]:
    """What `read_spans` reads."""
    found: dict[str, list[list[int]]] = {}
    for span in spans:
        found.setdefault(span.name, []).append([span.start, span.stop])
    return found


def _ranges(name: object, said: object) -> Iterator[tuple[int, int]]:
    if type(said) is int:
        yield said, said + 1
    elif isinstance(said, list) and [type(part) for part in said] == [int, int]:
        yield said[0], said[1]
    elif isinstance(said, list) and said and all(isinstance(part, list) for part in said):
        for part in said:
            yield from _ranges(name, part)
    else:
        raise ValueError(
            f"the span {name!r} is {shown(said)}; a token, or [start, stop], or a list of such "
            "ranges would be right"
        )


def mark(name: str, text: str) -> str:
    """Text marked as a span, for `unmark` to take out again.

    >>> mark("IO", "Mary")
    '{IO:Mary}'
    """
    return f"{{{name}:{text}}}"


def unmark(text: str) -> tuple[str, tuple[Span, ...]]:
    """The text without marks, and the characters that were marked.

    >>> unmark("When {IO:Mary} and {S1:John}")
    ('When Mary and John', (Span(name='IO', start=5, stop=9), Span(name='S1', start=14, stop=18)))
    """
    plain, found, done = "", [], 0
    for match in _MARK.finditer(text):
        plain += text[done : match.start()]
        found.append(Span(match[1], len(plain), len(plain) + len(match[2])))
        plain += match[2]
        done = match.end()
    return plain + text[done:], tuple(found)


def placed(
    encode: Callable[[str], Sequence[int]], text: str, ids: Sequence[int], marks: Sequence[Span]
) -> dict[Span, Span | None]:
    """The tokens of marked characters; None where a mark begins or ends inside a token.

    A space before a word belongs to its token, marked or not. `encode` adds no special tokens;
    `ids` are those of the prompt, which may begin with some.
    """
    whole = list(encode(text))
    before = len(ids) - len(whole)
    found: dict[Span, Span | None] = {}
    for span in marks:
        upto, start = list(encode(text[: span.stop])), list(encode(text[: span.start]))
        first = len(commonprefix((start, whole)))
        left = text[: span.start].rstrip()
        ends_whole = upto == whole[: len(upto)] and len(upto) > first
        begins_whole = len(start) == first or list(encode(left)) == whole[:first]
        fits = ends_whole and begins_whole
        found[span] = Span(span.name, before + first, before + len(upto)) if fits else None
    return found


def with_end(spans: Sequence[Span], n_tokens: int) -> tuple[Span, ...]:
    """The spans with the last token taken out of them, as `end`."""
    last = n_tokens - 1
    cut = (Span(span.name, span.start, min(span.stop, last)) for span in spans)
    return (*(span for span in cut if span.start < span.stop), Span(END, last, n_tokens))
