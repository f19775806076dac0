"""The command as it was given, with all defaults, so that a result can say how it was made."""

import hashlib
from argparse import Namespace
from pathlib import Path

from circuits.shell.own_methods import own_sources

_NOT_OF_THE_RESULT = (
    *("run", "out", "csv", "plot", "json", "log", "memory", "overwrite"),
    *("kept_in", "engine", "address"),
)
"""The command, where its results go, how they are shown, what bounds memory, and who does it."""

_METHODS = ("method", "start", "members")
"""Options that may name a function of one's own."""

_READ = ("task", "eval_task", "ablation_task", "constants", "guess", "start", "device_map")
"""Options that may name a file to read; what is in it may be written in several ways."""

_READ_IN_TURN = ("scores",)
"""Options that may name several, with commas between."""


def recorded(args: Namespace) -> dict[str, object]:
    """For a provenance: the command, and a hash of every file it was given to read.

    `command` is what follows `circuits`, without where the results go; `inputs` are results that
    were read, `files` are those that options name, `functions` the scorers of one's own.
    """
    files = list(getattr(args, "files", ()))
    read = {f"{i}. {Path(path).name}": _hash(path) for i, path in enumerate(files, start=1)}
    given = {option: getattr(args, option, None) for option in _READ}
    named = {
        f"--{option.replace('_', '-')}": _hash(path)
        for option, path in given.items()
        if path is not None and Path(path).is_file()
    }
    for option in _READ_IN_TURN:
        paths = getattr(args, option, None)
        if isinstance(paths, tuple):
            named |= {f"--{option} {Path(path).name}": _hash(path) for path in paths}
    functions = own_sources(_names(args))
    return {
        "command": [*_words(args), *files],
        **({"inputs": read} if read else {}),
        **({"files": named} if named else {}),
        **({"functions": functions} if functions else {}),
    }


def _names(args: Namespace) -> list[str]:
    given = (getattr(args, option, None) for option in _METHODS)
    return [
        name
        for value in given
        for name in (value if isinstance(value, list | tuple) else str(value or "").split(","))
    ]


def _words(args: Namespace) -> list[str]:
    """The command's name and its options: `--n=64`, `--prune`."""
    words = [args.run.__name__]
    for name, value in vars(args).items():
        if name in (*_NOT_OF_THE_RESULT, "files") or value is None or value is False:
            continue
        option = f"--{name.replace('_', '-')}"
        words.append(option if value is True else f"{option}={_spelled(value)}")
    return words


def _spelled(value: object) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _hash(path: str) -> str:
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()[:16]
