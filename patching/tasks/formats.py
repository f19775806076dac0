"""Prompts in the files of other tools: auto-circuit's JSON, EAP-IG's CSV, MIB's rows.

Says which of the three a file is, reads its rows and names those that cannot be used. How one row
of EAP-IG or MIB becomes a prompt stands in `published`.
"""

import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from patching.files.parsing import parse_json, parse_literal, read_table, shown
from patching.files.whole import read_text
from patching.tasks.files import own_name, read_json_row
from patching.tasks.published import Reading, eap_ig_row, mib_row
from patching.tasks.task import FAULTS, Prompt, Task
from patching.tasks.tokens import Tokenizer

SHOWN = 5


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
    """A task from a file of prompts: JSON, JSON lines or CSV, in one of three published forms.

    - `auto-circuit`: as `from_json`; `word_idxs` and `seq_labels` are kept in the task's `extra`.
    - `eap-ig` (Hanna et al. 2024, arXiv:2403.17806): `clean`, `corrupted`, and as labels token ids
      in `correct_idx` and `incorrect_idx` (or `answers_idx`, `country_idx`, `clean_answer_idx` and
      their `corrupted_` partners), the start year's two digits in `correct_idx` alone or in `year`
      (greater-than), or 0 and 1 in `plural` (agreement).
    - `mib` (Mueller et al. 2025, arXiv:2504.13151): rows of the circuit-localisation track as the
      `datasets` library writes them: `prompt`, `choices` with `answerKey` or `label`, and a record
      of the same fields for each counterfactual.

    Args:
        path: the file.
        tokenizer: for texts; files of token ids need none.
        format: one of the three, by default told from the rows.
        counterfactual: the field to take the corrupt prompt from where there are several: by
            default `corrupted` in EAP-IG's files; in MIB's `s2_io_flip`, `symbol` or `random`,
            those of its own evaluation.
        first_token: score the first token of answers that have several.
        drop: leave out rows that cannot be used, and warn, instead of refusing the file.

    Raises:
        ValueError: if the file is of no known form, or has rows that cannot be used; those are
            named, counted from 0.
    """
    rows = open_rows(path, tokenizer, format, counterfactual=counterfactual)
    prompts: list[Prompt] = []
    bad: dict[int, str] = {}
    for i in range(len(rows)):
        try:
            prompts.append(_sound(rows.prompt(i, first_token=first_token)))
        except ValueError as error:
            bad[i] = str(error)
    if bad and not (drop and prompts):
        raise ValueError(f"{path}: {_report(bad, len(rows))}{'' if drop else _HINT}")
    if bad:
        warnings.warn(f"{path}: left out {_report(bad, len(rows))}", stacklevel=1)
    extra = {**rows.rest, "dropped": sorted(bad)} if bad else rows.rest
    origin = {"file": str(path), "format": rows.format, "counterfactual": counterfactual}
    origin |= {"first_token": first_token, "drop": drop}
    return Task(rows.name, tuple(prompts), extra=extra, origin=origin)


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
    rows, rest = _open(path)
    known = _recognise(path, rows) if format is None else format
    if known not in FORMATS:
        raise ValueError(f"no format {format!r}; there are {', '.join(FORMATS)}")
    reading = Reading(tokenizer, counterfactual, first_token=False)
    return Rows(path, own_name(path, rest), known, rows, rest, reading)


_HINT = "; drop=True (--drop-rows) leaves them out"


def _open(path: Path) -> tuple[list[object], dict[str, object]]:
    """The rows, and what else the file says.

    Raises:
        ValueError: if it is not JSON, or JSON of another form.
    """
    if path.suffix == ".csv":
        return [_cells(row) for row in read_table(path)[1]], {}
    text = read_text(path)
    try:
        content = parse_json(text)
    except ValueError as error:
        lines = [line.strip() for line in text.split("\n") if line.strip()]
        if len(lines) < 2 or not lines[0].startswith("{") or not lines[0].endswith("}"):
            raise ValueError(f"{path} is not JSON: {error}") from None
        return [_line(path, i, line) for i, line in enumerate(lines)], {}
    if isinstance(content, list):
        return content, {}
    if isinstance(content, dict):
        if isinstance(content.get("prompts"), list):
            return content.pop("prompts"), content
        if any(known.fits(content) for known in FORMATS.values()):
            return [content], {}  # JSON lines, of which there is one
    raise ValueError(f'{path} lacks the list "prompts", and is no list of rows')


def _line(path: Path, i: int, line: str) -> object:
    try:
        return parse_json(line)
    except ValueError as error:
        raise ValueError(f"{path}: row {i} is not JSON: {error}") from None


def _cells(row: Mapping[str | None, str | None]) -> object:
    """Cells of a table; records in them are JSON, or as Python prints them."""
    if None in row or None in row.values():  # how the reader marks cells too many or too few
        return None
    return {str(key): _value(str(key), str(cell)) for key, cell in row.items()}


def _value(column: str, cell: str) -> object:
    if not cell.startswith("{") and column != "choices":
        return cell
    for read in (parse_json, parse_literal):
        try:
            return read(cell)
        except ValueError:
            pass
    return cell


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
    return eap_ig_row(row, reading) if name == "eap-ig" else mib_row(row, reading)


def _sound(prompt: Prompt) -> Prompt:
    """The prompt, if a task may hold it.

    Raises:
        ValueError: if not, saying why.
    """
    for what, is_bad in FAULTS.items():
        if is_bad(prompt):
            lengths = len(prompt.clean), len(prompt.corrupt)
            differ = what.startswith("clean") and lengths[0] != lengths[1]
            raise ValueError(f"{what} ({lengths[0]} and {lengths[1]})" if differ else what)
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
