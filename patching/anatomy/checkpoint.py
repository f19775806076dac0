"""Which files a model folder is made of, and whether they are still the ones that were read."""

from pathlib import Path, PurePosixPath

from patching.files.parsing import read_json

Facts = tuple[str, int, int, int, int, int]
"""Where a file lies and what the file system says of it: another one once it was written to."""

_WHOLE_OR_INDEX = (
    ("model.safetensors", "model.safetensors.index.json"),
    ("pytorch_model.bin", "pytorch_model.bin.index.json"),
)
"""What Hugging Face looks for, in its order: one file, or the list of several."""

ADAPTER = "adapter_config.json"


def weight_files(folder: Path) -> tuple[Path, ...]:
    """The files that Hugging Face loads from a folder; those an index names, wherever they lie.

    Raises:
        ValueError: if there are none, one is not there, an index leads out of the folder, or the
            folder is one of an adapter.
    """
    if (folder / ADAPTER).is_file():
        raise ValueError(
            f"{folder} holds an adapter ({ADAPTER}), which is no whole model; merge it into its "
            "model first (peft: merge_and_unload, save_pretrained) and load that folder"
        )
    for whole, index in _WHOLE_OR_INDEX:
        if (folder / whole).is_file():
            return (folder / whole,)
        if (folder / index).is_file():
            return _named_in(folder, index)
    names = ", ".join(name for pair in _WHOLE_OR_INDEX for name in pair)
    raise ValueError(f"{folder} is not a model folder: it holds none of {names}")


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


def _named_in(folder: Path, index: str) -> tuple[Path, ...]:
    content = read_json(folder / index)
    named = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(named, dict) or not named:
        raise ValueError(f"{folder / index} has no weight_map, which names the weight files")
    files = []
    for name in sorted(set(map(str, named.values()))):
        parts = PurePosixPath(name.replace("\\", "/"))
        if parts.is_absolute() or ".." in parts.parts:
            raise ValueError(f"{folder / index} names {name!r}, which is not in the folder")
        if not (folder / name).is_file():
            raise ValueError(f"{folder} is incomplete: {index} names {name!r}, which is not there")
        files.append(folder / name)
    return tuple(files)
