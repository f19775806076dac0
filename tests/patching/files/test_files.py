"""Atomic writing: the old file or the whole new one, and nothing left behind."""

import os
import stat

import pytest

from patching.files.whole import write_bytes, write_text


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
@pytest.mark.parametrize("step", ["replace", "fsync", "chmod"])
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
    """Temporary files are private; what takes their place must not be."""
    before = os.umask(0o027)
    try:
        write_text(tmp_path / "file.txt", "x")
        assert os.umask(0o027) == 0o027, "and the user's mask is left as it was"
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "file.txt").stat().st_mode) == 0o640


def test_a_folder_in_the_way_is_an_error_and_leaves_nothing(tmp_path):
    (tmp_path / "file.txt").mkdir()
    with pytest.raises(OSError, match="file.txt"):
        write_text(tmp_path / "file.txt", "x")
    assert [p.name for p in tmp_path.iterdir()] == ["file.txt"]
