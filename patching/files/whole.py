"""Whole files: written atomically, read with a limit, found only inside their own folder.

A reader sees the old file or the whole new one, never a part. What is in a file: see `parsing` for
text and `tensor_files` for tensors.
"""

import os
import re
import stat
import tempfile
from pathlib import Path

MOST_BYTES = 2**30
"""Larger files of text are refused: none of ours comes near, and parsing takes ten times that."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


def write_bytes(path: str | Path, *content: bytes | memoryview) -> None:
    """Write `content` to `path` by way of a temporary file beside it; folders are made.

    A link in its place is replaced, not followed.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.writelines(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o666 & ~_umask())
        os.replace(name, path)
        _sync_folder(path.parent)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def write_text(path: str | Path, content: str) -> None:
    """Write text as UTF-8, as `write_bytes` does."""
    write_bytes(path, content.encode("utf-8"))


def read_bytes(path: str | Path) -> bytes:
    """What a file holds.

    Raises:
        ValueError: if it is a folder, a device or a pipe, or larger than any file of ours.
    """
    path = Path(path)
    require_file(path)
    with path.open("rb") as file:
        content = file.read(MOST_BYTES + 1)
    if len(content) > MOST_BYTES:
        raise ValueError(f"{path} has more than {MOST_BYTES:,} bytes, the most that is read")
    return content


def read_text(path: str | Path) -> str:
    """The text of a UTF-8 file, without the mark that spreadsheets put first.

    Raises:
        ValueError: as `read_bytes`, and if it is not UTF-8.
    """
    try:
        return read_bytes(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path} is no text in UTF-8: byte {error.start} is {error.object[error.start]:#04x}"
        ) from None


def require_file(path: Path) -> None:
    """Refuse what is there and is no plain file: to open a pipe would wait for ever.

    Raises:
        FileNotFoundError: if nothing is there.
        ValueError: saying what it is.
    """
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        raise
    except OSError as error:  # links in a circle, a folder that is closed to us
        raise ValueError(f"{path} cannot be read: {error.strerror}") from None
    if not stat.S_ISREG(mode):
        what = "a folder" if stat.S_ISDIR(mode) else "a device or a pipe"
        raise ValueError(f"{path} is {what}; name a file")


def inside(folder: str | Path, name: str) -> Path:
    """The path of a file in a folder of ours, which a name from elsewhere cannot lead out of.

    >>> inside("runs/x", "chunk-0001.safetensors").as_posix()
    'runs/x/chunk-0001.safetensors'

    Raises:
        ValueError: if the name holds more than letters, digits, `.`, `_` and `-` (100 at most, the
            first a letter or digit), or a link stands in its place.
    """
    if _NAME.fullmatch(name) is None:
        raise ValueError(
            f"{name[:120]!r} is no name for a file in {folder}: letters, digits, '.', '_' and '-' "
            "would be right, at most 100, the first a letter or digit"
        )
    path = Path(folder) / name
    if path.is_symlink():
        raise ValueError(f"{path} is a link, which could lead anywhere; put what it leads to there")
    return path


def _sync_folder(folder: Path) -> None:
    """Make the new name of a file last, should the machine go down now."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
