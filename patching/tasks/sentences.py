"""Tasks about the sentence itself: agreement, sentiment, a choice between coloured objects."""

import random
import string
from collections.abc import Sequence
from functools import partial

import patching.tasks.words as words
from patching.tasks.sampling import draw_texts, variant
from patching.tasks.spans import mark, unmark
from patching.tasks.task import Task
from patching.tasks.tokens import TextPrompt, Tokenizer

AGREEMENT_TEMPLATE = "The {noun} {preposition} the {other}"
SENTIMENT_TEMPLATE = "I thought this {noun} was {adjective}, I {verb} it. Overall, this {noun} was"
CHOICE_CORRUPTIONS = ("symbol", "position", "colour")
CHOICE_TEMPLATE = (
    "A {thing} is {colour}. What color is a {thing}?\n"
    "{0}. {4}\n{1}. {5}\n{2}. {6}\n{3}. {7}\nAnswer:"
)
LETTERS = tuple(string.ascii_uppercase)


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
    return draw_texts(
        "subject-verb-agreement",
        n,
        seed,
        lambda rng: agreement_text(rng, nouns, verbs),
        tokenizer,
        left={
            "noun pairs": (len(nouns), len(words.NOUNS)),
            "verb pairs": (len(verbs), len(words.VERBS)),
        },
    )


def sentiment(tokenizer: Tokenizer, n: int, seed: int = 0) -> Task:
    """Sentiment: after praise a good word follows, after blame a bad one.

    The corrupt prompt says the opposite with other words; answers and wrong answers are all good
    and all bad words, none of which is in the prompt. Tigges et al. 2023, arXiv:2310.15154.

    Raises:
        ValueError: if adjectives, verbs or answers of one side have no single token, the template
            cannot be spelled, or `n` is less than 1.
    """
    what = "{} for the task 'sentiment'"
    contexts = {
        "adjectives": "I thought this movie was",
        "verbs": "I thought this movie was bad, I",
        "verdicts": "Overall, this movie was",
    }
    words.spelled(tokenizer, (SENTIMENT_TEMPLATE,), what=what.format("templates"))
    nouns = words.spelled(tokenizer, words.REVIEWED, what=what.format("nouns"))
    sides: list[dict[str, tuple[str, ...]]] = []
    left: dict[str, tuple[int, int]] = {}
    for side, of_side in words.FEELINGS.items():
        sides.append({})
        for kind, context in contexts.items():
            name, pool = f"{side} {kind}", of_side[kind]
            whole = words.single_words(
                tokenizer, pool, context, need=1, what=what.format(f"single-token {name}")
            )
            sides[-1][kind], left[name] = whole, (len(whole), len(pool))
    make = partial(_sentiment_text, sides=sides, nouns=nouns)
    return draw_texts("sentiment", n, seed, make, tokenizer, left=left)


def coloured_objects(
    tokenizer: Tokenizer, n: int, seed: int = 0, *, corruption: str = "symbol"
) -> Task:
    """Coloured objects, multiple choice: which letter stands before the object's colour?

    In the corrupt prompt the options have other letters (`symbol`, MIB's default), their colours
    change places (`position`), or the object has the colour of another option (`colour`); the
    wrong answer is what is right there. Copied colours as in Wiegreffe et al. 2024,
    arXiv:2407.15018, and MIB, Mueller et al. 2025, arXiv:2504.13151; coloured objects in Merullo
    et al. 2023, arXiv:2310.08744.

    Raises:
        ValueError: if fewer than four colours or eight letters are single tokens, the template
            cannot be spelled, there is no such corruption, or `n` is less than 1.
    """
    name = variant("coloured-objects", corruption, CHOICE_CORRUPTIONS)
    what = f"{{}} for the task {name!r}"
    colours = words.single_words(
        tokenizer, words.COLOURS, "A box is", need=4, what=what.format("single-token colours")
    )
    answer = "What color is a box?\nAnswer:"
    letters = words.single_words(
        tokenizer, LETTERS, answer, need=8, what=what.format("single-token letters")
    )
    words.spelled(tokenizer, (CHOICE_TEMPLATE,), what=what.format("templates"))
    things = words.spelled(tokenizer, words.THINGS, what=what.format("objects"))
    left = {
        "colours": (len(colours), len(words.COLOURS)),
        "letters": (len(letters), len(LETTERS)),
        "objects": (len(things), len(words.THINGS)),
    }
    make = partial(
        _choice_text, things=things, colours=colours, letters=letters, corruption=corruption
    )
    return draw_texts(name, n, seed, make, tokenizer, left=left)


def agreement_text(
    rng: random.Random,
    nouns: Sequence[tuple[str, str]] = words.NOUNS,
    verbs: Sequence[tuple[str, str]] = words.VERBS,
) -> TextPrompt:
    """One pair of the agreement task."""
    noun, number = rng.choice(nouns), rng.randrange(2)
    preposition, other = rng.choice(words.PREPOSITIONS), rng.choice(rng.choice(words.NOUNS))
    clean, corrupt = (
        AGREEMENT_TEMPLATE.format(
            noun=mark("subject", noun[which]), preposition=preposition, other=other
        )
        for which in (number, 1 - number)
    )
    right, wrong = (tuple(f" {verb[which]}" for verb in verbs) for which in (number, 1 - number))
    return TextPrompt.marked(clean, unmark(corrupt)[0], right, wrong)


def _sentiment_text(
    rng: random.Random, *, sides: Sequence[dict[str, tuple[str, ...]]], nouns: Sequence[str]
) -> TextPrompt:
    which, noun = rng.randrange(2), rng.choice(nouns)
    clean, corrupt = (
        SENTIMENT_TEMPLATE.format(
            noun=noun,
            adjective=mark("adjective", rng.choice(side["adjectives"])),
            verb=mark("verb", rng.choice(side["verbs"])),
        )
        for side in (sides[which], sides[1 - which])
    )
    right, wrong = (
        tuple(f" {word}" for word in sides[side]["verdicts"]) for side in (which, 1 - which)
    )
    return TextPrompt.marked(clean, unmark(corrupt)[0], right, wrong)


def _choice_text(
    rng: random.Random,
    *,
    things: Sequence[str],
    colours: Sequence[str],
    letters: Sequence[str],
    corruption: str,
) -> TextPrompt:
    thing, options, place = rng.choice(things), rng.sample(colours, 4), rng.randrange(4)
    symbols = other_symbols = list(letters[:4])
    other_options, other_place, other_colour = options, place, options[place]
    if corruption == "symbol":
        other_symbols = rng.sample(letters[4:], 4)
    elif corruption == "position":
        shift = rng.randrange(1, 4)
        other_options, other_place = options[shift:] + options[:shift], (place - shift) % 4
    else:
        other_place = rng.choice([i for i in range(4) if i != place])
        other_colour = options[other_place]
    shown, offered = list(symbols), list(options)
    shown[place], offered[place] = mark("symbol", symbols[place]), mark("option", options[place])
    told = mark("colour", options[place])
    clean = CHOICE_TEMPLATE.format(*shown, *offered, thing=thing, colour=told)
    corrupt = CHOICE_TEMPLATE.format(
        *other_symbols, *other_options, thing=thing, colour=other_colour
    )
    right, wrong = symbols[place], other_symbols[other_place]
    return TextPrompt.marked(clean, corrupt, (f" {right}",), (f" {wrong}",))
