"""Prompts in the files of other tools: auto-circuit, EAP-IG, MIB, feature-circuits.

Says which of them a file is, reads its rows and names those that cannot be used. How one row of the
last three becomes a prompt stands in `published`.
"""

import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from patching.files.parsing import naming, shown
from patching.tasks.files import need_tokenizer, own_name, read_json_row
from patching.tasks.foreign import refuse_foreign
from patching.tasks.prompt import told_of
from patching.tasks.published import (
    FEATURE_CIRCUITS,
    Reading,
    eap_ig_row,
    feature_circuits_row,
    mib_row,
)
from patching.tasks.rows import read_rows
from patching.tasks.span_files import with_spans
from patching.tasks.task import FAULTS, Prompt, Task
from patching.tasks.texts import from_text
from patching.tasks.tokens import Tokenizer

SHOWN = 5

_READERS = {"eap-ig": eap_ig_row, "mib": mib_row, "feature-circuits": feature_circuits_row}


@dataclass(frozen=True)
class Format:
    """How to know a format by its rows, and what it needs, in words."""

    fits: Callable[[Mapping[str, object]], bool]
    needs: str


def _is_mib(row: Mapping[str, object]) -> bool:
    return "prompt" in row and any(key.endswith("_counterfactual") for key in row)


FORMATS: dict[str, Format] = {
    "auto-circuit": Format(
        lambda row: {"clean", "corrupt", "answers"} <= {*row},
        '{"prompts": [{"clean", "corrupt", "answers", "wrong_answers"}, ...]}',
    ),
    "eap-ig": Format(
        lambda row: {"clean", "corrupted"} <= {*row},
        "columns clean, corrupted, and correct_idx, incorrect_idx or another label",
    ),
    "mib": Format(_is_mib, "fields prompt, choices or label, and ..._counterfactual"),
    "feature-circuits": Format(
        lambda row: {*FEATURE_CIRCUITS} <= {*row}, f"fields {', '.join(FEATURE_CIRCUITS)}"
    ),
}


def from_file(
    path: str | Path,
    tokenizer: Tokenizer | None = None,
    format: str | None = None,  # noqa: A002  (the word users know)
    *,
    counterfactual: str | None = None,
    first_token: bool = False,
    drop: bool = False,
) -> Task:
    """A task from a file of prompts: JSON, JSON lines, CSV or parquet, in a published form.

    - `auto-circuit`: as `from_json`; `word_idxs` and `seq_labels` are kept in the task's `extra`.
    - `eap-ig` (Hanna et al. 2024, arXiv:2403.17806): `clean`, `corrupted`, and as labels token ids
      in `correct_idx` and `incorrect_idx` (or `answers_idx`, `country_idx`, `clean_answer_idx` and
      their `corrupted_` partners; where `country` says `country_idx` as text and ids are another
      tokenizer's, the text is taken), the start year's two digits in `correct_idx` alone, `year` or
      `label` (greater-than), or 0 and 1 in `plural` (agreement).
    - `mib` (Mueller et al. 2025, arXiv:2504.13151): rows of the circuit-localisation track as the
      `datasets` library writes them: `prompt`, `choices` with `answerKey` or `label`, and a record
      of the same fields for each counterfactual.
    - `feature-circuits` (Marks et al. 2024, arXiv:2403.19647): `clean_prefix`, `patch_prefix`, and
      `clean_answer`, `patch_answer` as they continue them.

    A plain text (`.txt`) is read as `from_text` does.

    Args:
        path: the file.
        tokenizer: for texts; files of token ids need none.
        format: one of these, by default told from the rows.
        counterfactual: the field to take the corrupt prompt from where there are several: by
            default `corrupted` in EAP-IG's files; in MIB's `s2_io_flip`, `symbol` or `random`,
            those of its own evaluation.
        first_token: score the first token of answers that have several.
        drop: leave out rows that cannot be used, and warn, instead of refusing the file.

    Raises:
        ValueError: if the file is of no known form, its ids are another tokenizer's, or it has rows
            that cannot be used; those are named, counted from 0.
    """
    if Path(path).suffix == ".txt" and format is None:
        return from_text(path, need_tokenizer(tokenizer))
    rows = open_rows(path, tokenizer, format, counterfactual=counterfactual)
    prompts: dict[int, Prompt] = {}
    bad: dict[int, str] = {}
    for i in range(len(rows)):
        try:
            prompts[i] = _sound(rows.prompt(i, first_token=first_token))
        except ValueError as error:
            bad[i] = str(error)
    if bad and not (drop and prompts):
        raise ValueError(f"{path}: {_report(bad, len(rows))}{'' if drop else _HINT}")
    if bad:
        warnings.warn(f"{path}: left out {_report(bad, len(rows))}", stacklevel=1)
    with naming(path):
        rows.require_own_ids(prompts)
    extra = {**rows.rest, "dropped": sorted(bad)} if bad else rows.rest
    origin = {"file": str(path), "format": rows.format, "counterfactual": counterfactual}
    origin |= {"first_token": first_token, "drop": drop}
    with naming(path):
        return Task(rows.name, tuple(prompts.values()), extra=extra, origin=origin)


@dataclass(frozen=True)
class Rows:
    """The rows of a file in one of `FORMATS`, each made a prompt when it is asked for.

    `rest` is what else the file says.
    """

    path: Path
    name: str
    format: str
    rows: Sequence[object]
    rest: Mapping[str, object]
    reading: Reading

    def __len__(self) -> int:
        return len(self.rows)

    def prompt(self, i: int, *, first_token: bool = False) -> Prompt:
        """The prompt of a row; whether a task may hold it is not asked.

        Raises:
            ValueError: saying what is wrong with the row, without its number.
        """
        reading = replace(self.reading, first_token=first_token)
        return _row(self.format, self.path, i, self.rows[i], reading)

    def require_own_ids(self, prompts: Mapping[int, Prompt]) -> None:
        """Refuse token ids of another tokenizer, by the rows' texts; say which were mended by them.

        Raises:
            ValueError: if more than a few rows hold ids that do not fit.
        """
        for column, n in self.reading.other_ids.items():
            warnings.warn(
                f"{self.path}: {column} holds ids of another tokenizer in {n} of {len(self)} rows; "
                f"what {column.removesuffix('_idx')} says is taken",
                stacklevel=2,
            )
        texts = {i: _text(self.rows[i]) for i in prompts}
        known = ((i, text, prompts[i]) for i, text in texts.items() if text is not None)
        try:
            refuse_foreign(self.reading.tokenizer, known)
        except ValueError as error:
            raise ValueError(f"{self.path}: {error}") from None


def open_rows(
    path: str | Path,
    tokenizer: Tokenizer | None = None,
    format: str | None = None,  # noqa: A002  (the word users know)
    *,
    counterfactual: str | None = None,
) -> Rows:
    """The rows of a file, as `from_file` reads them, none refused yet.

    Raises:
        ValueError: if the file is of no known form.
    """
    path = Path(path)
    rows, rest = read_rows(path, lambda row: any(known.fits(row) for known in FORMATS.values()))
    known = _recognise(path, rows) if format is None else format
    if known not in FORMATS:
        raise ValueError(f"no format {format!r}; there are {', '.join(FORMATS)}")
    reading = Reading(tokenizer, counterfactual, first_token=False)
    return Rows(path, own_name(path, rest), known, rows, rest, reading)


_HINT = "; drop=True (--drop-rows) leaves them out"


def _text(row: object) -> str | None:
    """The clean prompt of a row as text, where it stands beside token ids."""
    found = (row.get("clean_text") or row.get("clean")) if isinstance(row, Mapping) else None
    return found if isinstance(found, str) else None


def _recognise(path: Path, rows: Sequence[object]) -> str:
    if not rows:
        raise ValueError(f"{path} has no prompts; at least one is needed")
    for name, known in FORMATS.items():
        if any(isinstance(row, Mapping) and known.fits(row) for row in rows[:SHOWN]):
            return name
    needed = "; ".join(f"{name}: {known.needs}" for name, known in FORMATS.items())
    first = next((row for row in rows if isinstance(row, Mapping)), {})
    found = ", ".join(map(str, first))[:200] or "no fields"
    raise ValueError(f"cannot tell the format of {path} (its first row has {found}). {needed}")


def _row(name: str, path: Path, i: int, row: object, reading: Reading) -> Prompt:
    """The prompt of a row.

    Raises:
        ValueError: saying what is wrong with the row, without its number.
    """
    if name == "auto-circuit":
        try:
            return read_json_row(path, i, row, reading.tokenizer, first_token=reading.first_token)
        except ValueError as error:
            raise ValueError(str(error).removeprefix(f"{path}: row {i}").lstrip(": ")) from None
    if row is None:
        raise ValueError("more or fewer cells than the header")
    if not isinstance(row, Mapping):
        raise ValueError(f"not an object with fields, but {shown(row)}")
    return with_spans(row, reading.tokenizer, partial(_read, name, reading))


def _read(name: str, reading: Reading, row: Mapping[str, object]) -> Prompt:
    return _READERS[name](row, reading)


def _sound(prompt: Prompt) -> Prompt:
    """The prompt, if a task may hold it.

    Raises:
        ValueError: if not, saying why.
    """
    for what, is_bad in FAULTS.items():
        if is_bad(prompt):
            told = told_of(what, prompt)
            raise ValueError(f"{what} ({told})" if told else what)
    return prompt


def _report(bad: Mapping[int, str], n: int) -> str:
    """How many rows, and by reason: which."""
    reasons = Counter(bad.values())
    shown = []
    for reason, _ in reasons.most_common(SHOWN):
        rows = [i for i, why in bad.items() if why == reason]
        more = ", ..." if len(rows) > SHOWN else ""
        shown.append(f"row {', '.join(map(str, rows[:SHOWN]))}{more}: {reason}")
    more = f"; {len(reasons) - SHOWN} more reasons" if len(reasons) > SHOWN else ""
    return f"{len(bad)} of {n} rows that cannot be used: {'; '.join(shown)}{more}"
