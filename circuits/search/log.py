"""The log of searches: what each circuit that was run came to, so that no search runs it again.

A file of one JSON object a line, to which lines are only added: a search that is stopped loses at
most the line it was writing, and goes on by being started again. Searches of any kind share a log
if they run the same model on the same prompts.
"""

import base64
import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from patching.files.parsing import parse_json
from patching.files.whole import append_lines, begin_lines, whole_lines
from patching.work.fingerprint import told_apart

_IDENTITY = ("config", "weights", "dtype", "inside", "tokens", "spans", "metric", "ablation")
"""What a log's searches share; `inside` is said of models made or changed in memory, `spans` where
they are kept apart."""

_NO_LOG = "is no log of a search; name another file"


class Log:
    """The metric of circuits on each example, by a key that equal computations share."""

    def __init__(self, path: Path | None, known: dict[str, Float[Tensor, " example"]]) -> None:
        self._path, self._known = path, known

    @staticmethod
    def open(path: str | Path | None, facts: Mapping[str, object], functions: object = ()) -> "Log":
        """The log at a path, a new one there, or one in memory.

        `facts` say what is run, and `functions` are those whose names alone they know.

        Raises:
            ValueError: if the file is no log, was altered, or is of another model, other prompts
                or another metric; or functions or hooks cannot be told from others.
        """
        if path is None:
            return Log(None, {})
        path = Path(path)
        ours = {name: facts[name] for name in _IDENTITY if name in facts}
        ours["functions"] = told_apart(facts, functions)
        empty = not path.exists() or (path.is_file() and path.stat().st_size == 0)
        if empty and begin_lines(path, json.dumps(ours) + "\n"):
            return Log(path, {})
        lines = whole_lines(path)
        if not lines:
            raise ValueError(f"{path} {_NO_LOG}")
        _compare(path, lines[0], ours)
        n = facts.get("n_examples")
        return Log(path, dict(_entry(path, row, n) for row in lines[1:]))

    def __contains__(self, key: str) -> bool:
        return key in self._known

    def __getitem__(self, key: str) -> Float[Tensor, " example"]:
        return self._known[key]

    def add(self, keys: Iterable[str], values: Float[Tensor, "circuit example"]) -> None:
        """Keep what circuits came to."""
        new = dict(zip(keys, values, strict=True))
        self._known |= new
        if self._path is not None:
            append_lines(self._path, "".join(_line(key, row) for key, row in new.items()))


def _compare(path: Path, line: str, ours: Mapping[str, object]) -> None:
    theirs = _object(path, line)
    if "functions" not in theirs:
        raise ValueError(f"{path} {_NO_LOG}")
    if "config" not in theirs:
        raise ValueError(
            f"{path} is the log of an older version, which told models apart by less; name another "
            "file, or delete it"
        )
    different = [name for name in {**ours, **theirs} if theirs.get(name) != ours.get(name)]
    if different:
        raise ValueError(
            f"{path} is the log of another search: it differs in {', '.join(different)}; "
            "name another file, or delete it"
        )


def _line(key: str, values: Float[Tensor, " example"]) -> str:
    content = base64.b64encode(values.double().numpy().tobytes()).decode()
    return json.dumps({"circuit": key, "values": content, "check": _check(key, content)}) + "\n"


def _entry(path: Path, line: str, n: object) -> tuple[str, Float[Tensor, " example"]]:
    """A line's circuit, and what it came to on `n` examples (None: nobody knows how many).

    Raises:
        ValueError: if it was altered, or holds something else.
    """
    row = _object(path, line)
    key, content = row.get("circuit"), row.get("values")
    if not isinstance(key, str) or not isinstance(content, str):
        raise ValueError(f"{path} {_NO_LOG}")
    if row.get("check") != _check(key, content):
        raise ValueError(f"{path} was altered, at the circuit {key[:12]!r}; delete it")
    try:
        values = np.frombuffer(base64.b64decode(content, validate=True), dtype="<f8")
    except ValueError:
        values = np.empty(0)
    if not len(values) or np.isnan(values).any() or n not in (None, len(values)):
        raise ValueError(
            f"{path} holds no value for each example at the circuit {key[:12]!r}; delete it"
        )
    return key, torch.from_numpy(values.copy())


def _object(path: Path, line: str) -> dict[str, object]:
    try:
        content = parse_json(line)
    except ValueError:
        content = None
    if not isinstance(content, dict):
        raise ValueError(f"{path} {_NO_LOG}")
    return content


def _check(key: str, content: str) -> str:
    return hashlib.sha256(f"{key} {content}".encode()).hexdigest()[:16]
