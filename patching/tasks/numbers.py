"""Tasks about numbers: years that come later, sums and differences."""

import random
from collections.abc import Callable, Sequence
from functools import partial
from operator import add, sub

import patching.tasks.digits as digits_apart
import patching.tasks.words as words
from patching.tasks.sampling import any_length, draw, draw_texts, variant
from patching.tasks.spans import mark, unmark
from patching.tasks.task import Prompt, Task
from patching.tasks.tokens import TextPrompt, Tokenizer, pair_of

GREATER_THAN_TEMPLATE = "The {event} lasted from the year {century}{start} to the year {century}"
ALL_STARTS = tuple((c, start) for c in words.CENTURIES for start in words.TWO_DIGITS[2:99])
ARITHMETIC_CORRUPTIONS = ("both", "second")
ADDITION_TEMPLATES = (
    "The sum of {a} and {b} is",
    "What is {a} plus {b}? {a} plus {b} is",
    "If I have {a} and get {b} more, how many do I have? The answer is",
)
SUBTRACTION_TEMPLATES = (
    "The difference between {a} and {b} is",
    "What is {a} minus {b}? {a} minus {b} is",
    "If I have {a} and give away {b}, how many do I have? The answer is",
)
TWO_DIGIT = range(10, 100)

Pair = tuple[int, int]


def greater_than(tokenizer: Tokenizer, n: int, seed: int = 0, *, several: bool = False) -> Task:
    """Greater-than: a war that starts in 1732 ends in a year 17.. above 32.

    Answers are all two-digit tokens above the start year, wrong answers all others; the corrupt
    prompt starts in ..01. Start years that the tokenizer does not cut into century and two digits
    are not used; with `several`, the two digits may be a token each. Hanna et al. 2023, section 2,
    arXiv:2305.00586.

    Raises:
        ValueError: if no start year is cut into century and two digits, or `n` is less than 1.
    """
    if several:
        name = any_length("greater-than", several)
        return digits_apart.years(tokenizer, n, seed, name=name, text=greater_than_text)
    ids = _year_ids(tokenizer)
    by_digits = {digits: token for (_, digits), token in ids.items()}
    starts = [
        (century, start)
        for century, start in ids
        if "02" <= start < max(by_digits) and (century, "01") in ids
    ]
    what = "start years of two tokens, century and two digits, for the task 'greater-than'"
    words.require_enough(len(starts), len(ALL_STARTS), need=1, what=what)
    make = partial(_years_prompt, tokenizer, starts, by_digits)
    left = {"start years": (len(starts), len(ALL_STARTS))}
    return draw("greater-than", n, seed, make, left=left)


def addition(
    tokenizer: Tokenizer,
    n: int,
    seed: int = 0,
    *,
    corruption: str = "both",
    several: bool = False,
    digits: int = 2,
) -> Task:
    """Addition of two numbers of two digits.

    In the corrupt prompt `both` numbers are others, or only the `second`; its sum is the wrong
    answer. Stolfo et al. 2023, arXiv:2305.15054; the random counterfactual of MIB, Mueller et al.
    2025, arXiv:2504.13151. Where a number after a space is two tokens, the prompts end in a space.
    With `several`, results may have several tokens, and numbers three `digits`.

    Raises:
        ValueError: if fewer than two sums are single tokens (tokenizers that cut numbers into
            digits have none, unless there may be `several`), no template can be spelled, there is
            no such corruption, numbers have neither two digits nor three, or `n` is less than 1.
    """
    name = variant("addition", corruption, ARITHMETIC_CORRUPTIONS)
    if several or digits != 2:
        return _apart(tokenizer, n, seed, name, add, ADDITION_TEMPLATES, digits)
    return _arithmetic(tokenizer, n, seed, name, add, ADDITION_TEMPLATES)


def subtraction(
    tokenizer: Tokenizer,
    n: int,
    seed: int = 0,
    *,
    corruption: str = "both",
    several: bool = False,
    digits: int = 2,
) -> Task:
    """Subtraction of a number of two digits from a larger one.

    Corruptions and refusals as in `addition`. Stolfo et al. 2023, arXiv:2305.15054.

    Raises:
        ValueError: as `addition`.
    """
    name = variant("subtraction", corruption, ARITHMETIC_CORRUPTIONS)
    if several or digits != 2:
        return _apart(tokenizer, n, seed, name, sub, SUBTRACTION_TEMPLATES, digits)
    return _arithmetic(tokenizer, n, seed, name, sub, SUBTRACTION_TEMPLATES)


def greater_than_text(
    rng: random.Random, starts: Sequence[tuple[str, str]] = ALL_STARTS
) -> TextPrompt:
    """One pair of the greater-than task, from (century, two digits) of the start year."""
    century, start = rng.choice(starts)
    event = rng.choice(words.EVENTS)
    clean, corrupt = (
        GREATER_THAN_TEMPLATE.format(
            event=mark("event", event), century=century, start=mark("YY", digits)
        )
        for digits in (start, "01")
    )
    first_right = int(start) + 1
    right, wrong = words.TWO_DIGITS[first_right:], words.TWO_DIGITS[:first_right]
    return TextPrompt.marked(clean, unmark(corrupt)[0], right, wrong)


def _year_ids(tokenizer: Tokenizer) -> dict[tuple[str, str], int]:
    """The two-digit token of each (century, two digits) that is cut in just these two parts."""
    before = "The war lasted from the year"
    return {
        (century, digits): token
        for century in words.CENTURIES
        if words.is_single(tokenizer, before, f" {century}")
        for digits, token in words.single_tokens(
            tokenizer, f"{before} {century}", words.TWO_DIGITS
        ).items()
    }


def _years_prompt(
    tokenizer: Tokenizer,
    starts: Sequence[tuple[str, str]],
    ids: dict[str, int],
    rng: random.Random,
) -> Prompt:
    """One pair; up to 99 answers are looked up, since encoding each of them would be slow."""
    text = greater_than_text(rng, starts)
    right, wrong = (
        [ids[digits] for digits in some if digits in ids]
        for some in (text.answers, text.wrong_answers)
    )
    return pair_of(tokenizer, text, right, wrong)


def _apart(
    tokenizer: Tokenizer,
    n: int,
    seed: int,
    name: str,
    operation: Callable[[int, int], int],
    templates: Sequence[str],
    digits: int,
) -> Task:
    """The task with results of any number of tokens.

    Raises:
        ValueError: if numbers have neither two digits nor three.
    """
    if digits not in (2, 3):
        raise ValueError(f"numbers of the task {name!r} have 2 or 3 digits, got {digits}")
    return digits_apart.arithmetic(
        tokenizer,
        n,
        seed,
        name=f"{name}:three-digits" if digits == 3 else any_length(name, True),
        operation=operation,
        templates=templates,
        digits=digits,
        same_first=name.endswith("second"),
    )


def _arithmetic(
    tokenizer: Tokenizer,
    n: int,
    seed: int,
    name: str,
    operation: Callable[[int, int], int],
    templates: Sequence[str],
) -> Task:
    """`operation` of pairs whose result is one token and not negative."""
    spelled = words.spelled(tokenizer, templates, what=f"templates for the task {name!r}")
    pairs = [(a, b) for a in TWO_DIGIT for b in TWO_DIGIT if operation(a, b) >= 0]
    whole = words.spelled(tokenizer, [*map(str, TWO_DIGIT)], what=f"numbers for the task {name!r}")
    numbers = {*map(int, whole)}
    results = sorted({operation(a, b) for a, b in pairs})
    gap, single = _single_results(tokenizer, results)
    what = f"single-token results for the task {name!r}"
    words.require_enough(len(single), len(results), need=2, what=what)
    usable = [p for p in pairs if numbers >= {*p} and operation(*p) in single]
    partners = _partners(usable, same_first=name.endswith("second"))
    firsts = [pair for pair in usable if len(partners(pair)) > 1]
    words.require_enough(len(firsts), len(pairs), need=1, what=f"pairs for the task {name!r}")

    def text(rng: random.Random) -> TextPrompt:
        template, first = rng.choice(spelled) + gap, rng.choice(firsts)
        second = rng.choice([p for p in partners(first) if operation(*p) != operation(*first)])
        clean = template.format(
            **{name: mark(name, str(n)) for name, n in zip("ab", first, strict=True)}
        )
        corrupt = template.format(a=second[0], b=second[1])
        right, wrong = (f"{' '[len(gap) :]}{operation(*pair)}" for pair in (first, second))
        return TextPrompt.marked(clean, corrupt, (right,), (wrong,))

    left = {"results": (len(single), len(results)), "templates": (len(spelled), len(templates))}
    return draw_texts(name, n, seed, text, tokenizer, left=left)


def _partners(pairs: Sequence[Pair], *, same_first: bool) -> Callable[[Pair], Sequence[Pair]]:
    """What may stand in the corrupt prompt of a pair: all, or those with the same first number."""
    if not same_first:
        return lambda _: pairs
    by_first: dict[int, list[Pair]] = {}
    for pair in pairs:
        by_first.setdefault(pair[0], []).append(pair)
    return lambda pair: by_first[pair[0]]


def _single_results(tokenizer: Tokenizer, results: Sequence[int]) -> tuple[str, set[int]]:
    """The results that are one token after "is" or after "is ", whichever are more."""
    found = {
        gap: words.single_tokens(tokenizer, f"The sum is{gap}", [f"{rest}{r}" for r in results])
        for gap, rest in (("", " "), (" ", ""))
    }
    gap, single = max(found.items(), key=lambda item: len(item[1]))
    return gap, {*map(int, single)}
