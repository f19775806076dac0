"""Lists that come again as a whole and are asked at every repeated token: induction, many times."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

import patching.tasks.words as words
from patching.tasks.sampling import draw
from patching.tasks.spans import Span, with_end
from patching.tasks.task import Prompt, Task
from patching.tasks.tokens import Tokenizer, encode_prompt

SIZES = range(5, 11)
"""How many words a list may have."""


def whole_words(tokenizer: Tokenizer, n: int, seed: int, name: str, corruption: str) -> Task:
    """Lists of words.

    Raises:
        ValueError: if fewer than twenty words are single tokens, or `n` is less than 1.
    """
    name = f"{name}:whole"
    spaced = [f" {word}" for word in words.FILLERS]
    known = words.single_tokens(tokenizer, "List:", spaced)
    what = f"single-token words for the task {name!r}"
    words.require_enough(len(known), len(spaced), need=2 * SIZES[-1], what=what)
    start = encode_prompt(tokenizer, "List:")
    texts = {token: text for text, token in known.items()}
    make = partial(repeat_whole, start, sorted(texts), SIZES, corruption)
    spell = partial(_spelled, make, texts, len(start))
    return draw(name, n, seed, spell, left={"words": (len(known), len(spaced))})


def repeat_whole(
    start: tuple[int, ...],
    pool: Sequence[int],
    sizes: range,
    corruption: str,
    rng: random.Random,
) -> Prompt:
    """A list twice, asked at each token of the second time but the last.

    In the corrupt prompt the first time is in another order, in which none is followed by the same
    (`next`: what follows there is the wrong answer), or of other tokens (`previous`: there is
    nothing to match; wrong is the one in its place).
    """
    size = rng.choice(sizes)
    drawn = rng.sample(pool, 2 * size)
    listed, others = drawn[:size], drawn[size:]
    if corruption == "next":
        before = _reordered(rng, listed)
        followers = dict(zip(before, (*before[1:], listed[0]), strict=True))
        wrong = [followers[token] for token in listed[:-1]]
    else:
        before, wrong = others, others[1:]
    first = len(start) + size
    lists = (Span("first", len(start), first), Span("again", first, first + size))
    return Prompt(
        clean=(*start, *listed, *listed),
        corrupt=(*start, *before, *listed),
        answers=tuple(listed[1:]),
        wrong_answers=tuple(wrong),
        answer_positions=tuple(range(first, first + size - 1)),
        spans=with_end(lists, first + size),
    )


def _reordered(rng: random.Random, listed: Sequence[int]) -> list[int]:
    """Another order, in which nothing is followed by what follows it here."""
    followers = {*zip(listed, listed[1:], strict=False)}
    while True:
        found = rng.sample(listed, len(listed))
        if not followers & {*zip(found, found[1:], strict=False)}:
            return found


def _spelled(make: partial[Prompt], texts: Mapping[int, str], n: int, rng: random.Random) -> Prompt:
    """The prompt with its texts; `n` tokens stand before the list."""
    made = make(rng)
    clean, corrupt = (
        "List:" + "".join(texts[token] for token in ids[n:]) for ids in (made.clean, made.corrupt)
    )
    return replace(made, extra={"clean_text": clean, "corrupt_text": corrupt})
