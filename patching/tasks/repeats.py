"""Tasks of repetition: lists that start again, docstrings that follow their function."""

import random
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Protocol, TypeVar, runtime_checkable

import patching.tasks.words as words
from patching.tasks.sampling import any_length, draw, draw_texts, variant
from patching.tasks.spans import Span, mark, with_end
from patching.tasks.task import Prompt, Task
from patching.tasks.tokens import TextPrompt, Tokenizer, encode_prompt
from patching.tasks.whole import repeat_whole, whole_words

T = TypeVar("T")

REPEAT_CORRUPTIONS = ("next", "previous")
DOCSTRING_CORRUPTIONS = ("definition", "description", "both")
DOCSTRING_TEMPLATE = 'def {function}(self, {a}, {b}, {c}): """ :param {d}: :param {e}: :param'
INDUCTION_TEMPLATE = "List: {words}"
N_RANDOM_TOKENS = 10


@runtime_checkable
class WithVocabulary(Protocol):
    """A tokenizer that says which tokens there are; every Hugging Face tokenizer does."""

    all_special_ids: list[int]

    def get_vocab(self) -> Mapping[str, int]:
        """Each token with its id."""
        ...


def induction(
    tokenizer: Tokenizer, n: int, seed: int = 0, *, corruption: str = "next", whole: bool = False
) -> Task:
    """Induction: a list of random words starts again; which word is next?

    In the corrupt prompt another word stood in the list the first time: for the answer (`next`;
    it is the wrong answer), or for the word before it (`previous`: nothing to match; wrong is
    another word of the list). With `whole` the list comes again as a whole and is asked at every
    word, behind it in another order (`next`) or behind other words (`previous`). Olsson et al.
    2022, arXiv:2209.11895.

    Raises:
        ValueError: if fewer than ten words (twenty for `whole`) are single tokens, there is no such
            corruption, or `n` is less than 1.
    """
    name = variant("induction", corruption, REPEAT_CORRUPTIONS)
    if whole:
        return whole_words(tokenizer, n, seed, name, corruption)
    what = f"single-token words for the task {name!r}"
    pool = words.single_words(tokenizer, words.FILLERS, "List:", need=10, what=what)
    return draw_texts(
        name,
        n,
        seed,
        lambda rng: induction_text(rng, pool, corruption),
        tokenizer,
        left={"words": (len(pool), len(words.FILLERS))},
    )


def repeated_tokens(
    tokenizer: Tokenizer, n: int, seed: int = 0, *, corruption: str = "next", whole: bool = False
) -> Task:
    """Induction on random tokens: ten of the vocabulary, then some of them again.

    Needs no words, so every tokenizer has it. Corruptions, and `whole`, as in `induction`. Olsson
    et al. 2022, arXiv:2209.11895.

    Raises:
        ValueError: if the tokenizer does not say which tokens it has, or has fewer than eleven
            (twenty for `whole`) that are not special, there is no such corruption, or `n` is less
            than 1.
    """
    name = variant("repeated-tokens", corruption, REPEAT_CORRUPTIONS)
    if not isinstance(tokenizer, WithVocabulary):
        raise ValueError(
            f"the task {name!r} draws from the vocabulary, and this tokenizer has no get_vocab()"
        )
    ids = sorted({*tokenizer.get_vocab().values()} - {*tokenizer.all_special_ids})
    what = f"tokens for the task {name!r}"
    need = 2 * N_RANDOM_TOKENS if whole else N_RANDOM_TOKENS + 1
    words.require_enough(len(ids), len(tokenizer.get_vocab()), need=need, what=what)
    start = encode_prompt(tokenizer, "")
    left = {"tokens": (len(ids), len(tokenizer.get_vocab()))}
    if whole:
        make_whole = partial(repeat_whole, start, ids, range(N_RANDOM_TOKENS, N_RANDOM_TOKENS + 1))
        return draw(f"{name}:whole", n, seed, partial(make_whole, corruption), left=left)

    def make(rng: random.Random) -> Prompt:
        *listed, other = rng.sample(ids, N_RANDOM_TOKENS + 1)
        clean, corrupt, right, wrong = _repeat(rng, listed, other, corruption)
        n = len(start) + len(clean)
        at = len(start) + len(clean) - len(listed) - 1
        spans = (Span("previous", at, at + 1), Span("next", at + 1, at + 2))
        return Prompt(
            (*start, *clean),
            (*start, *corrupt),
            (right,),
            (wrong,),
            spans=with_end(spans, n),
        )

    return draw(name, n, seed, make, left=left)


def docstring(
    tokenizer: Tokenizer,
    n: int,
    seed: int = 0,
    *,
    corruption: str = "definition",
    several: bool = False,
) -> Task:
    """Docstring: which argument of the function is described next?

    In the corrupt prompt the function has other arguments than its docstring describes
    (`definition`), the docstring describes arguments that the function does not have
    (`description`), or all are others (`both`, none twice). Wrong answers are the arguments
    already described and one that is nowhere. With `several`, other rows have names of several
    tokens, such as max_depth, all of a row equally long. Heimersheim and Janiak 2023, "A circuit
    for Python docstrings in a 4-layer attention-only transformer".

    Raises:
        ValueError: if fewer than six argument names (eight for `both`) are single tokens (or can be
            spelled, if they may have `several`), there is no such corruption, or `n` is less than
            1.
    """
    name = any_length(variant("docstring", corruption, DOCSTRING_CORRUPTIONS), several)
    what = f"{'' if several else 'single-token '}argument names for the task {name!r}"
    need = 8 if corruption == "both" else 6
    pool = (*words.ARGUMENTS, *words.LONG_ARGUMENTS) if several else words.ARGUMENTS
    names = words.single_words(
        tokenizer, pool, "def load(self,", need=need, what=what, several=several
    )
    alike = _equally_long(tokenizer, names, need) if several else []
    left = {"argument names": (len(names), len(pool))}

    def text(rng: random.Random) -> TextPrompt:
        return docstring_text(rng, rng.choice(alike) if alike else names, corruption)

    return draw_texts(name, n, seed, text, tokenizer, left=left)


def _equally_long(tokenizer: Tokenizer, names: Sequence[str], need: int) -> list[list[str]]:
    """The names by their number of tokens, where there are enough of a number."""
    cut = words.continuing(tokenizer, "def load(self,", [f" {name}" for name in names])
    by_length: dict[int, list[str]] = {}
    for name in names:
        by_length.setdefault(len(cut[f" {name}"]), []).append(name)
    return [some for some in by_length.values() if len(some) >= need]


def docstring_text(
    rng: random.Random, names: Sequence[str] = words.ARGUMENTS, corruption: str = "definition"
) -> TextPrompt:
    """One pair of the docstring task."""
    first, second, third, *others = rng.sample(names, 6)
    function = rng.choice(words.FUNCTIONS)
    defined, described = (first, second, third), (first, second)
    if corruption != "definition":
        unused = [name for name in names if name not in (*defined, *others)]
        described = (others[0], others[1]) if corruption == "description" else rng.sample(unused, 2)
    if corruption != "description":
        defined = others
    a, b, c, d, e = *defined, *described
    corrupt = DOCSTRING_TEMPLATE.format(function=function, a=a, b=b, c=c, d=d, e=e)
    told = {"A_def": first, "B_def": second, "C_def": third, "A_doc": first, "B_doc": second}
    a, b, c, d, e = (mark(*item) for item in told.items())
    clean = DOCSTRING_TEMPLATE.format(function=function, a=a, b=b, c=c, d=d, e=e)
    wrong = (f" {first}", f" {second}", f" {others[2]}")
    return TextPrompt.marked(clean, corrupt, (f" {third}",), wrong)


def induction_text(
    rng: random.Random, pool: Sequence[str] = words.FILLERS, corruption: str = "next"
) -> TextPrompt:
    """One pair of the induction task: five to nine words, then some of them again."""
    *listed, other = rng.sample(pool, rng.randrange(6, 11))
    clean, corrupt, right, wrong = _repeat(rng, listed, other, corruption)
    asked = len(clean) - len(listed)
    clean[asked - 1] = mark("previous", clean[asked - 1])
    clean[asked] = mark("next", clean[asked])
    return TextPrompt.marked(
        INDUCTION_TEMPLATE.format(words=" ".join(clean)),
        INDUCTION_TEMPLATE.format(words=" ".join(corrupt)),
        (f" {right}",),
        (f" {wrong}",),
    )


def _repeat(
    rng: random.Random, listed: Sequence[T], other: T, corruption: str
) -> tuple[list[T], list[T], T, T]:
    """Clean and corrupt list, the right and the wrong continuation."""
    asked = rng.randrange(1, len(listed))
    place = asked if corruption == "next" else asked - 1
    changed = [*listed[:place], other, *listed[place + 1 :]]
    again, right = listed[:asked], listed[asked]
    wrong = other
    if corruption == "previous":
        wrong = rng.choice([*listed[: asked - 1], *listed[asked + 1 :]])
    return [*listed, *again], [*changed, *again], right, wrong
