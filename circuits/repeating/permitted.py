"""What of a recorded command may be run: a file from anywhere says it, and nobody has read it.

Of the commands, those that make results; of their options, those that decide the numbers. Where
results go, what is kept and who does the work is never taken from a file. What a command reads lies
in folders that whoever repeats it has named. Code that comes with a model, and functions by their
module, are run only where that is asked for now.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from patching.files.parsing import shown

Check = Callable[[str, "Permitted"], str]
"""From the value of an option to the value that is run.

Raises:
    ValueError: saying what is not permitted, and what would permit it.
"""


@dataclass(frozen=True)
class Permitted:
    """What whoever repeats a result lets its file do.

    `folders` are read from, beside the current one and that of the result. `model_code` runs code
    that comes with a model, `functions` imports functions that are named by their module; both only
    if the result was made so.
    """

    folders: tuple[str | Path, ...] = ()
    model_code: bool = False
    functions: bool = False

    def reads(self, path: Path) -> bool:
        """Whether a path, with all links followed, lies in one of the folders."""
        return any(path.resolve().is_relative_to(Path(f).resolve()) for f in self.folders)


NOTHING_MORE = Permitted()

_FLAG = "a flag"
_ITSELF = re.compile(r"[\w.,:+ -]*")
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
_FILE_OF_PROMPTS = (".json", ".jsonl", ".csv", ".parquet", ".txt")


def words_of(command: Sequence[str], permitted: Permitted) -> list[str]:
    """A recorded command with every part looked at: what may be run, and nothing else.

    Files that have moved to the folder of the result (the first of `folders`) are found there.

    Raises:
        ValueError: naming the part that is not permitted.
    """
    name = command[0] if command else ""
    options = OPTIONS.get(name)
    if options is None:
        known = ", ".join(OPTIONS)
        raise ValueError(f"its command is {shown(name)}; those that make results are {known}")
    words = [_word(name, word, options, permitted) for word in command[1:]]
    return [name, *(word for word in words if word)]


def downloads(words: Sequence[str]) -> str | None:
    """The model of a command, if it is one that may have to come from the hub."""
    from patching.models import embedded_names

    for word in words:
        name = word.removeprefix("--model=")
        if name != word and not Path(name).exists() and name not in embedded_names():
            return name
    return None


def _word(name: str, word: str, options: Mapping[str, Check | str], permitted: Permitted) -> str:
    """One word of a command; empty for what is left out.

    Raises:
        ValueError: if it is not permitted.
    """
    if not word.startswith("-"):
        if "" not in options:
            raise ValueError(
                f"its command holds {shown(word)}, and `circuits {name}` reads no file"
            )
        return _file(word, permitted)
    option, equals, value = word.removeprefix("--").partition("=")
    check = options.get(option) if word.startswith("--") and option else None
    if check is None:
        raise ValueError(
            f"its command holds {shown(word)}, which is none of the options that decide what "
            f"`circuits {name}` comes to; nothing else is taken from a file"
        )
    if isinstance(check, str) != (not equals):
        raise ValueError(f"its command holds {shown(word)}, which no command records so")
    if isinstance(check, str):
        return _code(word, permitted) if option == "trust-remote-code" else word
    checked = check(value, permitted)
    return f"--{option}={checked}" if checked else ""


def _code(word: str, permitted: Permitted) -> str:
    """Code that comes with a model, if it was asked for.

    Raises:
        ValueError: if not.
    """
    if not permitted.model_code:
        raise ValueError(
            f"it was made with {word}, which runs code that comes with the model; give {word} "
            "(model_code=True in Python) to run that code now"
        )
    return word


def _plain(value: str, permitted: Permitted) -> str:
    """A number or a word that a command chooses by.

    Raises:
        ValueError: if it is neither.
    """
    if not value or _ITSELF.fullmatch(value) is None:
        raise ValueError(f"its command holds {shown(value)}, where a name or number would be right")
    return value


def _name(value: str, permitted: Permitted) -> str:
    """A name of one of our tables, or a function by its module.

    Raises:
        ValueError: for a function that was not asked for.
    """
    where, colon, what = value.rpartition(":")
    if colon and not permitted.functions:
        raise ValueError(
            f"it was made with the function {shown(value)}, which would be imported and run; give "
            "--trust-functions (functions=True in Python) to do so now"
        )
    file = f"{_file(where, permitted)}:" if where.endswith(".py") else ""
    return file + _plain(what if file else value, permitted)


def _model(value: str, permitted: Permitted) -> str:
    """A folder that may be read, or the name of a model.

    Raises:
        ValueError: if it is neither.
    """
    if _is_there(value):
        return _inside(value, "--model", permitted)
    if _HUB_NAME.fullmatch(value) is None or ".." in value:
        raise ValueError(
            f"it was made with the model {shown(value)}, which is no folder here and no name of a "
            "model; --model says where it is now"
        )
    return value


def _revision(value: str, permitted: Permitted) -> str:
    """A branch, tag or commit.

    Raises:
        ValueError: if it cannot be one.
    """
    if re.fullmatch(r"\w[\w./-]*", value) is None or ".." in value:
        raise ValueError(f"its command holds {shown(value)}, which is no revision of a model")
    return value


def _task(value: str, permitted: Permitted) -> str:
    """A task's name, or a file of prompts that may be read."""
    is_path = Path(value).suffix in _FILE_OF_PROMPTS or _is_there(value)
    return _file(value, permitted, "--task") if is_path else _plain(value, permitted)


def _each_of(check: Check, value: str, permitted: Permitted) -> str:
    return ",".join(check(part, permitted) if part else "" for part in value.split(","))


def _map(value: str, permitted: Permitted) -> str:
    return _file(value, permitted) if value.endswith(".json") else _plain(value, permitted)


def _left_out(value: str, permitted: Permitted) -> str:
    """Where something was written: goes elsewhere now."""
    return ""


def _file(value: str, permitted: Permitted, option: str | None = None) -> str:
    """A file to be read, or the one of its name beside the result where there is none.

    Raises:
        ValueError: if there is neither, or it lies elsewhere.
    """
    if _is_there(value) and Path(value).is_file():
        return _inside(value, option, permitted)
    beside = Path(permitted.folders[0]) / Path(value).name if permitted.folders else Path(value)
    if Path(value).name and _is_there(str(beside)) and beside.is_file():
        return _inside(str(beside), option, permitted)
    hint = f"; {option} says where it is now" if option else ""
    raise ValueError(
        f"the file {shown(value)[1:-1]} is wanted, which is neither there nor beside the "
        f"result{hint}"
    )


def _inside(value: str, option: str | None, permitted: Permitted) -> str:
    """A path that may be read.

    Raises:
        ValueError: if it may not.
    """
    path = Path(value)
    if not permitted.reads(path):
        named = f", or {option} {shown(value)[1:-1]}" if option else ""
        raise ValueError(
            f"it would read {shown(str(path.resolve()))[1:-1]}, which lies neither here nor beside "
            f"the result; give --allow {shown(str(path.resolve().parent))[1:-1]}{named}, if that "
            "is what you want"
        )
    return value if not value.startswith("-") else f"./{value}"


def _is_there(value: str) -> bool:
    """Whether something is there; nothing is under a name that no system takes."""
    try:
        return Path(value).exists()
    except (OSError, ValueError):
        return False


def _each(check: Check | str, names: str) -> dict[str, Check | str]:
    return dict.fromkeys(names.split(), check)


_names, _tasks, _files = (partial(_each_of, check) for check in (_name, _task, _file))
_LOADED: dict[str, Check | str] = {
    "model": _model,
    "revision": _revision,
    "device-map": _map,
    "trust-remote-code": _FLAG,
    "ungroup": _FLAG,
    **_each(_plain, "dtype device n-devices"),
}
_ON_TASK = {
    **_LOADED,
    "task": _task,
    "metric": _name,
    **_each(_plain, "n limit seed batch-size"),
    **_each(_FLAG, "first-token drop-rows"),
}
_ABLATION = {"ablation": _plain, "ablation-task": _task, "constants": _file}
_SCORING = {
    **_ON_TASK,
    **_ABLATION,
    **_each(_name, "method rule path quadrature"),
    **_each(_plain, "steps ranking spans"),
    "by-prompt": _FLAG,
}
_JUDGING = {**_ON_TASK, **_ABLATION, **_each(_plain, "ablated direction spans"), "": _file}

OPTIONS: dict[str, dict[str, Check | str]] = {
    "score": {**_SCORING, "top": _plain},
    "discover": {
        **_SCORING,
        **_each(_plain, "size faithfulness selector holdout resamples"),
        **_each(_FLAG, "prune no-prune"),
        "eval-task": _task,
    },
    "search": {
        **_ON_TASK,
        **_ABLATION,
        **_each(_names, "method start"),
        **_each(_plain, "threshold change size budget spans"),
        "shuffle": _FLAG,
        "guess": _file,
        "scores": _left_out,
    },
    "learn": {
        **_ON_TASK,
        **_ABLATION,
        **_each(_names, "method members score-by"),
        **_each(_plain, "size steps rate penalty patience spans"),
        "start": _file,
    },
    "evaluate": {**_JUDGING, "resamples": _plain, "scores": _files},
    "curve": {**_JUDGING, **_each(_plain, "ranking sizes granularity random bootstrap resamples")},
    "patch": {**_ON_TASK, "method": _name, **_each(_plain, "what over direction top")},
    "neurons": {
        **_ON_TASK,
        "method": _name,
        **_each(_plain, "top layers steps holdout betas random alpha tokens"),
        "elsewhere": _tasks,
    },
}
"""Of every command that makes results, the options that decide them; "" are files it reads."""
