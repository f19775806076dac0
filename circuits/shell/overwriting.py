"""Results that are there already: replaced by the same command's, by another's only if asked to."""

import json
import shlex
from argparse import Namespace
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from circuits.shell.kinds import kind_of
from circuits.shell.outputs import Output, values_of, written
from circuits.shell.recording import recorded

_RECORDED = ("discover", "learn", "neurons", "patch", "score", "search", "select")
"""Commands whose results say how they were made."""

_OF_FEATURES = {
    "features.out": "feature graph",
    "effects_out": "feature effects",
    "circuit_out": "feature circuit",
}
"""Options of `features`, whose results do not say by which command, and what they write."""

_SHOWN = ("--top=", "--device=")
"""Options that decide what is printed, or where it is computed."""


def check_replaced(args: Namespace) -> None:
    """Refuse to write over results of other settings, unless `--overwrite` is given.

    Of features, over results of another kind.

    Raises:
        ValueError: naming the result, how it was made, and how that differs.
    """
    for option, kind in _OF_FEATURES.items():
        for path in values_of(args, option):
            held = kind_of(path) if path.is_file() else None
            if held not in (None, kind):
                raise ValueError(f"{path} holds {held}, no {kind}; name another file")
    if args.run.__name__ not in _RECORDED or args.overwrite:
        return
    for output in written(args):
        for path in _results_at(output):
            before, now = _command_of(path), _command_now(args)
            if before and now and {*before} != {*now}:
                raise ValueError(
                    f"{path} holds the result of another command (circuits "
                    f"{shlex.join(_others(before, now))}, now {shlex.join(_others(now, before))}); "
                    "name another place, or give --overwrite"
                )


def _command_now(args: Namespace) -> list[str]:
    """What a result of this command would say; a choice says how its scores were made."""
    if args.run.__name__ == "select":
        return _command_of(Path(args.file))
    return _words(recorded(args)["command"])


def _results_at(output: Output) -> Iterator[Path]:
    """The files that would be replaced, of those that may say how they were made."""
    if not output.is_folder:
        yield output.path
    elif output.path.is_dir():
        for path in sorted(output.path.iterdir()):
            if path.is_file() and path.name.partition(".")[0] in output.begins:
                yield path


def _command_of(path: Path) -> list[str]:
    """The command that a result says it was made by; nothing where it does not say."""
    if not path.is_file():
        return []
    if path.suffix == ".safetensors":
        said = _said_by_tensors(path)
    else:
        said = _said_by_json(path) if path.suffix == ".json" else None
    return _words(said.get("command")) if isinstance(said, Mapping) else []


def _said_by_tensors(path: Path) -> object:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="np") as file:
            return json.loads((file.metadata() or {}).get("provenance", "null"))
    except (SafetensorError, OSError, ValueError):  # no result of ours
        return None


def _said_by_json(path: Path) -> object:
    try:
        content = json.loads(path.read_bytes())
    except ValueError:  # no result of ours
        return None
    return content.get("provenance") if isinstance(content, Mapping) else None


def _words(command: object) -> list[str]:
    """The words that decide what comes out."""
    words = [str(word) for word in command] if isinstance(command, list) else []
    return [word for word in words if not word.startswith(_SHOWN)]


def _others(words: Sequence[str], known: Sequence[str]) -> list[str]:
    """The command's name, and the words that the other does not have."""
    return [words[0], *(word for word in words[1:] if word not in known)]
