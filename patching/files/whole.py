"""Whole files: written atomically, read with a limit, found only inside their own folder.

A reader sees the old file or the whole new one, never a part. What is in a file: see `parsing` for
text and `tensor_files` for tensors.
"""

import os
import re
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

MOST_BYTES = 2**30
"""Larger files of text are refused: none of ours comes near, and parsing takes ten times that."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


def write_bytes(path: str | Path, *content: bytes | memoryview) -> None:
    """Write `content` to `path` by way of a temporary file beside it; folders are made.

    A link in its place is replaced, not followed. The file has the rights that the user gives new
    files from its first moment on.

    Raises:
        ValueError: if a device or a pipe is in its place.
    """
    path = Path(path)
    _refuse_what_is_no_file(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    name = path.parent / f".{path.name[:60]}.{secrets.token_hex(8)}"
    handle = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        with os.fdopen(handle, "wb") as file:
            file.writelines(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(name, path)
        _sync_folder(path.parent)
    except BaseException:
        name.unlink(missing_ok=True)
        raise


def write_text(path: str | Path, content: str) -> None:
    """Write text as UTF-8, as `write_bytes` does."""
    write_bytes(path, content.encode("utf-8"))


def append_lines(path: str | Path, lines: str) -> None:
    """Add lines to the end of a file, made if need be, in one piece: those of writers never mix.

    A last line that was cut off, when its writer was stopped, is taken away.

    Raises:
        ValueError: if it is a link, a folder, a device or a pipe.
    """
    path = Path(path)
    with _held(path) as handle:
        size = os.fstat(handle).st_size
        if size and os.pread(handle, 1, size - 1) != b"\n":
            os.truncate(handle, path.read_bytes().rfind(b"\n") + 1)
        left = memoryview(lines.encode("utf-8"))
        while left:
            left = left[os.write(handle, left) :]


def begin_lines(path: str | Path, line: str) -> bool:
    """Make a file that lines are added to, with its first; one that is there is left as it is.

    Of several that begin one at the same instant, the first does, and the others find its line.

    Raises:
        ValueError: as `append_lines`.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with _held(path) as handle:
        begun = os.fstat(handle).st_size > 0
        if not begun:
            os.write(handle, line.encode("utf-8"))
            os.fsync(handle)
    return not begun


def whole_lines(path: str | Path) -> list[str]:
    """The lines of a file that lines are added to, without a last one that was cut off.

    Raises:
        ValueError: as `read_text`.
    """
    return read_text(path).split("\n")[:-1]


def read_bytes(path: str | Path, most: int | None = None) -> bytes:
    """What a file holds, which may be larger than any of ours only if `most` says so.

    Raises:
        ValueError: if it is a folder, a device or a pipe, or larger than it may be.
    """
    path = Path(path)
    require_file(path)
    with path.open("rb") as file:
        most = MOST_BYTES if most is None else most
        content = file.read(min(most, path.stat().st_size) + 1)
    if len(content) > most:
        raise ValueError(f"{path} has more than {most:,} bytes, the most that is read")
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


@contextmanager
def _held(path: Path) -> Iterator[int]:
    """A plain file to add to, kept from others that would hold it; never waits for a pipe.

    Raises:
        ValueError: if something else is there.
    """
    _refuse_what_is_no_file(path)
    if path.is_symlink():
        raise ValueError(f"{path} is a link, which could lead anywhere; name a file")
    safely = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    handle = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | safely, 0o666)
    try:
        _lock(handle)
        yield handle
    finally:
        os.close(handle)


def _lock(handle: int) -> None:
    """Wait until nobody else holds the file, where the system knows of such locks."""
    try:
        import fcntl
    except ImportError:  # Windows: one writer at a time is up to the user
        return
    with suppress(OSError):  # some network file systems
        fcntl.flock(handle, fcntl.LOCK_EX)


def _refuse_what_is_no_file(path: Path) -> None:
    """Refuse to write in the place of a folder, a device or a pipe.

    Raises:
        ValueError: saying what it is.
    """
    with suppress(OSError):
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode):
            what = "a folder" if stat.S_ISDIR(mode) else "a device or a pipe"
            raise ValueError(f"{path} is {what}; name a file")


def _sync_folder(folder: Path) -> None:
    """Make the new name of a file last, should the machine go down now; where that can be had."""
    with suppress(OSError):  # not every file system lets a folder be opened and synced
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
