"""Which files a model folder is made of, and whether they are still the ones that were read."""

from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

import torch

from patching.files.parsing import read_json, shown

Facts = tuple[str, int, int, int, int, int]
"""Where a file lies and what the file system says of it: another one once it was written to."""

WHOLE_OR_INDEX = (
    ("model.safetensors", "model.safetensors.index.json"),
    ("pytorch_model.bin", "pytorch_model.bin.index.json"),
)
"""What Hugging Face looks for, in its order: one file, or the list of several."""

_LAYERS = ("num_hidden_layers", "n_layer", "num_layers", "n_layers")
_SIZES = (
    *("hidden_size", "n_embd", "d_model", "vocab_size", "intermediate_size", "n_inner", "ffn_dim"),
    *("num_attention_heads", "n_head", "num_heads", "num_key_value_heads", "head_dim"),
    *("num_experts", "num_local_experts", "moe_intermediate_size", "n_positions"),
    *("word_embed_proj_dim", "rotary_dim"),
)
_MOST_POSITIONS = 2**27
_MOST_TOKENIZER = 2**28
_LEAST_TENSOR = 64
"""Bytes that a file takes for any tensor, its name and its place."""

ADAPTER = "adapter_config.json"


def weight_files(folder: Path) -> tuple[Path, ...]:
    """The files that Hugging Face loads from a folder; those an index names, wherever they lie.

    Raises:
        ValueError: if there are none, one is not there, an index leads out of the folder, or the
            folder holds an adapter as well.
    """
    if (folder / ADAPTER).is_file():
        raise ValueError(
            f"{folder} holds a model and an adapter ({ADAPTER}): which is meant? Move the adapter "
            "into a folder of its own"
        )
    for whole, index in WHOLE_OR_INDEX:
        if (folder / whole).is_file():
            return (folder / whole,)
        if (folder / index).is_file():
            return _named_in(folder, index)
    names = ", ".join(name for pair in WHOLE_OR_INDEX for name in pair)
    raise ValueError(f"{folder} is not a model folder: it holds none of {names}")


def names_in(folder: Path, index: str) -> list[str]:
    """The names of the weight files that an index in a folder lists.

    Raises:
        ValueError: if it lists none, or leads out of the folder.
    """
    content = read_json(folder / index)
    named = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(named, dict) or not named:
        raise ValueError(f"{folder / index} has no weight_map, which names the weight files")
    names = sorted(set(map(str, named.values())))
    for name in names:
        parts = PurePosixPath(name.replace("\\", "/"))
        if parts.is_absolute() or ".." in parts.parts:
            raise ValueError(f"{folder / index} names {name!r}, which is not in the folder")
    return names


def file_facts(path: Path) -> Facts:
    """What tells a file from what it was or will be, short of reading it.

    Its size and the time it was written can be made equal by whoever writes it; its inode and the
    time of its last change cannot, on POSIX systems.
    """
    place = path.resolve()
    stat = place.stat()
    sizes = stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns
    return (str(place), stat.st_dev, stat.st_ino, *sizes)


def folder_facts(folder: Path) -> tuple[Facts, ...]:
    """The facts of config.json and of all weight files.

    Raises:
        ValueError: as `weight_files`.
    """
    return tuple(map(file_facts, (folder / "config.json", *weight_files(folder))))


def refuse_hostile(folder: Path) -> None:
    """Refuse a config.json that asks for more than its weight files could hold, before it is built.

    Every layer has a tensor of its own, and every size is one of some tensor.

    Raises:
        ValueError: naming the file, the entry and what would be possible.
    """
    path = folder / "config.json"
    content = read_json(path)
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds no configuration: a JSON object would be right")
    n_bytes = sum(file.stat().st_size for file in weight_files(folder))
    most = {name: n_bytes // _LEAST_TENSOR for name in _LAYERS} | dict.fromkeys(_SIZES, n_bytes)
    most["max_position_embeddings"] = max(_MOST_POSITIONS, n_bytes)
    for key, value in _entries(content):
        if key in ("dtype", "torch_dtype") and not _is_dtype(value):
            raise ValueError(
                f"{path} says that {key} is {shown(value)}, which is no type of torch's"
            )
        if key in most and isinstance(value, int) and not 0 <= value <= most[key]:
            raise ValueError(
                f"{path} says that {key} is {value:,}; the weight files beside it, of {n_bytes:,} "
                f"bytes, allow for 0 to {most[key]:,}"
            )


def refuse_huge(folder: Path, names: Sequence[str]) -> None:
    """Refuse files of a tokenizer that are larger than any real one: reading takes ten times that.

    Raises:
        ValueError: naming the file.
    """
    for path in (folder / name for name in names):
        if path.is_file() and path.stat().st_size > _MOST_TOKENIZER:
            raise ValueError(
                f"{path} has {path.stat().st_size:,} bytes, and no tokenizer has more than "
                f"{_MOST_TOKENIZER:,}"
            )


def _entries(content: object) -> Iterator[tuple[str, object]]:
    """All entries of a configuration, those of configurations inside it too."""
    if isinstance(content, dict):
        for key, value in content.items():
            yield str(key), value
            yield from _entries(value)


def _is_dtype(value: object) -> bool:
    named = isinstance(value, str) and isinstance(getattr(torch, value, None), torch.dtype)
    return named or value is None or value == "auto" or isinstance(value, dict)


def _named_in(folder: Path, index: str) -> tuple[Path, ...]:
    files = [folder / name for name in names_in(folder, index)]
    for file in files:
        if not file.is_file():
            raise ValueError(
                f"{folder} is incomplete: {index} names '{file.relative_to(folder)}', which is not "
                "there"
            )
    return tuple(files)
