"""Numbers of any number of tokens: for tokenizers that cut them into digits."""

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import patching.tasks.words as words
from patching.tasks.sampling import draw, draw_texts
from patching.tasks.spans import mark
from patching.tasks.task import Prompt, Task
from patching.tasks.tokens import TextPrompt, Tokenizer, pair_of

Operation = Callable[[int, int], int]
Tokens = tuple[int, ...]
YearsText = Callable[[random.Random, Sequence[tuple[str, str]]], TextPrompt]


def arithmetic(
    tokenizer: Tokenizer,
    n: int,
    seed: int,
    *,
    name: str,
    operation: Operation,
    templates: Sequence[str],
    digits: int,
    same_first: bool,
) -> Task:
    """`operation` of two numbers of so many digits, its result of any number of tokens.

    Raises:
        ValueError: if no template or number can be spelled, fewer than two results can continue a
            prompt, or `n` is less than 1.
    """
    spelled = words.spelled(tokenizer, templates, what=f"templates for the task {name!r}")
    every = range(10 ** (digits - 1), 10**digits)
    whole = words.spelled(tokenizer, [*map(str, every)], what=f"numbers for the task {name!r}")
    results = sorted({operation(a, b) for a in every for b in (every[0], every[-1])})
    results = [*range(max(results[0], 0), results[-1] + 1)]
    gap, known = _results(tokenizer, results)
    words.require_enough(len(known), len(results), need=2, what=f"results for the task {name!r}")
    pairs = _Pairs([*map(int, whole)], known, operation)
    firsts = [a for a in pairs.numbers if len(pairs.seconds(a)) > 1]
    words.require_enough(len(firsts), len(every), need=1, what=f"numbers for the task {name!r}")

    def text(rng: random.Random) -> TextPrompt:
        template, first = rng.choice(spelled) + gap, rng.choice(firsts)
        a, b = pairs.draw(rng, first)
        c, d = pairs.draw(rng, first if same_first else rng.choice(firsts), other=operation(a, b))
        clean = template.format(a=mark("a", str(a)), b=mark("b", str(b)))
        corrupt = template.format(a=c, b=d)
        right, wrong = (f"{' '[len(gap) :]}{operation(*two)}" for two in ((a, b), (c, d)))
        return TextPrompt.marked(clean, corrupt, (right,), (wrong,))

    left = {"results": (len(known), len(results)), "templates": (len(spelled), len(templates))}
    return draw_texts(name, n, seed, text, tokenizer, left=left)


@dataclass(frozen=True)
class _Pairs:
    """Pairs of numbers whose result is known."""

    numbers: Sequence[int]
    results: set[int]
    operation: Operation

    def seconds(self, first: int) -> list[int]:
        """What may stand behind a number."""
        return [b for b in self.numbers if self.operation(first, b) in self.results]

    def draw(self, rng: random.Random, first: int, other: int | None = None) -> tuple[int, int]:
        """A pair that begins so; of its result and the other one, neither begins the other.

        Where there is none, any, which may be the same.
        """
        found = [
            b for b in self.seconds(first) if not _begin_alike(self.operation(first, b), other)
        ]
        return first, rng.choice(found or self.seconds(first))


def _begin_alike(one: int, other: int | None) -> bool:
    """Whether one number is another, or all its digits begin the other's."""
    first, second = str(one), str(other)
    return first.startswith(second) or second.startswith(first)


def _results(tokenizer: Tokenizer, results: Sequence[int]) -> tuple[str, set[int]]:
    """The results that continue "is" or "is ", where there are more; of equals, shorter ones."""
    found: dict[str, Mapping[str, Tokens]] = {
        gap: words.continuing(tokenizer, f"The sum is{gap}", [f"{rest}{r}" for r in results])
        for gap, rest in (("", " "), (" ", ""))
    }
    gap, known = max(found.items(), key=lambda item: (len(item[1]), -_n_tokens(item[1])))
    return gap, {*map(int, known)}


def _n_tokens(known: Mapping[str, Tokens]) -> int:
    return sum(map(len, known.values()))


def years(
    tokenizer: Tokenizer,
    n: int,
    seed: int,
    *,
    name: str,
    text: YearsText,
) -> Task:
    """A year that comes later, its two digits one token or two; answers are all that there are.

    Raises:
        ValueError: if no start year goes on behind its century, or `n` is less than 1.
    """
    before = "The war lasted from the year"
    ids = {
        century: words.continuing(tokenizer, f"{before} {century}", words.TWO_DIGITS)
        for century in words.CENTURIES
    }
    starts = [
        (century, start)
        for century, known in ids.items()
        for start in known
        if "02" <= start < max(known) and "01" in known
    ]
    what = f"start years whose digits follow their century for the task {name!r}"
    total = len(words.CENTURIES) * 97
    words.require_enough(len(starts), total, need=1, what=what)
    make = partial(_years_prompt, tokenizer, text, starts, ids)
    return draw(name, n, seed, make, left={"start years": (len(starts), total)})


def _years_prompt(
    tokenizer: Tokenizer,
    text: YearsText,
    starts: Sequence[tuple[str, str]],
    ids: Mapping[str, Mapping[str, Tokens]],
    rng: random.Random,
) -> Prompt:
    """One pair; up to 99 answers are looked up, since encoding each of them would be slow."""
    made = text(rng, starts)
    known = ids[made.clean[-2:]]
    right, wrong = (
        [known[digits] for digits in some if digits in known]
        for some in (made.answers, made.wrong_answers)
    )
    return pair_of(tokenizer, made, right, wrong)
