"""Atomic writing: the old file or the whole new one, and nothing left behind."""

import os
import stat
from concurrent.futures import ThreadPoolExecutor

import pytest

from patching.files.whole import append_lines, whole_lines, write_bytes, write_text


class Interrupted(BaseException):
    """Like the user's Ctrl-C: not an `Exception`."""


def test_what_was_written_is_there(tmp_path):
    path = tmp_path / "new" / "folder" / "file.txt"
    write_text(path, "naïve → 1\n")
    assert path.read_bytes() == "naïve → 1\n".encode()
    write_bytes(str(path), b"\x00\xff\r\n")
    assert path.read_bytes() == b"\x00\xff\r\n"
    assert [p.name for p in path.parent.iterdir()] == ["file.txt"]


@pytest.mark.parametrize("error", [OSError, Interrupted])
@pytest.mark.parametrize("step", ["replace", "fsync"])
def test_the_old_file_stays_when_writing_fails(step, error, tmp_path, monkeypatch):
    def fail(*args: object) -> None:
        raise error("disk full")

    path = tmp_path / "file.txt"
    write_text(path, "old")
    with monkeypatch.context() as patched, pytest.raises(error, match="disk full"):
        patched.setattr(os, step, fail)
        write_text(path, "new")
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["file.txt"]


def test_nothing_appears_when_the_first_writing_fails(tmp_path, monkeypatch):
    def fail(*args: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        write_text(tmp_path / "file.txt", "new")
    assert list(tmp_path.iterdir()) == []


def test_the_new_file_is_in_place_only_when_it_is_whole(tmp_path, monkeypatch):
    path, seen = tmp_path / "file.txt", []
    write_text(path, "old")
    replace = os.replace

    def look(source: str, target: str) -> None:
        with open(source) as file:
            seen.append((file.read(), path.read_text()))
        replace(source, target)

    monkeypatch.setattr(os, "replace", look)
    write_text(path, "new")
    assert seen == [("new", "old")]
    assert path.read_text() == "new"


def test_a_file_has_the_rights_that_the_user_gives_new_files(tmp_path):
    """From the first moment on, and without touching the mask, which all threads share."""
    before = os.umask(0o027)
    try:
        write_text(tmp_path / "file.txt", "x")
        assert os.umask(0o027) == 0o027, "and the user's mask is left as it was"
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "file.txt").stat().st_mode) == 0o640


def test_a_folder_in_the_way_is_an_error_and_leaves_nothing(tmp_path):
    (tmp_path / "file.txt").mkdir()
    with pytest.raises(ValueError, match="file.txt is a folder; name a file"):
        write_text(tmp_path / "file.txt", "x")
    assert [p.name for p in tmp_path.iterdir()] == ["file.txt"]


def test_the_mask_of_rights_is_never_touched(tmp_path, monkeypatch):
    """It is the whole process's: another thread would make a file that anybody may write."""
    monkeypatch.setattr(os, "umask", None)
    write_text(tmp_path / "file.txt", "x")
    append_lines(tmp_path / "log", "x\n")


def test_file_systems_that_sync_no_folder_will_do(tmp_path, monkeypatch):
    real = os.open

    def open_files_only(path: object, flags: int, *mode: int) -> int:
        if os.path.isdir(path):  # type: ignore[arg-type]
            raise OSError(22, "Invalid argument")
        return real(path, flags, *mode)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "open", open_files_only)
    write_text(tmp_path / "file.txt", "x")
    assert (tmp_path / "file.txt").read_text() == "x"


def test_names_of_any_length_that_the_system_takes_can_be_written(tmp_path):
    for name in ("a" * 255, "é" * 127):
        write_text(tmp_path / name, "x")
        assert (tmp_path / name).read_text() == "x"


def no_files(folder):
    """What is there and is no file, by name."""
    os.mkfifo(folder / "pipe")
    (folder / "device").symlink_to("/dev/null")
    (folder / "folder").mkdir()
    return {name: folder / name for name in ("pipe", "device", "folder")}


def test_pipes_devices_and_folders_are_never_written_over_or_waited_for(tmp_path):
    for name, path in no_files(tmp_path).items():
        what = "a folder" if name == "folder" else "a device or a pipe"
        for use in (write_text, append_lines):
            with pytest.raises(ValueError, match=f"{name} is {what}; name a file"):
                use(path, "x")
    (tmp_path / "link").symlink_to(tmp_path / "target")
    with pytest.raises(ValueError, match="link is a link, which could lead anywhere"):
        append_lines(tmp_path / "link", "x")
    assert not (tmp_path / "target").exists()


def test_a_last_line_that_was_cut_off_is_taken_away(tmp_path):
    (tmp_path / "log").write_bytes("é\u2028\ntwo\nthr".encode())
    assert whole_lines(tmp_path / "log") == ["é\u2028", "two"]
    assert (tmp_path / "log").read_bytes().endswith(b"thr"), "to read is not to write"
    append_lines(tmp_path / "log", "three\n")
    assert whole_lines(tmp_path / "log") == ["é\u2028", "two", "three"]
    (tmp_path / "log").write_bytes(b"\xff\n")
    with pytest.raises(ValueError, match="log is no text in UTF-8: byte 0"):
        whole_lines(tmp_path / "log")


def test_writers_at_once_leave_whole_files_and_whole_lines(tmp_path):
    """Lines longer than any buffer, from threads that cut what looks unfinished."""

    def write(i: int) -> None:
        for _ in range(20):
            write_text(tmp_path / "file", str(i) * 10_000)
            append_lines(tmp_path / "log", str(i) * 100_000 + "\n")
            whole_lines(tmp_path / "log")
            text = (tmp_path / "file").read_text()
            assert len(text) == 10_000 and len({*text}) == 1

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(write, range(4)))
    lines = whole_lines(tmp_path / "log")
    assert sorted(len({*line}) for line in lines) == [1] * 80
    assert {len(line) for line in lines} == {100_000}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "log"]
