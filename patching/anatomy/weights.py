"""A hash that tells one set of weights from another, cached by file and time."""

import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor

from patching.files.whole import write_text

_WEIGHT_SUFFIXES = (".safetensors", ".bin")


def hash_folder(folder: Path) -> str:
    """A short hash of a model folder's weight files.

    Hashing many gigabytes takes a while, so results are kept in the user's cache folder under
    the files' names, sizes and times.
    """
    files = sorted(path for path in folder.iterdir() if path.suffix in _WEIGHT_SUFFIXES)
    facts = [(str(f.resolve()), f.stat().st_size, f.stat().st_mtime_ns) for f in files]
    key = hashlib.sha256(json.dumps(facts).encode()).hexdigest()
    known = _read_cache()
    if key not in known:
        digest = hashlib.sha256()
        for path in files:
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
        known[key] = digest.hexdigest()[:16]
        _write_cache(known)
    return known[key]


def hash_tensors(tensors: Iterable[tuple[str, Tensor]]) -> str:
    """A short hash of named tensors: names, types, shapes and bytes."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors, key=lambda item: item[0]):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().reshape(-1).contiguous().view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]


def sums_of(tensors: Iterable[Tensor]) -> tuple[int, ...]:
    """A number for each tensor that changes when its numbers do: the sum of its bits, as integers.

    Exact whatever adds it up, and hundreds of times faster than a hash; only an exchange of two
    numbers inside a tensor goes unseen.
    """
    return tuple(int(_as_integers(tensor.detach()).sum()) for tensor in tensors)


def _as_integers(tensor: Tensor) -> Tensor:
    kinds = {8: torch.int64, 4: torch.int32, 2: torch.int16, 1: torch.uint8}
    return tensor.contiguous().view(kinds[tensor.element_size()])


def _cache_file() -> Path:
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "circuit-workbench" / "weights.json"


def _read_cache() -> dict[str, str]:
    try:
        known = json.loads(_cache_file().read_text(encoding="utf-8"))
    except (OSError, ValueError):  # no cache yet, or one cut off: hash again
        return {}
    return known if isinstance(known, dict) else {}


def _write_cache(known: dict[str, str]) -> None:
    try:
        write_text(_cache_file(), json.dumps(known))
    except OSError:  # a home that cannot be written to costs time, not the result
        return
