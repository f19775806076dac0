"""Tasks from and to files: JSON (auto-circuit's form) and CSV (EAP-IG's form)."""

import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from patching.files.parsing import naming, read_json, read_table, shown
from patching.files.whole import write_text
from patching.tasks.padding import padding_id, refuse_padding
from patching.tasks.prompt import Answer
from patching.tasks.published import read_ids
from patching.tasks.span_files import FIELD, with_spans
from patching.tasks.spans import spans_json
from patching.tasks.task import Prompt, Task
from patching.tasks.tokens import Tokenizer, encode_answer, encode_prompt

_COLUMNS = ("clean", "corrupted", "correct_idx", "incorrect_idx")
_PROMPT_KEYS = ("clean", "corrupt", "answers", "wrong_answers", "answer_positions")


def from_json(
    path: str | Path, tokenizer: Tokenizer | None = None, *, first_token: bool = False
) -> Task:
    """A task from `{"prompts": [{"clean", "corrupt", "answers", "wrong_answers"}, ...]}`.

    Prompts are text or lists of token ids, answers lists of either (or one alone); an answer of
    several tokens is text or a list of ids inside the list. Ids are taken as they are. With
    `answer_positions`, places in the prompt's tokens (or "all"), there is one answer for each, by
    default the token that follows it in the clean prompt. `spans` name ranges of tokens
    (`{"IO": [3, 4]}`, half open), or say "marked" where texts have marks (`{IO:Mary}`). Keys of
    other names are kept.

    Raises:
        ValueError: if the file is not of this form, holds text while there is no tokenizer, or
            breaks a rule of `Task`; the row is named.
    """
    path = Path(path)
    rows, rest = open_json(path)
    prompts = [
        read_json_row(path, i, values, tokenizer, first_token=first_token)
        for i, values in enumerate(rows)
    ]
    name = own_name(path, rest)
    origin = {"file": str(path), "first_token": first_token}
    with naming(path):
        return Task(name, tuple(prompts), extra=rest, origin=origin)


def open_json(path: Path) -> tuple[list[object], dict[str, object]]:
    """The rows of a task file as they stand, and whatever else it says.

    Raises:
        ValueError: if it is not JSON, or lacks the list of prompts.
    """
    content = read_json(path)
    if not isinstance(content, dict) or not isinstance(content.get("prompts"), list):
        raise ValueError(f'{path} lacks the list "prompts"')
    return content.pop("prompts"), content


def own_name(path: Path, rest: dict[str, object]) -> str:
    """The name that a file gives its task, taken out of `rest`; else that of the file.

    Raises:
        ValueError: if it is no text.
    """
    name = rest.pop("name", path.stem)
    if not isinstance(name, str):
        raise ValueError(f"{path}: the name of a task is text, got {shown(name)}")
    return name


def to_json(task: Task, path: str | Path) -> None:
    """Write a task as token ids, in the form `from_json` reads; what was kept is written too."""
    prompts = [
        {
            **prompt.extra,
            "clean": list(prompt.clean),
            "corrupt": list(prompt.corrupt),
            "answers": list(prompt.answers),
            "wrong_answers": list(prompt.wrong_answers),
            **({"answer_positions": list(at)} if (at := prompt.answer_positions) else {}),
            **({FIELD: spans_json(prompt.spans)} if prompt.spans else {}),
        }
        for prompt in task.prompts
    ]
    content = {**task.extra, "name": task.name, "prompts": prompts}
    write_text(path, json.dumps(content, ensure_ascii=False))


def from_csv(path: str | Path, tokenizer: Tokenizer) -> Task:
    """A task from EAP-IG's CSV: columns `clean, corrupted, correct_idx, incorrect_idx`.

    An index is a token id, or several in brackets (`[318, 373]`), of which one of several tokens
    stands in brackets of its own (`[[318, 11], 373]`). A column `spans` is as in `from_json`. Other
    columns are kept.

    Raises:
        ValueError: if a column is missing, a cell is not of this form, or a rule of `Task` is
            broken; the row is named.
    """
    path = Path(path)
    prompts = (read_csv_row(path, i, row, tokenizer) for i, row in enumerate(open_csv(path)))
    with naming(path):
        return Task(path.stem, tuple(prompts), origin={"file": str(path)})


def open_csv(path: Path) -> list[dict]:
    """The rows of a table of prompts as they stand.

    Raises:
        ValueError: if a column is missing.
    """
    found, rows = read_table(path)
    missing = [name for name in _COLUMNS if name not in found]
    if missing:
        raise ValueError(f"{path} lacks the column {', '.join(missing)}; needed: {_COLUMNS}")
    return rows


def read_csv_row(path: Path, i: int, row: Mapping, tokenizer: Tokenizer) -> Prompt:
    """One row of EAP-IG's CSV; `path` and `i` are for the message.

    Raises:
        ValueError: if it has too few or too many cells, or an index is none.
    """
    if None in row or None in row.values():  # how the reader marks cells too many or too few
        raise ValueError(f"{path}: row {i} has more or fewer cells than the header")
    try:
        return with_spans(row, tokenizer, partial(_csv_prompt, tokenizer))
    except ValueError as error:
        raise ValueError(f"{path}: row {i}: {error}") from None


def _csv_prompt(tokenizer: Tokenizer, row: Mapping) -> Prompt:
    return Prompt(
        clean=encode_prompt(tokenizer, row["clean"]),
        corrupt=encode_prompt(tokenizer, row["corrupted"]),
        answers=read_ids(row["correct_idx"]),
        wrong_answers=read_ids(row["incorrect_idx"]),
        extra={k: v for k, v in row.items() if k not in _COLUMNS},
    )


def read_json_row(
    path: Path, i: int, values: object, tokenizer: Tokenizer | None, *, first_token: bool = False
) -> Prompt:
    """One prompt of a task file; `path` and `i` are for the message.

    Raises:
        ValueError: if it is not of the form that `from_json` names, or its ids are padded; the row
            is named.
    """
    if not isinstance(values, Mapping):
        raise ValueError(f"{path}: row {i} is not an object with keys {', '.join(_PROMPT_KEYS)}")
    needed = _PROMPT_KEYS[: 2 if "answer_positions" in values else 3]
    missing = [key for key in needed if key not in values]
    if missing:
        raise ValueError(f"{path}: row {i} lacks {', '.join(missing)}")
    try:
        return with_spans(values, tokenizer, partial(_json_prompt, tokenizer, first_token))
    except ValueError as error:
        raise ValueError(f"{path}: row {i}: {error}") from None


def _json_prompt(tokenizer: Tokenizer | None, first_token: bool, values: Mapping) -> Prompt:
    right, wrong = (
        tuple(
            _answer(answer, values["clean"], tokenizer, first_token)
            for answer in _as_list(values.get(key, []))
        )
        for key in ("answers", "wrong_answers")
    )
    clean = _prompt(values["clean"], tokenizer)
    positions = _positions(values.get("answer_positions"), clean)
    prompt = Prompt(
        clean=clean,
        corrupt=_prompt(values["corrupt"], tokenizer),
        answers=right if "answers" in values else _following(clean, positions),
        wrong_answers=wrong,
        extra={k: v for k, v in values.items() if k not in _PROMPT_KEYS},
        answer_positions=positions,
    )
    refuse_padding(prompt, padding_id(tokenizer))
    return prompt


def _prompt(value: object, tokenizer: Tokenizer | None) -> tuple[int, ...]:
    if isinstance(value, str):
        return encode_prompt(need_tokenizer(tokenizer), value)
    if isinstance(value, Sequence) and all(_is_id(item) for item in value):
        return tuple(map(int, value))
    raise ValueError(f"a prompt is text or a list of token ids, got {shown(value)}")


def _positions(value: object, clean: tuple[int, ...]) -> tuple[int, ...]:
    if value is None:
        return ()
    if value == "all":
        return tuple(range(len(clean) - 1))
    if isinstance(value, list) and value and all(_is_id(item) for item in value):
        return tuple(map(int, value))
    raise ValueError(
        f'answer_positions are numbers of tokens in the prompt, or "all"; got {shown(value)}'
    )


def _following(clean: tuple[int, ...], positions: tuple[int, ...]) -> tuple[int, ...]:
    """What follows each position in the prompt itself.

    Raises:
        ValueError: if nothing does.
    """
    late = [at for at in positions if not 0 <= at < len(clean) - 1]
    if late:
        raise ValueError(
            f"nothing follows answer position {late[0]} in a prompt of {len(clean)} tokens; give "
            "its answers, or positions before the last"
        )
    return tuple(clean[at + 1] for at in positions)


def _answer(
    value: object, prompt: object, tokenizer: Tokenizer | None, first_token: bool
) -> Answer:
    if isinstance(value, int | float) and _is_id(value):
        return int(value)
    if isinstance(value, list) and all(_is_id(item) for item in value):
        return tuple(map(int, value[:1] if first_token else value))
    if not isinstance(value, str):
        raise ValueError(f"an answer is text, a token id or a list of them, got {shown(value)}")
    if not isinstance(prompt, str):
        raise ValueError(
            f"the answer {shown(value)} is text, its prompt token ids; give both alike"
        )
    return encode_answer(need_tokenizer(tokenizer), prompt, value, first_token=first_token)


def _as_list(value: object) -> list[object]:
    return list(value) if isinstance(value, list | tuple) else [value]


def _is_id(value: object) -> bool:
    """Whether a value is a token id; a whole float is one that went through a spreadsheet."""
    if isinstance(value, float):
        return value.is_integer()
    return isinstance(value, int) and not isinstance(value, bool)


def need_tokenizer(tokenizer: Tokenizer | None) -> Tokenizer:
    """The tokenizer that texts are read with.

    Raises:
        ValueError: if there is none.
    """
    if tokenizer is None:
        raise ValueError("the file holds text, and the model has no tokenizer; give token ids")
    return tokenizer
