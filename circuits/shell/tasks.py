"""`circuits tasks`: the tasks there are, and what a model's tokenizer leaves of their words."""

from argparse import Namespace
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from patching.tasks import Tokenizer
    from patching.tasks.generators import Generator


def tasks(args: Namespace) -> None:
    """Print the tasks; with `--model`, how many of their words its tokenizer keeps whole.

    Raises:
        ValueError: if the model has no tokenizer.
    """
    from circuits.shell.inputs import open_tokenizer
    from circuits.shell.names import generators
    from patching.tasks import FAMILIES, FORMATS, Family

    tokenizer = None if args.model is None else open_tokenizer(args)
    for name, generator in generators().items():
        family = FAMILIES.get(name) or Family(generator, "")
        print(name)
        source = f" ({family.source})" if family.source else ""
        print(f"    {family.asks}{source}")
        if family.corruptions:
            first, *others = family.corruptions
            named = ", ".join([f"{first} (default)", *(f"{name}:{other}" for other in others)])
            print(f"    corruptions: {named}")
        if family.forms:
            print(f"    forms: {', '.join(f'{name}:{form}' for form in family.forms)}")
        if tokenizer is not None:
            print(f"    {_left(name, generator, tokenizer)}")
    print("\nFiles (--task FILE):")
    for name, known in FORMATS.items():
        print(f"  {name}: {known.needs}")
    print("  text: a .txt file; every next token is asked, and the metric is minus the loss")


def _left(name: str, generator: "Generator", tokenizer: "Tokenizer") -> str:
    """The words that are left for a tokenizer, or why they are too few."""
    try:
        words = generator(tokenizer, 1, 0).extra.get("words")
    except ValueError as error:
        reason = str(error).partition(";")[0].replace(f" for the task {name!r}", "")
        return f"not for this tokenizer: {reason.replace('this tokenizer offers ', '')}"
    return f"words left: {_counts(words)}" if isinstance(words, Mapping) else "words left: all"


def _counts(words: "Mapping[str, Sequence[int]]") -> str:
    return ", ".join(f"{left} of {total} {kind}" for kind, (left, total) in words.items())
