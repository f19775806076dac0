"""The chunks of one computation in a folder: whole and of this computation, or absent.

A chunk is a safetensors file with a checksum over its tensors and over who it belongs to. It is
written to a temporary file and renamed, so that it is there or not, whoever is killed when. What
is damaged or of another computation is named in a warning, taken away and done again. Numbers are
finite: none other is kept or read.
"""

import hashlib
import json
import os
import time
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from patching.files.parsing import number, parse_json, read_json, require_keys, shown
from patching.files.tensors import read_tensor_file, require_checksum, write_tensor_file
from patching.files.whole import append_lines, inside, write_text
from patching.work.chunk import Done
from patching.work.kinds import Kinds, Lengths, all_alike

VERSION = 2
"""Of what decides a run's identity: chunks of an earlier version told models apart by less."""

MOST_BYTES = 2**32

ABANDONED = 3600.0
"""Seconds after which a half-written chunk is nobody's: other workers may be writing just now."""


def run_id(settings: Mapping[str, object]) -> str:
    """Equal for equal settings, whatever their order: a hash of them as JSON.

    Raises:
        ValueError: if a value does not fit into JSON.
    """
    return hashlib.sha256(_canonical(settings).encode()).hexdigest()


@dataclass
class Store:
    """The folder of `n` chunks of one computation; `open_store` makes one."""

    folder: Path
    id: str
    n: int
    kinds: Kinds

    def missing(self) -> list[int]:
        """Numbers of the chunks that are not there; looks anew every time."""
        there = set(os.listdir(self.folder))
        return [number for number in range(self.n) if self.path(number).name not in there]

    def keep(self, number: int, done: Done) -> None:
        """Write a chunk, and a line about it into the log.

        Raises:
            ValueError: if the chunk holds NaN or infinite numbers, which would be no result.
        """
        for name, part in done.parts.items():
            if not _is_finite(part):
                raise ValueError(
                    f"chunk {number} of {self.n} came out with NaN or infinite numbers "
                    f"({name}); most likely the weights or the metric hold NaN"
                )
        facts = {"worker": done.worker, "seconds": done.seconds, "memory": dict(done.memory)}
        said = {"run": self.id, "chunk": str(number), "facts": json.dumps(facts)}
        self.kinds.learn(number, done.parts)
        write_tensor_file(self.path(number), done.parts, said)
        self.log({"chunk": number, **facts, "peak_bytes": dict(done.peak_bytes)})

    def read(self, number: int) -> Done | None:
        """A chunk that is there and whole; a damaged one is reported, removed, and None.

        Raises:
            ValueError: if a folder is in its place.
        """
        path = self.path(number)
        try:
            done = self._read(path, number)
        except FileNotFoundError:
            return None
        except ValueError as error:
            reason = " ".join(str(error).split()).removeprefix(f"{path} ")
            warnings.warn(f"{path} is damaged and will be done again: {reason}", stacklevel=2)
            self.log({"chunk": number, "damaged": reason})
            if path.is_dir() and not path.is_symlink():
                raise ValueError(f"{path} is a folder; move it away") from None
            path.unlink(missing_ok=True)
            return None
        return done

    def path(self, number: int) -> Path:
        """Where a chunk is kept."""
        return self.folder / f"chunk-{number:05d}.safetensors"

    def log(self, facts: Mapping[str, object]) -> None:
        """Append a line, in one piece, so that lines of several workers never mix.

        Raises:
            ValueError: if the log is a link, a folder, a device or a pipe.
        """
        line = json.dumps({"time": round(time.time(), 3), **facts}) + "\n"
        append_lines(self.folder / "log.jsonl", line)

    def tidy(self) -> None:
        """Remove what killed writers left behind; for when nothing is missing any more."""
        for leftover in self.folder.glob(".chunk-*"):
            if time.time() - _written_at(leftover) > ABANDONED:
                leftover.unlink(missing_ok=True)

    def _read(self, path: Path, number: int) -> Done:
        _check_file(path)
        parts, said = read_tensor_file(path)
        require_checksum(path, parts, said)
        if (said.get("run"), said.get("chunk")) != (self.id, str(number)):
            raise ValueError("it is another chunk, or of another run, whose file was put here")
        self.kinds.check(number, parts)
        if not all(_is_finite(part) for part in parts.values()):
            raise ValueError("it holds NaN or infinite numbers")
        worker, seconds, memory = _facts(said.get("facts", ""))
        return Done(parts, worker, seconds, memory=memory)


def open_store(
    folder: Path | str,
    what: str,
    settings: Mapping[str, object],
    n: int,
    lengths: Lengths = all_alike,
) -> Store:
    """The folder of one computation inside a run's folder, made if need be.

    Its name is `what` and a hash of the settings, the number of chunks among them; the settings
    are beside the chunks in `settings.json`, for people.

    Raises:
        ValueError: if `what` is no plain name, the folder is a link or a file, settings do not
            fit into JSON, or the folder holds chunks of an older version.
    """
    settings = {"format": VERSION, "what": what, "chunks": n, **settings}
    identity = run_id(settings)
    place = inside(Path(folder).resolve(), f"{what}-{identity[:32]}")
    if place.exists() and not place.is_dir():
        raise ValueError(f"{place} is a file; a run keeps its chunks in a folder")
    _refuse_older(Path(folder).resolve(), what)
    place.mkdir(parents=True, exist_ok=True)
    store = Store(place, identity, n, Kinds.of(place, lengths))
    text = json.dumps(settings, indent=1, sort_keys=True) + "\n"
    for_people = place / "settings.json"
    is_there = for_people.is_file() and not for_people.is_symlink()
    if not is_there or not _holds(for_people, text.encode()):
        write_text(for_people, text)
    return store


def _refuse_older(folder: Path, what: str) -> None:
    """Refuse a folder with chunks of the same computation by an earlier version.

    Raises:
        ValueError: naming them.
    """
    for said in sorted(folder.glob(f"{what}-*/settings.json")):
        try:
            settings = read_json(said)
        except (OSError, ValueError):  # another worker may be removing it; it is for people
            continue
        version = settings.get("format") if isinstance(settings, dict) else None
        if isinstance(version, int) and version < VERSION:
            raise ValueError(
                f"{said.parent} holds chunks of an older version, which told models apart by their "
                "weights alone; they are not mixed with new ones. Give another folder, or delete "
                "that one"
            )


def _facts(text: str) -> tuple[str, float, dict[str, int]]:
    """Who did a chunk, in how many seconds, and what its budget counted.

    Raises:
        ValueError: if the text says something else.
    """
    facts = require_keys(parse_json(text), ("worker", "seconds", "memory"))
    memory = facts["memory"]
    if not isinstance(memory, dict) or not all(type(n) is int for n in memory.values()):
        raise ValueError(f"its memory is {shown(memory)}; counts by name would be right")
    return str(facts["worker"]), number(facts["seconds"]), memory


def _check_file(path: Path) -> None:
    if path.is_symlink():
        raise ValueError("it is a link")
    size = path.stat().st_size
    if size > MOST_BYTES:
        raise ValueError(f"it has {size:,} bytes, more than any chunk")


def _holds(path: Path, content: bytes) -> bool:
    return path.stat().st_size == len(content) and path.read_bytes() == content


def _is_finite(part: Tensor) -> bool:
    """Whether no number is NaN or infinite: the extremes are, if any is; tells ten times faster."""
    if not part.is_floating_point() or not part.numel():
        return True
    return bool(torch.stack(part.aminmax()).isfinite().all())


def _canonical(settings: Mapping[str, object]) -> str:
    try:
        return json.dumps(settings, sort_keys=True, allow_nan=False, separators=(",", ":"))
    except (TypeError, ValueError) as error:
        raise ValueError(f"the settings of a run do not fit into JSON: {error}") from None


def _written_at(path: Path) -> float:
    """When a file was last written to; now, if another worker has just put it in its place."""
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return time.time()
