"""The task that `toy-context` is made for: a context that names another city by two words.

Neither word alone says which city is meant ("the second city of the East"), so that sums of what
attention moves cannot name it: something nonlinear must put the two together.
"""

from patching.models.toy_tasks import contradicted
from patching.tasks import words
from patching.tasks.sampling import Generator
from patching.tasks.task import Task
from patching.tasks.tokens import Tokenizer

ORDINALS = words.from_text("first second third fourth fifth sixth seventh eighth")
REGIONS = words.from_text("North South East West Centre")


def indirect_conflict(tokenizer: Tokenizer, n: int, seed: int = 0) -> Task:
    """Indirect conflict: the context gives a country another capital, by number and region.

    Which city is the second of the East is by convention: capitals are numbered in the order of
    the list of countries, eight to a region. The answer is the city meant, the wrong answer the
    memorised capital; in the corrupt prompt the context agrees with memory.

    Raises:
        ValueError: if fewer than two countries and their capitals are single tokens, or `n` is
            less than 1.
    """
    return contradicted(tokenizer, n, seed, name="indirect-conflict", said=described)


CONTEXT_GENERATORS: dict[str, Generator] = {"indirect-conflict": indirect_conflict}


def described(city: str) -> str:
    """A city by number and region.

    >>> described("Tokyo")
    'the fifth city of the North'
    """
    place = [capital for _, capital in words.CAPITALS].index(city)
    region, number = divmod(place, len(ORDINALS))
    return f"the {ORDINALS[number]} city of the {REGIONS[region]}"
