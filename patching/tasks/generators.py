"""Tasks made from templates, for any tokenizer that keeps their words whole.

Each family is a text function, which draws one pair from a random generator, and a task generator
`(tokenizer, n, seed) -> Task`, which keeps the words that are single tokens and encodes the pairs.
Only words that differ within a pair, or are answers, must be single tokens; the others are shared
by clean and corrupt prompt and may have any length.
"""

import random
from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol, runtime_checkable

import patching.tasks.words as words
from patching.tasks.task import Prompt, Task
from patching.tasks.tokens import TextPrompt, Tokenizer, encode_prompt, to_prompt

MAX_TRIES = 100

IOI_TEMPLATES = (
    "When {a} and {b} went to the {place}, {s} gave a {object} to",
    "While {a} and {b} were at the {place}, {s} handed a {object} to",
    "Then, {a} and {b} had fun at the {place}. {s} gave a {object} to",
    "After {a} and {b} found a {object} at the {place}, {s} decided to give it to",
)
GREATER_THAN_TEMPLATE = "The {event} lasted from the year {century}{start} to the year {century}"
AGREEMENT_TEMPLATE = "The {noun} {preposition} the {other}"
ALL_STARTS = tuple((c, start) for c in words.CENTURIES for start in words.TWO_DIGITS[2:99])


@runtime_checkable
class Generator(Protocol):
    """`(tokenizer, n, seed) -> Task` of `n` prompts; equal arguments give equal tasks."""

    def __call__(self, tokenizer: Tokenizer, n: int, seed: int = 0) -> Task:
        """Draw the task."""
        ...


def ioi(tokenizer: Tokenizer, n: int, seed: int = 0) -> Task:
    """Indirect object identification: who of two people receives the object?

    Both orders of the names (ABBA, BABA). In the corrupt prompt a third name stands for the
    subject's second mention (the ABC counterfactual), so that neither name is repeated.
    Wang et al. 2022, section 2, arXiv:2211.00593.

    Raises:
        ValueError: if fewer than three names are single tokens, or `n` is less than 1.
    """
    names = words.single_words(
        tokenizer, words.NAMES, "When", need=3, what="single-token names for the task 'ioi'"
    )
    return draw("ioi", n, seed, lambda rng: to_prompt(tokenizer, ioi_text(rng, names)))


def greater_than(tokenizer: Tokenizer, n: int, seed: int = 0) -> Task:
    """Greater-than: a war that starts in 1732 ends in a year 17.. above 32.

    Answers are all two-digit tokens above the start year, wrong answers all others; the corrupt
    prompt starts in ..01. Start years that the tokenizer does not cut into century and two digits
    are not used. Hanna et al. 2023, section 2, arXiv:2305.00586.

    Raises:
        ValueError: if no start year is cut into century and two digits, or `n` is less than 1.
    """
    ids = _year_ids(tokenizer)
    by_digits = {digits: token for (_, digits), token in ids.items()}
    starts = [
        (century, start)
        for century, start in ids
        if "02" <= start < max(by_digits) and (century, "01") in ids
    ]
    what = "start years of two tokens, century and two digits, for the task 'greater-than'"
    words.require_enough(len(starts), len(ALL_STARTS), need=1, what=what)
    return draw("greater-than", n, seed, partial(_years_prompt, tokenizer, starts, by_digits))


def subject_verb_agreement(tokenizer: Tokenizer, n: int, seed: int = 0) -> Task:
    """Agreement: the verb follows the number of its subject, not that of the noun between them.

    Answers are the verb forms of the subject's number, wrong answers the other forms; the corrupt
    prompt has the subject in the other number. Linzen et al. 2016, arXiv:1611.01368; corrupt
    prompts as in Finlayson et al. 2021, arXiv:2106.06087.

    Raises:
        ValueError: if no noun, or no verb, has both its forms as single tokens, or `n` is less
            than 1.
    """
    what = "single-token {} for the task 'subject-verb-agreement'"
    nouns = words.single_pairs(
        tokenizer, words.NOUNS, ("The", "The"), need=1, what=what.format("noun pairs")
    )
    verbs = words.single_pairs(
        tokenizer,
        words.VERBS,
        ("The key near the dog", "The keys near the dog"),
        need=1,
        what=what.format("verb pairs"),
    )
    return draw(
        "subject-verb-agreement",
        n,
        seed,
        lambda rng: to_prompt(tokenizer, agreement_text(rng, nouns, verbs)),
    )


GENERATORS: dict[str, Generator] = {
    "ioi": ioi,
    "greater-than": greater_than,
    "subject-verb-agreement": subject_verb_agreement,
}


def ioi_text(rng: random.Random, names: Sequence[str] = words.NAMES) -> TextPrompt:
    """One pair of the indirect-object task."""
    a, b, other = rng.sample(names, 3)
    subject, indirect = (a, b) if rng.random() < 0.5 else (b, a)
    template = rng.choice(IOI_TEMPLATES)
    place, thing = rng.choice(words.PLACES), rng.choice(words.OBJECTS)
    clean, corrupt = (
        template.format(a=a, b=b, s=second, place=place, object=thing)
        for second in (subject, other)
    )
    return TextPrompt(clean, corrupt, (f" {indirect}",), (f" {subject}",))


def greater_than_text(
    rng: random.Random, starts: Sequence[tuple[str, str]] = ALL_STARTS
) -> TextPrompt:
    """One pair of the greater-than task, from (century, two digits) of the start year."""
    century, start = rng.choice(starts)
    event = rng.choice(words.EVENTS)
    clean, corrupt = (
        GREATER_THAN_TEMPLATE.format(event=event, century=century, start=digits)
        for digits in (start, "01")
    )
    first_right = int(start) + 1
    return TextPrompt(
        clean, corrupt, words.TWO_DIGITS[first_right:], words.TWO_DIGITS[:first_right]
    )


def agreement_text(
    rng: random.Random,
    nouns: Sequence[tuple[str, str]] = words.NOUNS,
    verbs: Sequence[tuple[str, str]] = words.VERBS,
) -> TextPrompt:
    """One pair of the agreement task."""
    noun, number = rng.choice(nouns), rng.randrange(2)
    preposition, other = rng.choice(words.PREPOSITIONS), rng.choice(rng.choice(words.NOUNS))
    clean, corrupt = (
        AGREEMENT_TEMPLATE.format(noun=noun[which], preposition=preposition, other=other)
        for which in (number, 1 - number)
    )
    right, wrong = (tuple(f" {verb[which]}" for verb in verbs) for which in (number, 1 - number))
    return TextPrompt(clean, corrupt, right, wrong)


def draw(name: str, n: int, seed: int, make: Callable[[random.Random], Prompt]) -> Task:
    """A task of `n` prompts made one after another; pairs of unequal length are drawn again.

    Raises:
        ValueError: if `n` is less than 1, or no pair of equal length comes up.
    """
    if n < 1:
        raise ValueError(f"a task needs at least one prompt, got n={n}")
    rng = random.Random(seed)
    return Task(name, tuple(_draw_equal(name, rng, make) for _ in range(n)))


def _draw_equal(name: str, rng: random.Random, make: Callable[[random.Random], Prompt]) -> Prompt:
    for _ in range(MAX_TRIES):
        prompt = make(rng)
        if len(prompt.clean) == len(prompt.corrupt):
            return prompt
    raise ValueError(
        f"task {name!r}: {MAX_TRIES} pairs in a row had clean and corrupt prompts of unequal token "
        "length with this tokenizer; choose another task or another tokenizer"
    )


def _year_ids(tokenizer: Tokenizer) -> dict[tuple[str, str], int]:
    """The two-digit token of each (century, two digits) that is cut in just these two parts."""
    before = "The war lasted from the year"
    return {
        (century, digits): encode_prompt(tokenizer, f"{before} {century}{digits}")[-1]
        for century in words.CENTURIES
        if words.is_single(tokenizer, before, f" {century}")
        for digits in words.TWO_DIGITS
        if words.is_single(tokenizer, f"{before} {century}", digits)
    }


def _years_prompt(
    tokenizer: Tokenizer,
    starts: Sequence[tuple[str, str]],
    ids: dict[str, int],
    rng: random.Random,
) -> Prompt:
    """One pair; up to 99 answers are looked up, since encoding each of them would be slow."""
    text = greater_than_text(rng, starts)
    return Prompt(
        clean=encode_prompt(tokenizer, text.clean),
        corrupt=encode_prompt(tokenizer, text.corrupt),
        answers=tuple(ids[digits] for digits in text.answers if digits in ids),
        wrong_answers=tuple(ids[digits] for digits in text.wrong_answers if digits in ids),
        extra={"clean_text": text.clean, "corrupt_text": text.corrupt},
    )
