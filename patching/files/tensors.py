"""Files of tensors: our safetensors with a checksum, and `.pt` and `.npz` of others, without code.

Safetensors themselves have no checksum: flipped bits, keys twice and any names load silently.
"""

import hashlib
import io
import json
import struct
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from patching.files.parsing import parse_json, shown
from patching.files.whole import MOST_BYTES, read_bytes, require_file, write_bytes

_LONGEST_HEADER = 10**8


def write_tensor_file(
    path: str | Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]
) -> None:
    """Write tensors on the CPU and texts, with a checksum; equal content makes equal files."""
    whole = {**metadata, "checksum": checksum(tensors, metadata)}
    apart = {
        name: tensor.clone(memory_format=torch.contiguous_format)
        for name, tensor in tensors.items()
    }  # parts of one are refused
    write_bytes(path, *_sorted_header(save(apart, whole)))


def read_tensor_file(path: str | Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors and texts of a safetensors file; the checksum, if any, is not looked at.

    Raises:
        MemoryError: if there is no room for them.
        OSError: if there is none, or it cannot be read just now.
        ValueError: if the file is damaged, or of another kind.
    """
    path = Path(path)
    require_file(path)
    try:
        _require_header(path)
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except (OSError, MemoryError):  # the machine's fault, not the file's
        raise
    except Exception as error:  # many kinds, by what is damaged: said in one line
        raise ValueError(
            f"{path} is not a whole safetensors file (cut short or of another kind): "
            f"{_reason(error)}"
        ) from None


def write_tensors(
    path: str | Path, tensors: Mapping[str, Tensor], kind: str, facts: Mapping[str, object]
) -> None:
    """Tensors with plain facts beside them, as one safetensors file, written atomically."""
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    write_tensor_file(path, plain, {"format": kind, "facts": json.dumps(facts, sort_keys=True)})


def read_tensors(path: str | Path, kind: str) -> tuple[dict[str, Tensor], dict[str, object]]:
    """What `write_tensors` wrote.

    Raises:
        ValueError: if the file is damaged or of another kind.
    """
    tensors, metadata = read_tensor_file(path)
    if metadata.get("format") != kind:
        holds = f": it holds {shown(metadata['format'])}" if "format" in metadata else ""
        wanted = kind.rsplit(" ", 1)[0]
        raise ValueError(f"{path} is no {wanted} of a kind that this program reads{holds}")
    require_checksum(path, tensors, metadata)
    try:
        facts = parse_json(metadata.get("facts", "null"))
    except ValueError as error:
        raise ValueError(f"{path}: its facts are no JSON: {error}") from None
    if not isinstance(facts, dict):
        raise ValueError(f"{path}: its facts are {shown(facts)}; a JSON object would be right")
    return tensors, facts


def require_checksum(
    path: str | Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]
) -> None:
    """Refuse what is not as it was written.

    Raises:
        ValueError: if the checksum does not fit.
    """
    if metadata.get("checksum") != checksum(tensors, metadata):
        raise ValueError(f"{path} was altered after it was written: its checksum does not fit")


def require_names(path: str | Path, tensors: Mapping[str, Tensor], names: Sequence[str]) -> None:
    """Refuse files that hold tensors of other names.

    Raises:
        ValueError: naming one.
    """
    unknown = sorted(set(tensors) - set(names))
    if unknown:
        raise ValueError(
            f"{path} holds the tensor {shown(unknown[0])}; only {', '.join(names)} belong there"
        )


def require_like(
    path: str | Path, tensors: Mapping[str, Tensor], wanted: Mapping[str, Tensor]
) -> None:
    """Refuse files that hold other tensors than wanted, or of another type or shape, or NaN.

    Raises:
        ValueError: naming one.
    """
    require_names(path, tensors, [*wanted])
    for name, like in wanted.items():
        if name not in tensors:
            raise ValueError(f"{path} lacks the tensor {name!r}; delete it to begin anew")
        found, needed = in_words(tensors[name]), in_words(like)
        if found != needed or not tensors[name].isfinite().all():
            raise ValueError(
                f"the tensor {name!r} of {path} is {found}, or not finite; finite {needed} would "
                "be right: delete it to begin anew"
            )


def in_words(tensor: Tensor) -> str:
    """A tensor's type and shape, for a message."""
    return f"{str(tensor.dtype).removeprefix('torch.')} of shape {tuple(tensor.shape)}"


def checksum(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    """A hash of all names, types, shapes, numbers and texts but the checksum itself."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(_bytes(tensor))
    rest = {name: text for name, text in metadata.items() if name != "checksum"}
    digest.update(json.dumps(rest, sort_keys=True).encode())
    return digest.hexdigest()


def read_pt(path: str | Path, most: int | None = None) -> object:
    """The tensors, names and numbers of a `.pt` file; nothing in it is executed.

    It may hold `most` bytes, or as many as a file of ours.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: if it is no zip archive, as `torch.save` writes them since 2020, is damaged, or
            holds anything else.
    """
    try:
        with _archive(path, most) as stream:
            return torch.load(stream, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise
    except Exception as error:  # many kinds, by what is damaged: said in one line
        raise ValueError(
            f"{path} is no whole .pt file of plain tensors: {_reason(error)}"
        ) from None


def read_npz(path: str | Path, most: int | None = None) -> dict[str, Tensor]:
    """The arrays of an `.npz` file of plain numbers.

    It may hold `most` bytes, or as many as a file of ours.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: if it is damaged, or holds anything else.
    """
    try:
        with _archive(path, most) as stream, np.load(stream, allow_pickle=False) as arrays:
            return {str(name): torch.from_numpy(arrays[name]) for name in arrays.files}
    except FileNotFoundError:
        raise
    except Exception as error:  # many kinds, by what is damaged: said in one line
        raise ValueError(f"{path} is no .npz file of plain arrays: {_reason(error)}") from None


def _archive(path: str | Path, most: int | None) -> io.BytesIO:
    """A zip archive that does not unpack to more than may be read.

    Raises:
        ValueError: if it is none, or does.
    """
    stream = io.BytesIO(read_bytes(path, most))
    most = MOST_BYTES if most is None else most
    if not zipfile.is_zipfile(stream):
        raise ValueError("it is no zip archive")
    with zipfile.ZipFile(stream) as archive:
        size = sum(entry.file_size for entry in archive.infolist())
        if size > most:
            raise ValueError(f"it unpacks to {size:,} bytes; {most:,} are the most")
        damaged = archive.testzip()
    if damaged is not None:
        raise ValueError(f"the checksum of {shown(damaged)} in it does not fit")
    stream.seek(0)
    return stream


def _reason(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).partition("\n")[0][:200]


def _require_header(path: Path) -> None:
    """Refuse a header that is too long, or says a thing twice.

    Raises:
        ValueError: saying what is wrong.
    """
    with path.open("rb") as file:
        start = file.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
        if not 0 < length <= min(_LONGEST_HEADER, path.stat().st_size - 8):
            raise ValueError(f"its header cannot be {length:,} bytes long")
        parse_json(file.read(length).decode("utf-8"))


def _sorted_header(content: bytes) -> tuple[bytes, memoryview]:
    """The same file with its header in one order: its beginning, and its tensors."""
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    text = json.dumps(header, sort_keys=True, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text, memoryview(content)[8 + length :]


def _bytes(tensor: Tensor) -> memoryview:
    return tensor.contiguous().view(-1).view(torch.uint8).numpy().data
