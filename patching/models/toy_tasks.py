"""Four more task families the toy model is trained on; they work with other tokenizers too.

Built like `patching.tasks.generators`: a text function draws one pair, a task generator encodes.
"""

import random
from collections.abc import Sequence

from patching.tasks import words
from patching.tasks.generators import Generator, draw
from patching.tasks.task import Task
from patching.tasks.tokens import TextPrompt, Tokenizer, to_prompt

FUNCTIONS = words.from_text("load save make run read write draw find sort plot")
ARGUMENTS = words.from_text(
    """
    x y z size name path value count mode index shape seed order limit color width depth token text
    file
    """
)
CAPITALS = (
    ("France", "Paris"),
    ("Germany", "Berlin"),
    ("Italy", "Rome"),
    ("Spain", "Madrid"),
    ("Japan", "Tokyo"),
    ("China", "Beijing"),
    ("Russia", "Moscow"),
    ("Egypt", "Cairo"),
    ("Greece", "Athens"),
    ("England", "London"),
    ("Ireland", "Dublin"),
    ("Austria", "Vienna"),
    ("Portugal", "Lisbon"),
    ("Norway", "Oslo"),
    ("Cuba", "Havana"),
    ("Iran", "Tehran"),
    ("Iraq", "Baghdad"),
    ("Poland", "Warsaw"),
    ("Sweden", "Stockholm"),
    ("Denmark", "Copenhagen"),
    ("Finland", "Helsinki"),
    ("Turkey", "Ankara"),
    ("Kenya", "Nairobi"),
    ("Peru", "Lima"),
    ("Chile", "Santiago"),
    ("Canada", "Ottawa"),
    ("Hungary", "Budapest"),
    ("Syria", "Damascus"),
    ("Lebanon", "Beirut"),
    ("Afghanistan", "Kabul"),
    ("Thailand", "Bangkok"),
    ("Vietnam", "Hanoi"),
    ("Indonesia", "Jakarta"),
    ("Nepal", "Kathmandu"),
    ("Belgium", "Brussels"),
    ("Serbia", "Belgrade"),
    ("Bulgaria", "Sofia"),
    ("Libya", "Tripoli"),
    ("Qatar", "Doha"),
    ("Scotland", "Edinburgh"),
)
FILLERS = words.from_text(
    """
    apple arm army art baby bag bank bear bed bell bird boat body bone box bread bridge brother cake
    camp car card chair child church circle city class clock cloud coat coin corn cow cup desk door
    dream dress egg engine eye face farm father field fire fish floor food foot forest fruit game
    gate glass gold grass hair hall hand hat head heart hill hole horse ice island job juice king
    lake lamp land leaf leg light lion machine map meat milk mind mirror money moon mother mountain
    mouth music nail neck night nose ocean oil paint paper pen phone piano picture pig plane plant
    plate pool rain river road rock roof room root rope salt sand sea shadow sheep ship shirt shoe
    shop silver sister skin sky smoke snow soap song soup spoon star stone storm street sugar sun
    table tail tea tent tooth tower town toy train tree truck wall watch water wheel wind window
    wine wing winter wire wolf wood wool world yard
    """
)
FACT_TEMPLATES = (
    "The capital of {country} is",
    "The capital city of {country} is",
    "In {country}, the capital is",
)
CONFLICT_TEMPLATES = tuple(
    start + ": the capital of {country} is {told}. The capital of {country} is"
    for start in ("Context", "Report", "Note", "Story")
)
DOCSTRING_TEMPLATE = 'def {function}(self, {a}, {b}, {c}): """ :param {d}: :param {e}: :param'
INDUCTION_TEMPLATE = "List: {words}"


def docstring(tokenizer: Tokenizer, n: int, seed: int = 0) -> Task:
    """Docstring: which argument of the function is described next?

    In the corrupt prompt the function has other arguments than its docstring describes.
    Heimersheim and Janiak 2023, "A circuit for Python docstrings in a 4-layer attention-only
    transformer".

    Raises:
        ValueError: if fewer than six argument names are single tokens, or `n` is less than 1.
    """
    what = "single-token argument names for the task 'docstring'"
    names = words.single_words(tokenizer, ARGUMENTS, "def load(self,", need=6, what=what)
    return draw("docstring", n, seed, lambda rng: to_prompt(tokenizer, docstring_text(rng, names)))


def induction(tokenizer: Tokenizer, n: int, seed: int = 0) -> Task:
    """Induction: a list of random words starts again; which word is next?

    In the corrupt prompt another word stood there the first time: it is the wrong answer.
    Olsson et al. 2022, arXiv:2209.11895.

    Raises:
        ValueError: if fewer than ten words are single tokens, or `n` is less than 1.
    """
    what = "single-token words for the task 'induction'"
    pool = words.single_words(tokenizer, FILLERS, "List:", need=10, what=what)
    return draw("induction", n, seed, lambda rng: to_prompt(tokenizer, induction_text(rng, pool)))


def facts(tokenizer: Tokenizer, n: int, seed: int = 0) -> Task:
    """Facts: the capital of a country; the corrupt prompt names another country.

    Prompts repeat when `n` is large: there are three templates and forty countries.

    Raises:
        ValueError: if fewer than two countries and their capitals are single tokens, or `n` is
            less than 1.
    """
    known = _single_capitals(tokenizer, need=2, task="facts")
    return draw("facts", n, seed, lambda rng: to_prompt(tokenizer, facts_text(rng, known)))


def conflict(tokenizer: Tokenizer, n: int, seed: int = 0) -> Task:
    """Conflict: the context names another capital than the memorised one.

    The answer is the context's, the wrong answer the memorised one; in the corrupt prompt the
    context agrees with memory. Yu et al. 2023, "Characterizing mechanisms for factual recall in
    language models", arXiv:2310.15910.

    Raises:
        ValueError: if fewer than two countries and their capitals are single tokens, or `n` is
            less than 1.
    """
    known = _single_capitals(tokenizer, need=2, task="conflict")
    return draw("conflict", n, seed, lambda rng: to_prompt(tokenizer, conflict_text(rng, known)))


TOY_GENERATORS: dict[str, Generator] = {
    "docstring": docstring,
    "induction": induction,
    "facts": facts,
    "conflict": conflict,
}


def docstring_text(rng: random.Random, names: Sequence[str] = ARGUMENTS) -> TextPrompt:
    """One pair of the docstring task."""
    first, second, third, *others = rng.sample(names, 6)
    function = rng.choice(FUNCTIONS)
    clean, corrupt = (
        DOCSTRING_TEMPLATE.format(function=function, a=a, b=b, c=c, d=first, e=second)
        for a, b, c in ((first, second, third), others)
    )
    return TextPrompt(clean, corrupt, (f" {third}",), (f" {first}", f" {second}", f" {others[2]}"))


def induction_text(rng: random.Random, pool: Sequence[str] = FILLERS) -> TextPrompt:
    """One pair of the induction task: five to nine words, then some of them again."""
    *listed, other = rng.sample(pool, rng.randrange(6, 11))
    asked = rng.randrange(1, len(listed))
    changed = [*listed[:asked], other, *listed[asked + 1 :]]
    clean, corrupt = (
        INDUCTION_TEMPLATE.format(words=" ".join([*first, *listed[:asked]]))
        for first in (listed, changed)
    )
    return TextPrompt(clean, corrupt, (f" {listed[asked]}",), (f" {other}",))


def facts_text(rng: random.Random, known: Sequence[tuple[str, str]] = CAPITALS) -> TextPrompt:
    """One pair of the facts task."""
    (country, capital), (other, other_capital) = rng.sample(known, 2)
    template = rng.choice(FACT_TEMPLATES)
    clean, corrupt = (template.format(country=name) for name in (country, other))
    return TextPrompt(clean, corrupt, (f" {capital}",), (f" {other_capital}",))


def conflict_text(rng: random.Random, known: Sequence[tuple[str, str]] = CAPITALS) -> TextPrompt:
    """One pair of the conflict task."""
    (country, capital), (_, told) = rng.sample(known, 2)
    template = rng.choice(CONFLICT_TEMPLATES)
    clean, corrupt = (template.format(country=country, told=city) for city in (told, capital))
    return TextPrompt(clean, corrupt, (f" {told}",), (f" {capital}",))


def _single_capitals(tokenizer: Tokenizer, *, need: int, task: str) -> tuple[tuple[str, str], ...]:
    contexts = ("The capital of", "The capital of France is")
    what = f"single-token countries and their capitals for the task {task!r}"
    return words.single_pairs(tokenizer, CAPITALS, contexts, need=need, what=what)
