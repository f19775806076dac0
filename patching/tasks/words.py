"""The words that generated prompts are made of, and which of them a tokenizer keeps whole."""

import re
from collections.abc import Sequence

from patching.tasks.capitals import CAPITALS as CAPITALS
from patching.tasks.tokens import Tokenizer, encode_prompt

_FIELD = re.compile(r"\{\w+\}")


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
GIRLS = from_text(
    """
    Mary Anna Lucy Emma Rose Kate Jane Alice Laura Ella Grace Lily Karen Maria Sarah Ruth Amy Lisa
    Susan Linda Sue Emily
    """
)
BOYS = from_text(
    """
    John Tom Paul Mark Jack Adam Luke Ben Dan Fred Hugo James Leo Nick Peter David Steve Victor Tim
    Timmy Kevin Michael
    """
)
COLOURS = from_text("red blue green yellow black white brown gray pink purple orange silver gold")
THINGS = from_text("box cup pen ball hat car bag chair book key door lamp coat plate ring")
FUNCTIONS = from_text("load save make run read write draw find sort plot")
ARGUMENTS = from_text(
    """
    x y z size name path value count mode index shape seed order limit color width depth token text
    file
    """
)
LONG_ARGUMENTS = from_text(
    """
    max_depth file_name batch_size learning_rate n_steps num_layers output_path random_seed is_valid
    start_index line_width base_url
    """
)
FILLERS = from_text(
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
LANGUAGES = (
    ("France", "French"),
    ("Germany", "German"),
    ("Italy", "Italian"),
    ("Spain", "Spanish"),
    ("Japan", "Japanese"),
    ("China", "Chinese"),
    ("Russia", "Russian"),
    ("Greece", "Greek"),
    ("England", "English"),
    ("Portugal", "Portuguese"),
    ("Poland", "Polish"),
    ("Sweden", "Swedish"),
    ("Denmark", "Danish"),
    ("Finland", "Finnish"),
    ("Turkey", "Turkish"),
    ("Hungary", "Hungarian"),
    ("Thailand", "Thai"),
    ("Vietnam", "Vietnamese"),
    ("Norway", "Norwegian"),
    ("Bulgaria", "Bulgarian"),
    ("Mexico", "Spanish"),
    ("Brazil", "Portuguese"),
    ("Argentina", "Spanish"),
    ("Austria", "German"),
    ("Egypt", "Arabic"),
    ("Iraq", "Arabic"),
    ("Cuba", "Spanish"),
    ("Korea", "Korean"),
)
OPPOSITES = (
    ("hot", "cold"),
    ("big", "small"),
    ("good", "bad"),
    ("happy", "sad"),
    ("old", "young"),
    ("fast", "slow"),
    ("rich", "poor"),
    ("strong", "weak"),
    ("light", "dark"),
    ("high", "low"),
    ("long", "short"),
    ("hard", "soft"),
    ("wet", "dry"),
    ("full", "empty"),
    ("early", "late"),
    ("open", "closed"),
    ("true", "false"),
    ("black", "white"),
    ("left", "right"),
    ("first", "last"),
    ("clean", "dirty"),
    ("loud", "quiet"),
)
REVIEWED = from_text("movie film book song show play game story")
FEELINGS = {
    "good": {
        "adjectives": from_text(
            """
            perfect fantastic delightful lovely brilliant charming superb splendid beautiful
            excellent incredible outstanding remarkable terrific
            """
        ),
        "verbs": from_text("loved enjoyed liked adored admired"),
        "verdicts": from_text("great good amazing wonderful awesome"),
    },
    "bad": {
        "adjectives": from_text(
            """
            disgusting dreadful miserable boring stupid ugly nasty pathetic ridiculous disappointing
            annoying offensive dull poor
            """
        ),
        "verbs": from_text("hated disliked loathed despised detested"),
        "verdicts": from_text("terrible bad awful horrible worse"),
    },
}


def continuing(
    tokenizer: Tokenizer, context: str, continuations: Sequence[str]
) -> dict[str, tuple[int, ...]]:
    """The continuations that leave the tokens of `context` as they are, and the tokens they add.

    None of them is the unknown one.
    """
    before = encode_prompt(tokenizer, context)
    unknown, n = getattr(tokenizer, "unk_token_id", None), len(before)
    together = {text: encode_prompt(tokenizer, context + text) for text in continuations}
    return {
        text: ids[n:]
        for text, ids in together.items()
        if ids[:n] == before and ids[n:] and unknown not in ids[n:]
    }


def single_tokens(
    tokenizer: Tokenizer, context: str, continuations: Sequence[str]
) -> dict[str, int]:
    """The continuations that add exactly one token to `context`, not the unknown one, and it."""
    found = continuing(tokenizer, context, continuations)
    return {text: ids[0] for text, ids in found.items() if len(ids) == 1}


def is_single(tokenizer: Tokenizer, context: str, continuation: str) -> bool:
    """Whether `continuation` adds exactly one token to `context`, and not the unknown token."""
    return bool(single_tokens(tokenizer, context, (continuation,)))


def single_words(
    tokenizer: Tokenizer,
    words: Sequence[str],
    context: str,
    *,
    need: int,
    what: str,
    several: bool = False,
) -> tuple[str, ...]:
    """The words that are one token (or `several`) after `context` and a space.

    Raises:
        ValueError: if fewer than `need` are left; `what` names them there.
    """
    cut = continuing if several else single_tokens
    kept = cut(tokenizer, context, [f" {word}" for word in words])
    left = tuple(word for word in words if f" {word}" in kept)
    require_enough(len(left), len(words), need=need, what=what)
    return left


def single_pairs(
    tokenizer: Tokenizer,
    pairs: Sequence[tuple[str, str]],
    contexts: tuple[str, str],
    *,
    need: int,
    what: str,
    several: bool = False,
) -> tuple[tuple[str, str], ...]:
    """The pairs whose first and second word are one token after the first and second context.

    Or `several` tokens, if they may be.

    Raises:
        ValueError: if fewer than `need` are left; `what` names them there.
    """
    cut = continuing if several else single_tokens
    first, second = (
        cut(tokenizer, context, [f" {pair[i]}" for pair in pairs])
        for i, context in enumerate(contexts)
    )
    left = tuple((a, b) for a, b in pairs if f" {a}" in first and f" {b}" in second)
    require_enough(len(left), len(pairs), need=need, what=what)
    return left


def spelled(
    tokenizer: Tokenizer, texts: Sequence[str], *, what: str, need: int = 1
) -> tuple[str, ...]:
    """The texts without the unknown token: words and templates that both prompts share.

    What stands in braces is not looked at. Tokenizers that cut words spell everything.

    Raises:
        ValueError: if fewer than `need` are left; `what` names them there.
    """
    unknown = getattr(tokenizer, "unk_token_id", None)
    left = tuple(
        text
        for text in texts
        if unknown not in tokenizer.encode(_FIELD.sub("", text), add_special_tokens=False)
    )
    require_enough(len(left), len(texts), need=need, what=what)
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
