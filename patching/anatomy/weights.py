"""Hashes that tell one set of weights from another, by tensor: names, types, shapes and bytes.

How a folder cuts its tensors into files, and in which format, makes no difference, nor whether a
tensor that is tied to another is stored beside it.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from patching.anatomy.checkpoint import Facts, file_facts
from patching.files.whole import write_text

_SLICE = 2**24
"""Numbers of a tensor that are brought to the CPU at once."""

_NOTHING: Mapping[str, str] = {}

WRAPPED = "._original_component"
"""What the model library puts into the names of modules that it has wrapped."""


@dataclass(frozen=True)
class Names:
    """What a checkpoint calls its tensors: by their `id`; and what it may store beside others.

    `tied` says of tied tensors whose they are; `prefix` is what names may have or lack.
    """

    by_id: Mapping[int, str]
    tied: Mapping[str, str]
    prefix: str

    @staticmethod
    def of(module: nn.Module) -> "Names":
        """The names in a Hugging Face module, which the model library may have wrapped."""
        stored = module.state_dict(keep_vars=True)
        by_id = {id(stored[name]): name.replace(WRAPPED, "") for name in reversed(stored)}
        base = getattr(module, "base_model_prefix", "")
        tied = getattr(module, "all_tied_weights_keys", None) or {}
        return Names(by_id, dict(tied), f"{base}." if base else "")


def hash_files(
    files: Sequence[Path], *, tied: Mapping[str, str] = _NOTHING, prefix: str = ""
) -> str:
    """A short hash of the tensors in some weight files, safetensors or PyTorch's.

    `tied` says of tensors whose they are: stored beside that one and equal, they do not count.
    `prefix` is the one that names may have or lack. Hashing many gigabytes takes a while, so
    results are kept in the user's cache folder under the files' places, sizes, times of writing
    and of change; the last no program can set.

    Raises:
        ValueError: if a file cannot be read.
    """
    facts = [file_facts(path) for path in files]
    key = _key_of(facts, tied, prefix)
    known = _read_cache()
    if key not in known:
        digests: dict[str, str] = {}
        for path in files:
            digests |= _digests_of(path)
        known[key] = _joined(digests, tied, prefix)
        if [file_facts(path) for path in files] == facts:
            _write_cache(known)
    return known[key]


def hash_tensors(
    tensors: Iterable[tuple[str, Tensor]],
    *,
    tied: Mapping[str, str] = _NOTHING,
    prefix: str = "",
) -> str:
    """A short hash of named tensors, the same as `hash_files` has of a folder that holds them."""
    named = dict(tensors)
    return _joined(_digests(named), tied, prefix)


def _key_of(facts: Sequence[Facts], tied: Mapping[str, str], prefix: str) -> str:
    return hashlib.sha256(json.dumps([2, facts, sorted(tied.items()), prefix]).encode()).hexdigest()


def _joined(digests: Mapping[str, str], tied: Mapping[str, str], prefix: str) -> str:
    """One hash of many; the same with a tied tensor as without."""
    counted = {
        name.removeprefix(prefix): digest
        for name, digest in digests.items()
        if name not in tied or digests.get(tied[name]) != digest
    }
    return hashlib.sha256(json.dumps(sorted(counted.items())).encode()).hexdigest()[:16]


def _digests(named: Mapping[str, Tensor]) -> dict[str, str]:
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return dict(zip(named, pool.map(_digest, named.values()), strict=True))


def _digest(tensor: Tensor) -> str:
    """Of one tensor; on the CPU nothing of it is copied unless it lies there in pieces."""
    tensor = tensor.detach()
    digest = hashlib.sha256(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
    flat = tensor.reshape(-1) if tensor.is_contiguous() else tensor.contiguous().reshape(-1)
    for part in flat.split(_SLICE):
        digest.update(part.cpu().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _digests_of(path: Path) -> dict[str, str]:
    """The hashes of a file's tensors, by name, read one after the other.

    Raises:
        ValueError: if it cannot be read.
    """
    try:
        if path.suffix == ".safetensors":
            with safe_open(path, framework="pt") as file:
                names = list(file.keys())
                return _digests({name: file.get_tensor(name) for name in names})
        return _digests(torch.load(path, map_location="cpu", weights_only=True, mmap=True))
    except (OSError, RuntimeError, AttributeError, SafetensorError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from None


def _cache_file() -> Path:
    """Where hashes are kept.

    Raises:
        OSError: if nobody knows where this user's home is.
    """
    root = os.environ.get("XDG_CACHE_HOME")
    try:
        return Path(root or Path.home() / ".cache") / "circuit-workbench" / "weights.json"
    except RuntimeError as error:  # no HOME, and a user whom the system does not know
        raise OSError(str(error)) from None


def _read_cache() -> dict[str, str]:
    try:
        known = json.loads(_cache_file().read_text(encoding="utf-8"))
    except (OSError, ValueError):  # no cache yet, or one cut off: hash again
        return {}
    if not isinstance(known, dict):
        return {}
    return {key: value for key, value in known.items() if isinstance(value, str)}


def _write_cache(known: dict[str, str]) -> None:
    try:
        write_text(_cache_file(), json.dumps(known))
    except OSError:  # a home that cannot be written to costs time, not the result
        return
