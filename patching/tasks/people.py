"""Tasks about people: indirect objects, gendered pronouns, names that are said again."""

import random
from collections.abc import Sequence

import patching.tasks.words as words
from patching.tasks.sampling import draw_texts, variant
from patching.tasks.spans import mark, unmark
from patching.tasks.task import Task
from patching.tasks.tokens import TextPrompt, Tokenizer

IOI_CORRUPTIONS = ("abc", "swap", "names", "random")
IOI_TEMPLATES = (
    "When {a} and {b} went to the {place}, {s} gave a {object} to",
    "While {a} and {b} were at the {place}, {s} handed a {object} to",
    "Then, {a} and {b} had fun at the {place}. {s} gave a {object} to",
    "After {a} and {b} found a {object} at the {place}, {s} decided to give it to",
)
PRONOUN_TEMPLATES = (
    "So {name} is a really great friend, isn't",
    "It was late and {name} was tired, so",
    "Last year {name} went to the {place} every day because",
    "Everyone saw that {name} was happy at the {place}, but",
)
NAME_TEMPLATES = (
    "Once upon a time, there was a child named {name}. At the {place} there was {name}. One day,",
    "At the {place} I met {name}. After an hour with {name}, I thanked",
    "We saw {name} at the {place}. Because {name} had a {object}, we waved at",
)
PRONOUNS = ("he", "she")


def ioi(tokenizer: Tokenizer, n: int, seed: int = 0, *, corruption: str = "abc") -> Task:
    """Indirect object identification: who of two people receives the object?

    Both orders of the names (ABBA, BABA). The corrupt prompt by `corruption`:

    - `abc`: a third name stands for the subject's second mention, so that neither name is
      repeated (`corrupted` in the files of Hanna et al. 2024, arXiv:2403.17806);
    - `swap`: the indirect object stands there, so that the other name is right (MIB's default,
      Mueller et al. 2025, arXiv:2504.13151);
    - `names`: three other names stand everywhere, none twice (Wang et al., section 3.1);
    - `random`: any other prompt of the task of equal length.

    Wang et al. 2022, section 2, arXiv:2211.00593.

    Raises:
        ValueError: if fewer than three names (five for `names`) are single tokens, if there is no
            such corruption, or `n` is less than 1.
    """
    name = variant("ioi", corruption, IOI_CORRUPTIONS)
    names = words.single_words(
        tokenizer,
        words.NAMES,
        "When",
        need=5 if corruption == "names" else 3,
        what=f"single-token names for the task {name!r}",
    )
    words.spelled(tokenizer, IOI_TEMPLATES, need=4, what=f"templates for the task {name!r}")
    return draw_texts(
        name,
        n,
        seed,
        lambda rng: ioi_text(rng, names, corruption),
        tokenizer,
        left={"names": (len(names), len(words.NAMES))},
    )


def gendered_pronouns(tokenizer: Tokenizer, n: int, seed: int = 0) -> Task:
    """Gendered pronouns: a man's name is followed by "he", a woman's by "she".

    The corrupt prompt has a name of the other gender. Mathwin et al. 2023, "Identifying a
    preliminary circuit for predicting gendered pronouns in GPT-2 small"; gender as a causal
    variable: Vig et al. 2020, arXiv:2004.12265.

    Raises:
        ValueError: if no man's or no woman's name or one of the pronouns is not a single token,
            no template can be spelled, or `n` is less than 1.
    """
    what = "{} for the task 'gendered-pronouns'"
    single = what.format("single-token {}")
    girls, boys = (
        words.single_words(tokenizer, pool, "So", need=1, what=single.format(kind))
        for pool, kind in ((words.GIRLS, "women's names"), (words.BOYS, "men's names"))
    )
    context = PRONOUN_TEMPLATES[0].format(name="Mary")
    words.single_words(tokenizer, PRONOUNS, context, need=2, what=single.format("pronouns"))
    templates, places = _shared(tokenizer, PRONOUN_TEMPLATES, "gendered-pronouns")
    return draw_texts(
        "gendered-pronouns",
        n,
        seed,
        lambda rng: _pronoun_text(rng, (boys, girls), templates, places),
        tokenizer,
        left={
            "men's names": (len(boys), len(words.BOYS)),
            "women's names": (len(girls), len(words.GIRLS)),
            "templates": (len(templates), len(PRONOUN_TEMPLATES)),
        },
    )


def name_completion(tokenizer: Tokenizer, n: int, seed: int = 0) -> Task:
    """Copying: somebody has been named twice; whose name comes next?

    The corrupt prompt names somebody else, who is the wrong answer. What copying heads do:
    Elhage et al. 2021, "A mathematical framework for transformer circuits"; name movers in Wang
    et al. 2022, arXiv:2211.00593.

    Raises:
        ValueError: if fewer than two names are single tokens, no template can be spelled, or `n`
            is less than 1.
    """
    what = "single-token names for the task 'name-completion'"
    names = words.single_words(tokenizer, words.NAMES, "I met", need=2, what=what)
    templates, places = _shared(tokenizer, NAME_TEMPLATES, "name-completion")
    return draw_texts(
        "name-completion",
        n,
        seed,
        lambda rng: _name_text(rng, names, templates, places),
        tokenizer,
        left={
            "names": (len(names), len(words.NAMES)),
            "templates": (len(templates), len(NAME_TEMPLATES)),
        },
    )


def ioi_text(
    rng: random.Random, names: Sequence[str] = words.NAMES, corruption: str = "abc"
) -> TextPrompt:
    """One pair of the indirect-object task."""
    a, b, other = rng.sample(names, 3)
    subject, indirect = (a, b) if rng.random() < 0.5 else (b, a)
    template = rng.choice(IOI_TEMPLATES)
    place, thing = rng.choice(words.PLACES), rng.choice(words.OBJECTS)
    said = {
        "abc": lambda: (a, b, other),
        "swap": lambda: (a, b, indirect),
        "names": lambda: (*rng.sample([x for x in names if x not in (a, b, other)], 2), other),
    }
    if corruption == "random":
        corrupt = ioi_text(rng, names).clean
    else:
        first, second, third = said[corruption]()
        corrupt = template.format(a=first, b=second, s=third, place=place, object=thing)
    roles = {subject: "S1", indirect: "IO"}
    said_first, said_next = (mark(roles[name], name) for name in (a, b))
    clean = template.format(
        a=said_first, b=said_next, s=mark("S2", subject), place=place, object=thing
    )
    return TextPrompt.marked(clean, corrupt, (f" {indirect}",), (f" {subject}",))


def _pronoun_text(
    rng: random.Random,
    people: tuple[Sequence[str], Sequence[str]],
    templates: Sequence[str],
    places: Sequence[str],
) -> TextPrompt:
    """`people`: names that are followed by the first and by the second pronoun."""
    which = rng.randrange(2)
    template, place = rng.choice(templates), rng.choice(places)
    clean, corrupt = (
        template.format(name=mark("name", rng.choice(people[gender])), place=place)
        for gender in (which, 1 - which)
    )
    corrupt, _ = unmark(corrupt)
    return TextPrompt.marked(clean, corrupt, (f" {PRONOUNS[which]}",), (f" {PRONOUNS[1 - which]}",))


def _name_text(
    rng: random.Random, names: Sequence[str], templates: Sequence[str], places: Sequence[str]
) -> TextPrompt:
    name, other = rng.sample(names, 2)
    template, place, thing = rng.choice(templates), rng.choice(places), rng.choice(words.OBJECTS)
    corrupt = template.format(name=other, place=place, object=thing)
    twice = template.replace("{name}", "{first}", 1)
    first, again = mark("name1", name), mark("name2", name)
    clean = twice.format(first=first, name=again, place=place, object=thing)
    return TextPrompt.marked(clean, corrupt, (f" {name}",), (f" {other}",))


def _shared(
    tokenizer: Tokenizer, templates: Sequence[str], task: str
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Templates and places that the tokenizer can spell."""
    what = f"{{}} for the task {task!r}"
    return (
        words.spelled(tokenizer, templates, what=what.format("templates")),
        words.spelled(tokenizer, words.PLACES, what=what.format("places")),
    )
