"""Tasks for the programs of the library: clean prompts, and corruptions that make each edge matter.

They work with any tokenizer that has their letters, digits and words as single tokens.
"""

import itertools
import random
import string
from collections.abc import Mapping, Sequence

from patching.models.word_level import BOS
from patching.tasks import words
from patching.tasks.generators import Generator, draw
from patching.tasks.spans import mark
from patching.tasks.task import Task
from patching.tasks.tokens import TextPrompt, Tokenizer, to_prompt

LETTERS = tuple(string.ascii_lowercase[:24])
DIGITS = tuple(string.digits)
RELATIONS = ("less", "equal", "greater")
MARK, UNKNOWN = ":", "?"
REPEATED_LENGTH, MARKED_LENGTH, SUMMED_LENGTH = 9, 7, 6


def repeated_letter(tokenizer: Tokenizer, n: int, seed: int = 0) -> Task:
    """A list of nine letters, then one of them again; which letter followed it?

    Corrupt prompts replace in turn the letter's first mention (nothing matches: wrong is `<bos>`),
    the letter after it, and the repeated letter; together they make every active edge matter. Spans
    are `previous`, `next` and `end`, in that order.

    Raises:
        ValueError: if fewer than ten letters are single tokens, or `n` is less than 1.
    """
    letters = _single(tokenizer, LETTERS, REPEATED_LENGTH + 1, "letters", "repeated-letter")
    turn = itertools.cycle(range(3))

    def text(rng: random.Random) -> TextPrompt:
        return _repeated_letter(rng, letters, next(turn))

    return draw("repeated-letter", n, seed, lambda rng: to_prompt(tokenizer, text(rng)))


def marked_letter(tokenizer: Tokenizer, n: int, seed: int = 0) -> Task:
    """Seven letters and a mark among them (`b d : a c e`); which letter follows the mark?

    Corrupt prompts have in turn the mark elsewhere, and another letter after it. Spans are `mark`
    and `next`; `next` is `end` where it is the last.

    Raises:
        ValueError: if fewer than eight letters or not the mark are single tokens, or `n` is less
            than 1.
    """
    letters = _single(tokenizer, LETTERS, MARKED_LENGTH + 1, "letters", "marked-letter")
    _single(tokenizer, (MARK,), 1, "marks", "marked-letter")
    turn = itertools.cycle(range(2))

    def text(rng: random.Random) -> TextPrompt:
        return _marked_letter(rng, letters, next(turn))

    return draw("marked-letter", n, seed, lambda rng: to_prompt(tokenizer, text(rng)))


def digit_comparison(tokenizer: Tokenizer, n: int, seed: int = 0) -> Task:
    """Two digits; is the first less than the second, equal or greater?

    Corrupt prompts replace in turn the first and the second digit by one with another answer. As
    the greater-than task of Hanna et al. 2023, arXiv:2305.00586, with both numbers in the prompt.
    Spans are `first` and `end`.

    Raises:
        ValueError: if digits and answers are not all single tokens, or `n` is less than 1.
    """
    needed = (*DIGITS, *RELATIONS)
    _single(tokenizer, needed, len(needed), "digits and relations", "digit-comparison")
    turn = itertools.cycle(range(2))

    def text(rng: random.Random) -> TextPrompt:
        return _digit_comparison(rng, next(turn))

    return draw("digit-comparison", n, seed, lambda rng: to_prompt(tokenizer, text(rng)))


def digit_composition(tokenizer: Tokenizer, n: int, seed: int = 0) -> Task:
    """Six digits, then one as a question: find its successor in the list, add the digit before it.

    `4 7 1 9 0 3 6` -> `0`: the successor of 6 is 7, before it stands 4, and 4 + 6 ends in 0.
    Corrupt prompts replace in turn the question, the successor (nothing is found: wrong is `?`) and
    the digit before it. Spans are `before`, `successor` and `end`.

    Raises:
        ValueError: if digits and the question mark are not all single tokens, or `n` is less
            than 1.
    """
    needed = (*DIGITS, UNKNOWN)
    _single(tokenizer, needed, len(needed), "digits", "digit-composition")
    turn = itertools.cycle(range(3))

    def text(rng: random.Random) -> TextPrompt:
        return _digit_composition(rng, next(turn))

    return draw("digit-composition", n, seed, lambda rng: to_prompt(tokenizer, text(rng)))


TRUTH_GENERATORS: dict[str, Generator] = {
    "repeated-letter": repeated_letter,
    "marked-letter": marked_letter,
    "digit-comparison": digit_comparison,
    "digit-composition": digit_composition,
}


def relation(a: str, b: str) -> str:
    """Whether digit `a` is less than `b`, equal or greater."""
    return RELATIONS[(a >= b) + (a > b)]


def add(a: str, b: str, /) -> str:
    """The last digit of a sum."""
    return DIGITS[(int(a) + int(b)) % len(DIGITS)]


def _repeated_letter(rng: random.Random, letters: Sequence[str], corruption: int) -> TextPrompt:
    *listed, new = rng.sample(letters, REPEATED_LENGTH + 1)
    asked, other = rng.sample(range(REPEATED_LENGTH - 1), 2)
    clean = [*listed, listed[asked]]
    place, letter, wrong = (
        (asked, new, BOS),
        (asked + 1, new, new),
        (REPEATED_LENGTH, listed[other], listed[other + 1]),
    )[corruption]
    marks = {"previous": asked, "next": asked + 1}
    return _pair(clean, _with(clean, place, letter), listed[asked + 1], wrong, marks)


def _marked_letter(rng: random.Random, letters: Sequence[str], corruption: int) -> TextPrompt:
    *listed, new = rng.sample(letters, MARKED_LENGTH + 1)
    here, elsewhere = rng.sample(range(MARKED_LENGTH), 2)
    clean, moved = ([*listed[:i], MARK, *listed[i:]] for i in (here, elsewhere))
    corrupt, wrong = (
        (moved, listed[elsewhere]),
        (_with(clean, here + 1, new), new),
    )[corruption]
    return _pair(clean, corrupt, listed[here], wrong, {"mark": here, "next": here + 1})


def _digit_comparison(rng: random.Random, corruption: int) -> TextPrompt:
    clean = [rng.choice(DIGITS), rng.choice(DIGITS)]
    right = relation(*clean)
    others = [_with(clean, corruption, digit) for digit in DIGITS]
    corrupt = rng.choice([pair for pair in others if relation(*pair) != right])
    return _pair(clean, corrupt, right, relation(*corrupt), {"first": 0})


def _digit_composition(rng: random.Random, corruption: int) -> TextPrompt:
    shuffled = rng.sample(DIGITS, len(DIGITS))
    listed, unlisted = shuffled[:SUMMED_LENGTH], shuffled[SUMMED_LENGTH:]
    place, other = rng.sample(range(1, SUMMED_LENGTH), 2)
    asked, other_asked = (DIGITS[int(listed[i]) - 1] for i in (place, other))
    right = add(listed[place - 1], asked)
    new = rng.choice(unlisted)
    elsewhere = add(listed[other - 1], other_asked)
    if elsewhere == right:
        return _digit_composition(rng, corruption)
    where, digit, wrong = (
        (SUMMED_LENGTH, other_asked, elsewhere),
        (place, new, UNKNOWN),
        (place - 1, new, add(new, asked)),
    )[corruption]
    clean = [*listed, asked]
    marks = {"before": place - 1, "successor": place}
    return _pair(clean, _with(clean, where, digit), right, wrong, marks)


def _with(listed: Sequence[str], place: int, word: str) -> list[str]:
    return [*listed[:place], word, *listed[place + 1 :]]


def _pair(
    clean: Sequence[str], corrupt: Sequence[str], right: str, wrong: str, marks: Mapping[str, int]
) -> TextPrompt:
    """A pair whose clean words have names at some places."""
    shown = list(clean)
    for name, place in marks.items():
        shown[place] = mark(name, shown[place])
    return TextPrompt.marked(" ".join(shown), " ".join(corrupt), (f" {right}",), (f" {wrong}",))


def _single(
    tokenizer: Tokenizer, some: Sequence[str], need: int, kind: str, task: str
) -> tuple[str, ...]:
    what = f"single-token {kind} for the task {task!r}"
    return words.single_words(tokenizer, some, "a", need=need, what=what)
