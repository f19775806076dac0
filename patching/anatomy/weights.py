"""A hash that tells one set of weights from another, cached by file and time."""

import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor

from patching.files.whole import write_text

_BLOCK = 2048  # bytes
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


def quick_digests(tensors: Iterable[Tensor]) -> tuple[int, ...]:
    """A number for each tensor that tells whether somebody has changed it since; no hash.

    Its bits, added up as integers in blocks that count by their place: the same whatever adds them
    up, wherever the tensor lies. What cancels out inside a block goes unseen.
    """
    return tuple(_quick_digest(tensor.detach()) for tensor in tensors)


def _quick_digest(tensor: Tensor) -> int:
    raw = tensor.contiguous().view(-1).view(torch.uint8)
    n_blocks = len(raw) // _BLOCK
    words = raw[: n_blocks * _BLOCK].clone() if raw.storage_offset() % 8 else raw
    blocks = words[: n_blocks * _BLOCK].view(torch.int64).view(n_blocks, _BLOCK // 8).sum(dim=1)
    parts = torch.cat([blocks, raw[n_blocks * _BLOCK :].long()])
    return int((parts * torch.arange(1, len(parts) + 1, device=parts.device)).sum())


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
