"""The words that generated prompts are made of, and which of them a tokenizer keeps whole."""

from collections.abc import Sequence

from patching.tasks.tokens import Tokenizer, encode_prompt


def from_text(text: str) -> tuple[str, ...]:
    """The words of a text."""
    return tuple(text.split())


NAMES = from_text(
    """
    Mary John Tom Anna Paul Lucy Mark Emma Jack Rose Adam Kate Luke Jane Sam Alice Ben Laura Dan
    Ella Fred Grace Hugo Lily James Karen Leo Maria Nick Sarah Peter David Ruth Steve Amy Victor Tim
    Timmy Lisa Kevin
    """
)
PLACES = from_text(
    "store park school beach office house restaurant garden station museum hospital market"
)
OBJECTS = from_text("drink ring book ball key flower snack letter basket computer necklace bone")
EVENTS = from_text(
    """
    war siege trip project voyage campaign reign festival expedition famine tour trial strike debate
    journey program
    """
)
CENTURIES = tuple(str(century) for century in range(11, 20))
TWO_DIGITS = tuple(f"{number:02d}" for number in range(100))
NOUNS = tuple(
    (noun, noun + "s")
    for noun in from_text(
        """
        key boy girl dog cat teacher doctor farmer king author driver singer player student manager
        officer
        """
    )
)
PREPOSITIONS = from_text("near behind beside with above")
VERBS = (
    ("is", "are"),
    ("was", "were"),
    ("has", "have"),
    ("likes", "like"),
    ("wants", "want"),
    ("runs", "run"),
)


def is_single(tokenizer: Tokenizer, context: str, continuation: str) -> bool:
    """Whether `continuation` adds exactly one token to `context`, and not the unknown token."""
    before = encode_prompt(tokenizer, context)
    together = encode_prompt(tokenizer, context + continuation)
    unknown = getattr(tokenizer, "unk_token_id", None)
    return together[:-1] == before and together[-1] != unknown


def single_words(
    tokenizer: Tokenizer, words: Sequence[str], context: str, *, need: int, what: str
) -> tuple[str, ...]:
    """The words that are one token after `context` and a space.

    Raises:
        ValueError: if fewer than `need` are left; `what` names them there.
    """
    left = tuple(word for word in words if is_single(tokenizer, context, f" {word}"))
    require_enough(len(left), len(words), need=need, what=what)
    return left


def single_pairs(
    tokenizer: Tokenizer,
    pairs: Sequence[tuple[str, str]],
    contexts: tuple[str, str],
    *,
    need: int,
    what: str,
) -> tuple[tuple[str, str], ...]:
    """The pairs whose first and second word are one token after the first and second context.

    Raises:
        ValueError: if fewer than `need` are left; `what` names them there.
    """
    left = tuple(
        pair
        for pair in pairs
        if all(is_single(tokenizer, c, f" {word}") for c, word in zip(contexts, pair, strict=True))
    )
    require_enough(len(left), len(pairs), need=need, what=what)
    return left


def require_enough(left: int, total: int, *, need: int, what: str) -> None:
    """Refuse a tokenizer that cuts too many words.

    Raises:
        ValueError: if fewer than `need` are left.
    """
    if left < need:
        raise ValueError(
            f"too few {what}: this tokenizer offers {left} of {total}, and at least {need} must be "
            "left; choose another task or another tokenizer"
        )
