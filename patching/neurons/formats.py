"""Conflicts from and to files: our JSON and CSV, and the published forms of MemoTrap and KRE.

Nothing is downloaded: the published data sets are read from local copies.
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from string import ascii_uppercase

from patching.files.parsing import (
    naming,
    parse_json,
    parse_literal,
    read_json,
    read_table,
    shown,
)
from patching.files.whole import read_text, write_text
from patching.neurons.conflicts import Conflict, ConflictTask, from_text
from patching.tasks.tokens import Tokenizer

_TEXTS = ("question", "context", "answer", "memorised")
_IDS = ("without_context", "with_context", "answer", "memorised")
_MEMOTRAP = ("prompt", "classes", "answer_index")
_KRE = ("question", "choices", "answer", "negative_answer", "negative_context")

Row = Mapping[str, object]


def read_conflicts(
    path: str | Path, tokenizer: Tokenizer | None = None, *, drop_alike: bool = False
) -> ConflictTask:
    """Conflicts from a file of any form that is read here; its columns or keys say which.

    `drop_alike` leaves out rows whose two answers start with the same token instead of refusing
    them; `extra["dropped"]` of the task lists them.

    Raises:
        ValueError: if the file is of none of these forms, and as the reader of its form.
    """
    path = Path(path)
    if path.suffix not in (".csv", ".json", ".jsonl"):
        raise ValueError(f"{path} is not .csv, .json or .jsonl, the forms that conflicts come in")
    rows = _csv_rows(path) if path.suffix == ".csv" else _json_rows(path)
    first = rows[0] if rows and isinstance(rows[0], Mapping) else {}
    make, needed = partial(_own_row, tokenizer=tokenizer), ()
    for keys, make_row in ((_MEMOTRAP, _memotrap_row), (_KRE, _kre_row)):
        if all(key in first for key in keys):
            make, needed = partial(make_row, tokenizer=_need(tokenizer)), keys
    task = _read(path, rows, needed, make, drop_alike)
    name, extra = _about(path)
    return replace(task, name=name, extra={**extra, **task.extra})


def from_json(path: str | Path, tokenizer: Tokenizer | None = None) -> ConflictTask:
    """Conflicts from `{"conflicts": [{"question", "context", "answer", "memorised"}, ...]}`.

    All are text; the prompt with context is the context, a space (unless there is one) and the
    question, and answers are written as they continue it (`" Paris"`). Or token ids, taken as they
    are: `{"without_context", "with_context", "answer", "memorised"}`, lists each. `memorised` may
    be missing. A bare list of rows, or one row a line (.jsonl), is read too. Other keys are kept.

    Raises:
        ValueError: if the file is not of this form, holds text while there is no tokenizer, or
            breaks a rule of `ConflictTask`; the row is named.
    """
    path = Path(path)
    task = _read(path, _json_rows(path), (), partial(_own_row, tokenizer=tokenizer))
    name, extra = _about(path)
    return replace(task, name=name, extra=extra)


def to_json(task: ConflictTask, path: str | Path) -> None:
    """Write conflicts as token ids, in the form `from_json` reads; what was kept is written too."""
    rows = [
        {**c.extra, **{key: list(getattr(c, key)) for key in _IDS}}  # ids last: they count
        for c in task.conflicts
    ]
    content = {**task.extra, "name": task.name, "conflicts": rows}
    write_text(path, json.dumps(content, ensure_ascii=False))


def from_csv(path: str | Path, tokenizer: Tokenizer) -> ConflictTask:
    """Conflicts from a CSV with the columns `question, context, answer` and perhaps `memorised`.

    Texts as in `from_json`. Other columns are kept.

    Raises:
        ValueError: if a column is missing, or a rule of `ConflictTask` is broken; the row is named.
    """
    rows = _csv_rows(Path(path))
    return _read(Path(path), rows, _TEXTS[:3], partial(_own_row, tokenizer=tokenizer))


def from_memotrap(
    path: str | Path, tokenizer: Tokenizer, *, drop_alike: bool = False
) -> ConflictTask:
    """Conflicts from a CSV of MemoTrap: `prompt`, `classes` (two of them), `answer_index`.

    `Write a quote that ends in the word "early": Better late than` is split at its first ": ":
    what stands before is the context, what follows the question. The class that the instruction
    asks for is the answer, the other one the memorised answer; `drop_alike` as `read_conflicts`.
    Liu and Liu 2023 (MemoTrap, a winner of the Inverse Scaling Prize); used so by Shi et al.
    2024, arXiv:2406.18406.

    Raises:
        ValueError: if a column is missing, a prompt has no ": ", or a rule of `ConflictTask` is
            broken; the row is named.
    """
    rows = _csv_rows(Path(path))
    return _read(
        Path(path), rows, _MEMOTRAP, partial(_memotrap_row, tokenizer=tokenizer), drop_alike
    )


def from_kre(path: str | Path, tokenizer: Tokenizer) -> ConflictTask:
    """Multiple-choice conflicts of KRE (COSE_KRE, ECARE_KRE): JSON, a list or one row a line.

    Read are `question`, `choices`, `answer` (true and memorised), `negative_answer` (what the
    context supports) and `negative_context`. An answer is a choice's text, letter or number. The
    model is shown the lettered choices and asked for a letter; this wording is ours. Ying et al.
    2023 (KRE), arXiv:2309.17415; used so by Shi et al. 2024, arXiv:2406.18406.

    Raises:
        ValueError: if a key is missing, an answer is no choice, or a rule of `ConflictTask` is
            broken; the row is named.
    """
    rows = _json_rows(Path(path))
    return _read(Path(path), rows, _KRE, partial(_kre_row, tokenizer=tokenizer))


def _read(
    path: Path,
    rows: Sequence[object],
    keys: Iterable[str],
    make: Callable[[Row], Conflict],
    drop_alike: bool = False,
) -> ConflictTask:
    conflicts, dropped = [], []
    for i, row in enumerate(rows):
        if not isinstance(row, Mapping):
            raise ValueError(f"{path}: row {i} is not an object with names and values")
        missing = [key for key in keys if row.get(key) is None]
        if missing:
            raise ValueError(f"{path}: row {i} lacks {', '.join(missing)}")
        try:
            conflict = make(row)
        except ValueError as error:
            raise ValueError(f"{path}: row {i}: {error}") from None
        if drop_alike and conflict.answer[:1] == conflict.memorised[:1]:
            dropped.append(i)
        else:
            conflicts.append(conflict)
    extra = {"dropped": dropped} if dropped else {}
    with naming(path):
        return ConflictTask(path.stem, tuple(conflicts), extra=extra)


def _json_rows(path: Path) -> list[object]:
    if path.suffix == ".jsonl":
        return _lines(path)
    content = read_json(path)
    rows = content.get("conflicts") if isinstance(content, dict) else content
    if not isinstance(rows, list):
        raise ValueError(f'{path} lacks the list "conflicts"')
    return rows


def _lines(path: Path) -> list[object]:
    """The rows of a file of JSON lines.

    Raises:
        ValueError: naming the row that is no JSON.
    """
    lines = [line for line in read_text(path).splitlines() if line.strip()]
    rows = []
    for i, line in enumerate(lines):
        try:
            rows.append(parse_json(line))
        except ValueError as error:
            raise ValueError(f"{path}: row {i} is not JSON: {error}") from None
    return rows


def _about(path: Path) -> tuple[str, dict[str, object]]:
    """The task's own name and whatever else a file says about it.

    Raises:
        ValueError: if the name is no text.
    """
    content = read_json(path) if path.suffix == ".json" else None
    if not isinstance(content, dict):
        return path.stem, {}
    extra = {key: value for key, value in content.items() if key not in ("name", "conflicts")}
    name = content.get("name", path.stem)
    if not isinstance(name, str):
        raise ValueError(f"{path}: the name of a task is text, got {shown(name)}")
    return name, extra


def _csv_rows(path: Path) -> list[object]:
    rows: list[object] = []
    for i, row in enumerate(read_table(path)[1]):
        if None in row or None in row.values():  # how the reader marks cells too many or too few
            raise ValueError(f"{path}: row {i} has more or fewer cells than the header")
        rows.append(row)
    return rows


def _own_row(row: Row, tokenizer: Tokenizer | None) -> Conflict:
    if "with_context" in row:
        ids = {key: _ids(row, key) for key in _IDS}
        return Conflict(**ids, extra={k: v for k, v in row.items() if k not in _IDS})
    missing = [key for key in _TEXTS[:3] if row.get(key) is None]
    if missing:
        raise ValueError(f"it lacks {', '.join(missing)}; a conflict has {', '.join(_TEXTS)}")
    extra = {key: value for key, value in row.items() if key not in _TEXTS}
    return from_text(_need(tokenizer), *(_text(row, key) for key in _TEXTS), extra=extra)


def _memotrap_row(row: Row, tokenizer: Tokenizer) -> Conflict:
    context, colon, question = str(row["prompt"]).partition(": ")
    if not colon:
        raise ValueError(
            f"the prompt {shown(row['prompt'])} has no ': ' between context and question"
        )
    try:
        classes = parse_literal(str(row["classes"]))
        right = int(str(row["answer_index"]))
    except ValueError:
        raise ValueError(f"{shown(row['classes'])} is no list of two texts with an index") from None
    if not isinstance(classes, list | tuple) or len(classes) != 2 or right not in (0, 1):
        raise ValueError(
            f"two classes and an index of 0 or 1 are needed, got {shown(classes)}, {right}"
        )
    extra = {key: value for key, value in row.items() if key not in _MEMOTRAP}
    answer, memorised = str(classes[right]), str(classes[1 - right])
    return from_text(tokenizer, question, f"{context}: ", answer, memorised, extra)


def _kre_row(row: Row, tokenizer: Tokenizer) -> Conflict:
    choices = row["choices"]
    if not isinstance(choices, list | tuple) or not 2 <= len(choices) <= len(ascii_uppercase):
        raise ValueError(f"choices are a list of at least two texts, got {shown(choices)}")
    context = str(row["negative_context"])
    if not context.strip():
        raise ValueError("the negative_context is empty; a conflict needs one")
    letters = dict(zip(ascii_uppercase, map(str, choices), strict=False))
    listed = "\n".join(f"{letter}. {text}" for letter, text in letters.items())
    answer, memorised = (_letter(letters, row[key]) for key in ("negative_answer", "answer"))
    extra = {key: value for key, value in row.items() if key not in ("question", "answer")}
    question = f"{row['question']}\n{listed}\nAnswer:"
    return from_text(tokenizer, question, f"{context}\n", f" {answer}", f" {memorised}", extra)


def _letter(letters: Mapping[str, str], answer: object) -> str:
    by_name = {text.strip().casefold(): letter for letter, text in letters.items()}
    named = str(answer).strip()
    if named.casefold() in by_name:
        return by_name[named.casefold()]
    letter = named.strip("().").upper()
    if isinstance(answer, int) and not isinstance(answer, bool) and 0 <= answer < len(letters):
        return ascii_uppercase[answer]
    if letter in letters:
        return letter
    raise ValueError(
        f"the answer {shown(answer)} is none of the choices {shown(list(letters.values()))}"
    )


def _text(row: Row, key: str) -> str:
    value = row.get(key)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise ValueError(f"{key} is text, got {shown(value)}")
    return value


def _ids(row: Row, key: str) -> tuple[int, ...]:
    value = row.get(key, ())
    if not isinstance(value, list | tuple) or any(type(item) is not int for item in value):
        raise ValueError(f"{key} is a list of token ids, got {shown(value)}")
    return tuple(value)


def _need(tokenizer: Tokenizer | None) -> Tokenizer:
    if tokenizer is None:
        raise ValueError("it holds text, and there is no tokenizer; give token ids")
    return tokenizer
