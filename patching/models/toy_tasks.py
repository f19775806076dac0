"""The task families that the toy model is trained on: six of the library, and `conflict`.

The numbers of its embedded weights hang on these and on no others.
"""

import random
from collections.abc import Callable, Sequence
from functools import partial

from patching.tasks import words
from patching.tasks.generators import GENERATORS
from patching.tasks.recall import single_capitals
from patching.tasks.sampling import Generator, draw_texts
from patching.tasks.spans import mark, unmark
from patching.tasks.task import Task
from patching.tasks.tokens import TextPrompt, Tokenizer

CONFLICT_TEMPLATES = tuple(
    start + ": the capital of {country} is {told}. The capital of {country} is"
    for start in ("Context", "Report", "Note", "Story")
)


def conflict(tokenizer: Tokenizer, n: int, seed: int = 0) -> Task:
    """Conflict: the context names another capital than the memorised one.

    The answer is the context's, the wrong answer the memorised one; in the corrupt prompt the
    context agrees with memory. Yu et al. 2023, "Characterizing mechanisms for factual recall in
    language models", arXiv:2310.15910.

    Raises:
        ValueError: if fewer than two countries and their capitals are single tokens, or `n` is
            less than 1.
    """
    return contradicted(tokenizer, n, seed, name="conflict")


def contradicted(
    tokenizer: Tokenizer, n: int, seed: int, *, name: str, said: Callable[[str], str] = str
) -> Task:
    """Contexts that give a country another capital, called what `said` makes of its name.

    Raises:
        ValueError: as `conflict`.
    """
    known = single_capitals(tokenizer, name)
    left = {"countries and capitals": (len(known), len(words.CAPITALS))}
    make = partial(conflict_text, known=known, said=said)
    return draw_texts(name, n, seed, make, tokenizer, left=left)


_TRAINED = (
    "ioi",
    "greater-than",
    "subject-verb-agreement",
    "docstring",
    "induction",
    "facts",
)
TOY_GENERATORS: dict[str, Generator] = {
    **{name: GENERATORS[name] for name in _TRAINED},
    "conflict": conflict,
}


def conflict_text(
    rng: random.Random,
    known: Sequence[tuple[str, str]] = words.CAPITALS,
    said: Callable[[str], str] = str,
) -> TextPrompt:
    """One pair of the conflict task, or of one whose contexts say a city otherwise."""
    (country, capital), (_, told) = rng.sample(known, 2)
    template = rng.choice(CONFLICT_TEMPLATES)
    clean, corrupt = (
        template.format(country=country, told=mark("told", said(city))) for city in (told, capital)
    )
    return TextPrompt.marked(clean, unmark(corrupt)[0], (f" {told}",), (f" {capital}",))
