"""One row of EAP-IG's, MIB's and feature-circuits' files as a prompt. Knows no files."""

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import patching.tasks.words as words
from patching.files.parsing import parse_literal, shown
from patching.tasks.prompt import Answer, Prompt
from patching.tasks.tokens import (
    TextPrompt,
    Tokenizer,
    encode_answer,
    encode_prompt,
    to_prompt,
)

Row = Mapping[str, object]
Answers = tuple[Answer, ...]

ID_COLUMNS = (
    ("correct_idx", "incorrect_idx"),
    ("answers_idx", "corrupted_answers_idx"),
    ("country_idx", "corrupted_country_idx"),
    ("clean_answer_idx", "corrupted_answer_idx"),
)
MIB_DEFAULTS = ("s2_io_flip_counterfactual", "symbol_counterfactual", "random_counterfactual")
FEATURE_CIRCUITS = ("clean_prefix", "patch_prefix", "clean_answer", "patch_answer")
_SUFFIX = "_counterfactual"
_YEARS = ("correct_idx", "year", "label")
_WHOLE = re.compile(r"\.0+$")


@dataclass(frozen=True)
class Reading:
    """What rows are read with; `digits` remembers the year tokens after an ending.

    `other_ids` counts, by column, rows whose token ids are not those of their text.
    """

    tokenizer: Tokenizer | None
    counterfactual: str | None = None
    first_token: bool = False
    digits: dict[str, dict[str, int]] = field(default_factory=dict)
    other_ids: Counter[str] = field(default_factory=Counter)

    @property
    def words(self) -> Tokenizer:
        """The tokenizer.

        Raises:
            ValueError: if there is none.
        """
        if self.tokenizer is None:
            raise ValueError("the file holds text, and the model has no tokenizer")
        return self.tokenizer


def eap_ig_row(row: Row, reading: Reading) -> Prompt:
    """A row of EAP-IG: texts `clean` and `corrupted`, and a label of one of its forms.

    Answers that are right for both prompts (hypernyms may be) count for neither.

    Raises:
        ValueError: if a field is missing or not of its form.
    """
    column = reading.counterfactual or "corrupted"
    texts = [row.get(name) for name in ("clean", column)]
    for name, text in zip(("clean", column), texts, strict=True):
        if not isinstance(text, str):
            raise ValueError(f"lacks the text {name}; it has {', '.join(row)[:200]}")
    clean, corrupt = map(str, texts)
    right, wrong = _labels(row, clean, reading)
    both = {*right} & {*wrong}
    return Prompt(
        clean=encode_prompt(reading.words, clean),
        corrupt=encode_prompt(reading.words, corrupt),
        answers=tuple(i for i in right if i not in both),
        wrong_answers=tuple(i for i in wrong if i not in both),
        extra={**row, "clean_text": clean, "corrupt_text": corrupt},
    )


def feature_circuits_row(row: Row, reading: Reading) -> Prompt:
    """A row of feature-circuits (Marks et al. 2024, arXiv:2403.19647): two prefixes, two answers.

    Raises:
        ValueError: if a text is missing, or an answer does not continue its prompt.
    """
    for name in FEATURE_CIRCUITS:
        if not isinstance(row.get(name), str):
            raise ValueError(f"lacks the text {name}; it has {', '.join(row)[:200]}")
    clean, corrupt, right, wrong = (str(row[name]) for name in FEATURE_CIRCUITS)
    text = TextPrompt(clean, corrupt, (right,), (wrong,))
    prompt = to_prompt(reading.words, text, first_token=reading.first_token)
    rest = {key: value for key, value in row.items() if key not in FEATURE_CIRCUITS}
    return replace(prompt, extra={**prompt.extra, **rest})


def mib_row(row: Row, reading: Reading) -> Prompt:
    """A row of MIB: a prompt and one of its counterfactuals, both with choices or a label.

    Right is the row's own choice, wrong the one of the counterfactual; where the choices are names
    (or both are the same), wrong are all others. Answers continue the prompt, after a space unless
    it ends in one; MIB's own code looks each of them up alone.

    Raises:
        ValueError: if a field is missing or not of its form, or an answer does not continue its
            prompt.
    """
    other = _counterfactual(row, reading.counterfactual)
    clean, corrupt = row.get("prompt"), other.get("prompt")
    if not isinstance(clean, str) or not isinstance(corrupt, str):
        raise ValueError("lacks the text prompt, or its counterfactual does")
    options, right = _answer(row)
    wrong = (_answer(other)[1],)
    if wrong == (right,) or isinstance(row.get("choices"), list):
        wrong = tuple(option for option in options if option != right)
    gap = "" if clean[-1:].isspace() else " "
    text = TextPrompt(
        clean,
        corrupt,
        (_after(gap, right),),
        tuple(_after(gap, answer) for answer in wrong),
    )
    prompt = to_prompt(reading.words, text, first_token=reading.first_token)
    return Prompt(
        prompt.clean,
        prompt.corrupt,
        prompt.answers,
        prompt.wrong_answers,
        extra={**prompt.extra, **row},
    )


def _labels(row: Row, clean: str, reading: Reading) -> tuple[Answers, Answers]:
    """Right and wrong token ids, from whichever label the row has.

    Raises:
        ValueError: if it has none, or one not of its form.
    """
    for right, wrong in ID_COLUMNS:
        if right in row and wrong in row:
            return _as_said(row, right, clean, reading), _as_said(row, wrong, clean, reading)
    year = next((name for name in _YEARS if name in row), None)
    if year is not None:
        return _years(row[year], clean, reading)
    if "plural" in row:
        return _verbs(row["plural"], clean, reading)
    wanted = "; ".join(", ".join(pair) for pair in ID_COLUMNS)
    raise ValueError(
        f"lacks a label: {wanted}; correct_idx, year or label (greater-than); or plural (agreement)"
    )


def _as_said(row: Row, column: str, clean: str, reading: Reading) -> Answers:
    """The ids in a column; where `country` says `country_idx` as text, of that if they differ.

    Raises:
        ValueError: if the column is no list of ids.
    """
    ids, said = read_ids(row[column]), row.get(column.removesuffix("_idx"))
    if not isinstance(said, str | list):
        return ids
    gap = "" if clean[-1:].isspace() else " "
    texts = [_after(gap, str(text)) for text in _several(said)]
    firsts = [encode_answer(reading.words, clean, text, first_token=True) for text in texts]
    if 2 * len({*firsts} & {*ids}) >= min(len({*firsts}), len({*ids})):
        return ids
    reading.other_ids[column] += 1
    if reading.first_token:
        return tuple(firsts)
    return tuple(encode_answer(reading.words, clean, text) for text in texts)


def _several(said: str | list) -> list[object]:
    """Texts of a cell: one, or a list of them as Python prints it."""
    found = parse_literal(said) if isinstance(said, str) and said.startswith("[") else said
    return found if isinstance(found, list) else [found]


def read_ids(cell: object) -> Answers:
    """Token ids: one, a list, or either as text (`[318, 373]`; a spreadsheet's `318.0`, too).

    In a list, answers of several tokens are lists (`[[318, 11], 373]`).

    Raises:
        ValueError: if it is none of these.
    """
    listed = parse_literal(cell) if isinstance(cell, str) and cell.count("[") > 1 else cell
    if isinstance(listed, list) and any(isinstance(part, list) for part in listed):
        return tuple(_ids(part) if isinstance(part, list) else _ids(part)[0] for part in listed)
    return _ids(cell)


def _ids(cell: object) -> tuple[int, ...]:
    parts = cell if isinstance(cell, list) else str(cell).strip().strip("[]()").split(",")
    try:
        return tuple(int(_WHOLE.sub("", str(part))) for part in parts if str(part).strip())
    except ValueError:
        raise ValueError(f"{shown(cell)} is not a token id or a list of them") from None


def _years(label: object, clean: str, reading: Reading) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Two-digit tokens above the start year, and the others.

    Raises:
        ValueError: if the label is no year, or no later year is a token after the prompt.
    """
    year = str(label).strip().removesuffix(".0")[-2:].zfill(2)
    if year not in words.TWO_DIGITS:
        raise ValueError(f"the year {shown(label)} is not a number of two or four digits")
    ending = clean.rsplit(" ", 1)[-1]
    if ending not in reading.digits:
        reading.digits[ending] = words.single_tokens(reading.words, clean, words.TWO_DIGITS)
    ids = reading.digits[ending]
    right = tuple(token for digits, token in ids.items() if digits > year)
    if not right:
        raise ValueError(
            f"no two digits above {year} are one token after {ending!r} with this tokenizer"
        )
    return right, tuple(token for digits, token in ids.items() if digits <= year)


def _verbs(label: object, clean: str, reading: Reading) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The verb forms of the subject's number, and those of the other.

    Raises:
        ValueError: if the label is neither 0 nor 1, or no verb has two single-token forms.
    """
    number = str(label).strip()
    if number not in ("0", "1"):
        raise ValueError(f"plural is 0 or 1, got {shown(label)}")
    what = f"single-token verb pairs after ...{clean[-20:]!r}"
    verbs = words.single_pairs(reading.words, words.VERBS, (clean, clean), need=1, what=what)
    singular, plural = (
        tuple(words.single_tokens(reading.words, clean, [f" {verb[i]}" for verb in verbs]).values())
        for i in (0, 1)
    )
    return (plural, singular) if number == "1" else (singular, plural)


def _counterfactual(row: Row, name: str | None) -> Row:
    present = [key for key in row if key.endswith(_SUFFIX)]
    wanted = MIB_DEFAULTS if name is None else (name, f"{name}{_SUFFIX}")
    found = next((key for key in wanted if key in present), None)
    if found is None:
        asked = "none of its own evaluation" if name is None else repr(name)
        raise ValueError(
            f"no such counterfactual ({asked}); give counterfactual= one of "
            f"{', '.join(present)[:200]}"
        )
    record = row[found]
    if not isinstance(record, Mapping):
        raise ValueError(
            f"its {found} is empty" if record in (None, "") else f"{found}: {shown(record)}"
        )
    return {str(key): value for key, value in record.items()}


def _answer(record: Row) -> tuple[tuple[str, ...], str]:
    """All options, and the right one.

    Raises:
        ValueError: if the record has no label, nor choices with the place of the right one.
    """
    if record.get("label") is not None and "choices" not in record:
        return (), str(record["label"])
    choices, key = record.get("choices"), record.get("answerKey")
    labels = choices.get("label") if isinstance(choices, Mapping) else choices
    if not isinstance(labels, list) or str(key) not in map(str, range(len(labels))):
        raise ValueError(
            f"needs a label, or choices and the place of the right one; got {shown(key)}"
        )
    options = tuple(str(label) for label in labels)
    return options, options[int(str(key))]


def _after(gap: str, answer: str) -> str:
    return answer if answer[:1].isspace() else gap + answer
