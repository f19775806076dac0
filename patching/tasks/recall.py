"""Tasks about what a model has memorised: capitals, languages, opposites."""

import random
from collections.abc import Sequence

import patching.tasks.words as words
from patching.tasks.capitals import CAPITALS, MORE_CAPITALS
from patching.tasks.sampling import any_length, draw_texts
from patching.tasks.spans import mark
from patching.tasks.task import Task
from patching.tasks.tokens import TextPrompt, Tokenizer

FACT_TEMPLATES = (
    "The capital of {word} is",
    "The capital city of {word} is",
    "In {word}, the capital is",
)
LANGUAGE_TEMPLATES = (
    "The official language of {word} is",
    "In {word}, most people speak",
    "The language of {word} is",
)
OPPOSITE_TEMPLATES = (
    "The opposite of {word} is",
    "It is not {word}, quite the opposite: it is",
)

Facts = Sequence[tuple[str, str]]


def facts(tokenizer: Tokenizer, n: int, seed: int = 0, *, several: bool = False) -> Task:
    """Facts: the capital of a country; the corrupt prompt names another country.

    There are three templates and forty countries: 4,680 pairs. With `several`, names may have
    several tokens, and four times as many countries are asked about. Country and attribute as in
    Huang et al. 2024 (RAVEL), arXiv:2402.17700; facts recalled from memory: Meng et al. 2022,
    arXiv:2202.05262.

    Raises:
        ValueError: if fewer than two countries and their capitals are single tokens (or can be
            spelled, if they may have `several`), or `n` is less than 1.
    """
    name = any_length("facts", several)
    known = single_capitals(tokenizer, name, several=several)
    left = {"countries and capitals": (len(known), len(_capitals(several)))}
    return draw_texts(name, n, seed, lambda rng: facts_text(rng, known), tokenizer, left=left)


def languages(tokenizer: Tokenizer, n: int, seed: int = 0, *, several: bool = False) -> Task:
    """Languages: what is spoken in a country; the corrupt prompt names another country.

    The two countries have different languages; with `several`, names may have several tokens.
    Country and attribute as in Huang et al. 2024 (RAVEL), arXiv:2402.17700.

    Raises:
        ValueError: if fewer than two languages are left whose name and country are single tokens,
            no template can be spelled, or `n` is less than 1.
    """
    return _related(
        tokenizer,
        n,
        seed,
        task=any_length("languages", several),
        several=several,
        pairs=words.LANGUAGES,
        templates=LANGUAGE_TEMPLATES,
        what="countries and languages",
    )


def opposites(tokenizer: Tokenizer, n: int, seed: int = 0, *, several: bool = False) -> Task:
    """Opposites: hot is followed by cold; the corrupt prompt asks for another word's opposite.

    With `several`, words may have several tokens. Antonyms as in Todd et al. 2023,
    arXiv:2310.15213.

    Raises:
        ValueError: if fewer than two words and their opposites are single tokens, no template can
            be spelled, or `n` is less than 1.
    """
    return _related(
        tokenizer,
        n,
        seed,
        task=any_length("opposites", several),
        several=several,
        pairs=(*words.OPPOSITES, *((b, a) for a, b in words.OPPOSITES)),
        templates=OPPOSITE_TEMPLATES,
        what="words and opposites",
    )


def facts_text(rng: random.Random, known: Facts = CAPITALS) -> TextPrompt:
    """One pair of the facts task."""
    return _pair_text(rng, rng.sample(known, 2), FACT_TEMPLATES)


def single_capitals(
    tokenizer: Tokenizer, task: str, *, several: bool = False
) -> tuple[tuple[str, str], ...]:
    """The countries that are single tokens, and whose capitals are; or all that can be spelled.

    Raises:
        ValueError: if fewer than two are left; `task` is named there.
    """
    contexts = ("The capital of", "The capital of France is")
    what = f"{_kind(several)}countries and their capitals for the task {task!r}"
    pairs = _capitals(several)
    return words.single_pairs(tokenizer, pairs, contexts, need=2, what=what, several=several)


def _capitals(several: bool) -> Facts:
    return (*CAPITALS, *MORE_CAPITALS) if several else CAPITALS


def _kind(several: bool) -> str:
    return "" if several else "single-token "


def _related(
    tokenizer: Tokenizer,
    n: int,
    seed: int,
    *,
    task: str,
    several: bool,
    pairs: Facts,
    templates: Sequence[str],
    what: str,
) -> Task:
    """A word is asked for its partner; the corrupt prompt asks for one with another partner."""
    spelled = words.spelled(tokenizer, templates, what=f"templates for the task {task!r}")
    context = templates[0].partition(" {word}")[0]
    contexts = (context, templates[0].format(word=pairs[0][0]))
    single = f"{_kind(several)}{what} for the task {task!r}"
    known = words.single_pairs(tokenizer, pairs, contexts, need=2, what=single, several=several)
    partners = {partner for _, partner in known}
    words.require_enough(len(partners), len({b for _, b in pairs}), need=2, what=single)

    def text(rng: random.Random) -> TextPrompt:
        first = rng.choice(known)
        second = rng.choice([pair for pair in known if pair[1] != first[1]])
        return _pair_text(rng, (first, second), spelled)

    left = {what: (len(known), len(pairs)), "templates": (len(spelled), len(templates))}
    return draw_texts(task, n, seed, text, tokenizer, left=left)


def _pair_text(rng: random.Random, two: Facts, templates: Sequence[str]) -> TextPrompt:
    """The first pair is asked about in the clean prompt, the second in the corrupt one."""
    (word, right), (other, wrong) = two
    template = rng.choice(templates)
    clean, corrupt = template.format(word=mark("subject", word)), template.format(word=other)
    return TextPrompt.marked(clean, corrupt, (f" {right}",), (f" {wrong}",))
