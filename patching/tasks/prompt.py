"""One pair of prompts with right and wrong answers, as token ids, and what no pair may be."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from statistics import median

from patching.files.brief import briefly
from patching.tasks.spans import Span, is_misnamed, overlapping

Answer = int | tuple[int, ...]
"""An answer as token ids: one, or several in a row (one in a tuple is one)."""


@briefly
@dataclass(frozen=True)
class Prompt:
    """One pair: `clean` shows the behaviour, `corrupt` differs in what the behaviour hangs on.

    `answers` and `wrong_answers` follow the prompt, each of one token or of several; the tokens of
    an answer are given to the model one after another, in both runs alike (teacher forcing). With
    `answer_positions` they are asked inside the prompt instead: one answer at each position, of one
    token, and one wrong answer or none at all. `extra` keeps whatever else a file said of the pair.
    `spans` name ranges of its tokens, on both sides alike; all other tokens are `rest`.

    >>> Prompt(clean=(1, 5), corrupt=(1, 6), answers=((7, 8), (9,))).answers
    ((7, 8), 9)
    """

    clean: tuple[int, ...]
    corrupt: tuple[int, ...]
    answers: tuple[Answer, ...]
    wrong_answers: tuple[Answer, ...] = ()
    extra: Mapping[str, object] = field(default_factory=dict, compare=False)
    answer_positions: tuple[int, ...] = ()
    spans: tuple[Span, ...] = ()

    def __post_init__(self) -> None:
        for name in ("answers", "wrong_answers"):
            found = getattr(self, name)
            if any(isinstance(answer, tuple) for answer in found):
                object.__setattr__(self, name, tuple(map(_shortest, found)))

    @property
    def is_long(self) -> bool:
        """Whether an answer has several tokens."""
        return any(isinstance(answer, tuple) for answer in (*self.answers, *self.wrong_answers))

    @property
    def is_plain(self) -> bool:
        """Whether one token is asked for, behind the last of the prompt."""
        return not self.answer_positions and not self.is_long

    @property
    def is_text(self) -> bool:
        """Whether it needs no corrupt prompt: asked inside, with nothing to compare with."""
        return bool(self.answer_positions) and not self.wrong_answers and self.clean == self.corrupt

    @property
    def n_tokens(self) -> int:
        """Tokens of the longest row that is run: of the prompt, and of an answer all but the last.

        What follows an answer is not asked.
        """
        answers = (*self.answers, *self.wrong_answers)
        longest = max((len(tokens_of(answer)) for answer in answers), default=1)
        return len(self.clean) + max(longest, 1) - 1

    @property
    def ids(self) -> Iterator[int]:
        """All token ids, in order."""
        answers = chain.from_iterable(map(tokens_of, (*self.answers, *self.wrong_answers)))
        return chain(self.clean, self.corrupt, answers)


def tokens_of(answer: Answer) -> tuple[int, ...]:
    """An answer's tokens, whether it is one or several.

    >>> tokens_of(3), tokens_of((3, 4))
    ((3,), (3, 4))
    """
    return answer if isinstance(answer, tuple) else (answer,)


def _shortest(answer: Answer) -> Answer:
    return answer[0] if isinstance(answer, tuple) and len(answer) == 1 else answer


def unequal(prompt: Prompt) -> bool:
    """Whether the two sides differ in length."""
    return len(prompt.clean) != len(prompt.corrupt)


def _contradicts(prompt: Prompt) -> bool:
    if prompt.answer_positions:
        pairs = zip(prompt.answers, prompt.wrong_answers, strict=False)
        return any(right == wrong for right, wrong in pairs)
    return bool(set(prompt.answers) & set(prompt.wrong_answers))


def _misplaced(prompt: Prompt) -> bool:
    at = prompt.answer_positions
    there = range(len(prompt.clean))
    return any(position not in there for position in at) or sorted({*at}) != [*at]


def _uncounted(prompt: Prompt) -> bool:
    n = len(prompt.answer_positions)
    counts = len(prompt.answers), len(prompt.wrong_answers)
    return n > 0 and (counts[0] != n or counts[1] not in (0, n))


def spans_outside(prompt: Prompt) -> list[Span]:
    """Spans that are not, or not wholly, in their prompt."""
    n = len(prompt.clean)
    return [span for span in prompt.spans if not 0 <= span.start < span.stop <= n]


SPAN_FAULTS: dict[str, Callable[[Prompt], list[Span]]] = {
    "a span outside its prompt": spans_outside,
    "overlapping spans": lambda p: overlapping(p.spans),
    "a span with a name that spans cannot have": lambda p: [*filter(is_misnamed, p.spans)],
}
"""What no spans may be, in words, and those that are."""


def _any(find: Callable[[Prompt], list[Span]], prompt: Prompt) -> bool:
    return bool(find(prompt))


FAULTS: dict[str, Callable[[Prompt], bool]] = {
    "clean and corrupt prompts of unequal token length": unequal,
    "an empty prompt": lambda p: not p.clean,
    "negative token ids": lambda p: min(p.ids) < 0,
    "no answers": lambda p: not p.answers,
    "an empty answer": lambda p: () in (*p.answers, *p.wrong_answers),
    "answer positions that are not in the prompt, or not in order": _misplaced,
    "answer positions with more or fewer answers (one token at each)": _uncounted,
    "answers of several tokens inside the prompt": lambda p: bool(p.answer_positions) and p.is_long,
    "an answer that is also a wrong answer": _contradicts,
    **{what: partial(_any, find) for what, find in SPAN_FAULTS.items()},
}
"""What no row of a task may have, in words and as a test; a row is asked in this order."""


def told_of(what: str, prompt: Prompt) -> str:
    """What is to be seen of a fault in a prompt, if anything: in numbers of tokens."""
    if FAULTS.get(what) is unequal:
        return f"{len(prompt.clean)} and {len(prompt.corrupt)}"
    if what in SPAN_FAULTS:
        return f"{SPAN_FAULTS[what](prompt)[0]} of {len(prompt.clean)}"
    return ""


def names_in_order(prompts: Sequence[Prompt]) -> list[str]:
    """The names of all spans, in the order in which they mostly stand in prompts."""
    starts: dict[str, list[float]] = {}
    for prompt in prompts:
        for span in prompt.spans:
            starts.setdefault(span.name, []).append(span.start / len(prompt.clean))
    return sorted(starts, key=lambda name: (median(starts[name]), name))
