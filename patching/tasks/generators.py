"""All families of generated tasks, by name: what each asks, and whose idea it was.

A family is a generator `(tokenizer, n, seed) -> Task`, for any tokenizer that keeps the family's
words whole. Only words that differ within a pair, or are answers, must be single tokens; the others
are shared by clean and corrupt prompt and may have any length. Forms of some families ask for
answers of any number of tokens (`facts:any`), or at every repeated token (`induction:whole`).
"""

import inspect
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import patching.tasks.numbers as numbers
import patching.tasks.people as people
import patching.tasks.recall as recall
import patching.tasks.repeats as repeats
import patching.tasks.sentences as sentences
from patching.files.meant import meant
from patching.tasks.numbers import greater_than
from patching.tasks.people import ioi
from patching.tasks.sampling import Generator, draw
from patching.tasks.sentences import subject_verb_agreement
from patching.tasks.task import Task
from patching.tasks.tokens import Tokenizer

__all__ = [
    "FAMILIES",
    "GENERATORS",
    "Family",
    "Generator",
    "draw",
    "generate",
    "greater_than",
    "ioi",
    "subject_verb_agreement",
]


@dataclass(frozen=True)
class Family:
    """A generator and what a list of tasks says of it.

    `corruptions` are the names that its keyword `corruption` takes, the default first. `forms` are
    other sets of rows, by name, and the keywords that make them.
    """

    generate: Generator
    source: str
    corruptions: tuple[str, ...] = ()
    forms: Mapping[str, Mapping[str, object]] = field(default_factory=dict)

    @property
    def asks(self) -> str:
        """The first sentence of its documentation."""
        return (inspect.getdoc(self.generate) or "").split("\n")[0].rstrip(".")


ANY = {"any": {"several": True}}
"""Answers of any number of tokens."""
ARITHMETIC = {**ANY, "three-digits": {"several": True, "digits": 3}}
WHOLE = {"whole": {"whole": True}}
"""Asked at every repeated token."""

FAMILIES: dict[str, Family] = {
    "ioi": Family(people.ioi, "Wang et al. 2022, arXiv:2211.00593", people.IOI_CORRUPTIONS),
    "greater-than": Family(numbers.greater_than, "Hanna et al. 2023, arXiv:2305.00586", forms=ANY),
    "subject-verb-agreement": Family(
        sentences.subject_verb_agreement, "Linzen et al. 2016, arXiv:1611.01368"
    ),
    "gendered-pronouns": Family(people.gendered_pronouns, "Vig et al. 2020, arXiv:2004.12265"),
    "docstring": Family(
        repeats.docstring, "Heimersheim and Janiak 2023", repeats.DOCSTRING_CORRUPTIONS, ANY
    ),
    "induction": Family(
        repeats.induction, "Olsson et al. 2022, arXiv:2209.11895", repeats.REPEAT_CORRUPTIONS, WHOLE
    ),
    "repeated-tokens": Family(
        repeats.repeated_tokens,
        "Olsson et al. 2022, arXiv:2209.11895",
        repeats.REPEAT_CORRUPTIONS,
        WHOLE,
    ),
    "name-completion": Family(people.name_completion, "Elhage et al. 2021"),
    "facts": Family(recall.facts, "Huang et al. 2024, arXiv:2402.17700", forms=ANY),
    "languages": Family(recall.languages, "Huang et al. 2024, arXiv:2402.17700", forms=ANY),
    "opposites": Family(recall.opposites, "Todd et al. 2023, arXiv:2310.15213", forms=ANY),
    "coloured-objects": Family(
        sentences.coloured_objects,
        "Wiegreffe et al. 2024, arXiv:2407.15018",
        sentences.CHOICE_CORRUPTIONS,
    ),
    "addition": Family(
        numbers.addition,
        "Stolfo et al. 2023, arXiv:2305.15054",
        numbers.ARITHMETIC_CORRUPTIONS,
        ARITHMETIC,
    ),
    "subtraction": Family(
        numbers.subtraction,
        "Stolfo et al. 2023, arXiv:2305.15054",
        numbers.ARITHMETIC_CORRUPTIONS,
        ARITHMETIC,
    ),
    "sentiment": Family(sentences.sentiment, "Tigges et al. 2023, arXiv:2310.15154"),
}

GENERATORS: dict[str, Generator] = {name: family.generate for name, family in FAMILIES.items()}

KNOWN_AS = {
    "capitals": "facts",
    "countries": "facts",
    "pronouns": "gendered-pronouns",
    "gender": "gendered-pronouns",
    "agreement": "subject-verb-agreement",
    "sva": "subject-verb-agreement",
    "gt": "greater-than",
    "years": "greater-than",
    "indirect-object": "ioi",
    "names": "ioi",
    "antonyms": "opposites",
    "arithmetic": "addition",
    "colors": "coloured-objects",
    "colored-objects": "coloured-objects",
}
"""What others call tasks, for messages."""


def unknown_task(name: str, generators: Iterable[str], otherwise: str = "") -> str:
    """The message about a name that no task has: which there are, and which was probably meant."""
    family, known = name.partition(":")[0], list(generators)
    also = {theirs: ours for theirs, ours in KNOWN_AS.items() if ours in known}
    guess = meant(family, known, also)
    return f"no task named {name!r}; there are {', '.join(known)}{otherwise}{guess}"


def generate(
    name: str,
    tokenizer: Tokenizer,
    n: int,
    seed: int = 0,
    *,
    generators: Mapping[str, Generator] = GENERATORS,
) -> Task:
    """The task of a name, in a form or by a corruption if they follow: `facts:any`, `ioi:swap`.

    Underscores count as hyphens.

    Raises:
        ValueError: if there is no task, form or corruption of this name, or the tokenizer does not
            offer what the task needs.
    """
    family, *parts = name.replace("_", "-").split(":")
    if family not in generators:
        raise ValueError(unknown_task(name, generators))
    make, origin = generators[family], {"task": name, "n": n, "seed": seed}
    keywords = _keywords(family, parts, make)
    task = make(tokenizer, n, seed, **keywords)  # pyright: ignore[reportCallIssue]
    return replace(task, origin=origin)


def _keywords(family: str, parts: Sequence[str], make: Generator) -> dict[str, object]:
    """What the words behind a task's name ask of its generator.

    Raises:
        ValueError: if there is no such form, and no corruption, or two of them.
    """
    forms = FAMILIES[family].forms if family in FAMILIES else {}
    corruptions = [part for part in parts if part not in forms]
    named = [part for part in parts if part in forms]
    also = f"; its forms are {', '.join(f'{family}:{form}' for form in forms)}" if forms else ""
    if corruptions and "corruption" not in inspect.signature(make).parameters:
        left = "".join(f":{part}" for part in corruptions)
        raise ValueError(f"the task {family!r} has but one corruption; leave off {left!r}{also}")
    if len(corruptions) > 1 or len(named) > 1:
        told = " and ".join(map(repr, corruptions if len(corruptions) > 1 else named))
        raise ValueError(f"the task {family!r} takes one corruption and one form; got {told}{also}")
    found = dict(forms[named[0]]) if named else {}
    return found | ({"corruption": corruptions[0]} if corruptions else {})
