"""Chunks in a folder: whole, of this run and finite, or reported and done again."""

import errno
import json
import os

import pytest
import torch
import working
from safetensors import safe_open
from safetensors.torch import save_file

from patching.files.tensors import checksum
from patching.work import Done, Run, run_id
from patching.work.kinds import KIND
from patching.work.store import VERSION, open_store


@pytest.fixture
def done(tmp_path):
    """A finished run: its folder, its chunks, and the hash of its sum."""
    total = working.add_up(Run(tmp_path))
    (folder,) = tmp_path.iterdir()
    return tmp_path, sorted(folder.glob("chunk-*")), total


def contents(path):
    with safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118


def forged(path, change):
    """The chunk with other tensors, or metadata, under the old checksum."""
    parts, said = contents(path)
    change(parts, said)
    save_file(parts, path, said)


def flip(path, at=-5):
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(bytes(content))


DAMAGE = {
    "cut short": lambda path: path.write_bytes(path.read_bytes()[:-40]),
    "empty": lambda path: path.write_bytes(b""),
    "with a bit flipped in a number": flip,
    "with a bit flipped in the header": lambda path: flip(path, 30),
    "with bytes after the end": lambda path: path.write_bytes(path.read_bytes() + b"more"),
    "with a NaN": lambda path: forged(path, lambda parts, said: parts["total"].fill_(torch.nan)),
    "of another run": lambda path: forged(path, lambda parts, said: said.update(run="0" * 64)),
    "without metadata": lambda path: forged(path, lambda parts, said: said.clear()),
    "with a part too few": lambda path: forged(path, lambda parts, said: parts.pop("seen")),
    "no safetensors": lambda path: path.write_text('{"chunk": 3}'),
    "with a huge header": lambda path: path.write_bytes((2**60).to_bytes(8, "little") + b"{}"),
}


WAYS = {
    "cut along its examples": lambda parts: {"x": parts["x"][:, :-1].contiguous()},
    "cut along another axis": lambda parts: {"x": parts["x"][:1]},
    "of one axis": lambda parts: {"x": parts["x"].flatten()},
    "of another type": lambda parts: {"x": parts["x"].half()},
    "with another name": lambda parts: {"y": parts["x"]},
    "with one part more": lambda parts: {"x": parts["x"], "y": parts["x"].clone()},
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_chunk_is_reported_and_done_again(done, damage):
    folder, chunks, total = done
    DAMAGE[damage](chunks[3])
    calls = []
    with pytest.warns(UserWarning, match="chunk-00003.safetensors is damaged and will be done"):
        again = working.add_up(Run(folder), lambda i: calls.append(i) or working.chunk(i))
    assert again == total
    assert calls == [3]
    log = [json.loads(line) for line in (chunks[0].parent / "log.jsonl").read_text().splitlines()]
    assert [line["chunk"] for line in log if "damaged" in line] == [3]


def test_a_chunk_copied_over_another_is_found(done):
    folder, chunks, total = done
    chunks[5].write_bytes(chunks[4].read_bytes())
    with pytest.warns(UserWarning, match="another chunk"):
        assert working.add_up(Run(folder)) == total


def test_copies_under_other_names_count_for_nothing(done):
    folder, chunks, total = done
    for name in ("chunk-0000003.safetensors", "chunk-00099.safetensors", "chunk-3.safetensors"):
        (chunks[3].parent / name).write_bytes(chunks[3].read_bytes())
    chunks[3].unlink()
    assert working.add_up(Run(folder)) == total


def test_a_chunk_that_is_a_link_is_not_followed(done, tmp_path_factory):
    folder, chunks, total = done
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "chunk"
    elsewhere.write_bytes(chunks[2].read_bytes())
    chunks[2].unlink()
    chunks[2].symlink_to(elsewhere)
    with pytest.warns(UserWarning, match="it is a link"):
        assert working.add_up(Run(folder)) == total
    assert elsewhere.exists()
    assert not chunks[2].is_symlink()


def test_a_chunk_larger_than_any_is_not_read(done, monkeypatch):
    folder, chunks, total = done
    monkeypatch.setattr("patching.work.store.MOST_BYTES", chunks[0].stat().st_size)
    with chunks[1].open("ab") as file:
        file.write(b" ")
    with pytest.warns(UserWarning, match="more than any chunk"):
        assert working.add_up(Run(folder)) == total


def of_rows(number, name):
    """Chunks of 3, 3 and 1 examples, which their last axis counts."""
    return {1: (3, 3, 1)[number]}


def three_chunks(folder):
    store = open_store(folder, "adding", {}, 3, of_rows)
    for number in range(3):
        store.keep(number, Done({"x": torch.ones(2, of_rows(number, "x")[1])}, "w", 1.0))
    return store.folder


@pytest.mark.parametrize("number", range(3))
@pytest.mark.parametrize("change", WAYS)
def test_a_whole_chunk_that_holds_something_else_is_done_again(tmp_path, number, change):
    folder = three_chunks(tmp_path)
    path = folder / f"chunk-{number:05d}.safetensors"
    parts, said = contents(path)
    del said["checksum"]
    parts = WAYS[change](parts)
    save_file(parts, path, {**said, "checksum": checksum(parts, said)})
    store = open_store(tmp_path, "adding", {}, 3, of_rows)
    with pytest.warns(UserWarning, match=f"chunk-0000{number}.*would be right|other chunks"):
        found = [store.read(i) for i in range(3)]
    assert [one is None for one in found] == [i == number for i in range(3)]


def test_what_the_folder_says_of_its_chunks_gives_way_to_what_is_done(tmp_path):
    (three_chunks(tmp_path) / KIND).write_text("{}")
    store = open_store(tmp_path, "adding", {}, 3, of_rows)
    with pytest.warns(UserWarning, match="it holds .*and other chunks {}"):
        assert store.read(0) is None
    store.keep(0, Done({"x": torch.ones(2, 3)}, "w", 1.0))
    assert all(open_store(tmp_path, "adding", {}, 3, of_rows).read(i) for i in range(3))


def test_chunks_that_come_out_unlike_are_not_kept(tmp_path):
    store = open_store(tmp_path, "adding", {}, 2)
    store.keep(0, Done({"x": torch.ones(2)}, "w", 1.0))
    with pytest.raises(ValueError, match=r"chunk 1 came out as .*3.*, and others as .*2.*lengths="):
        store.keep(1, Done({"x": torch.ones(3)}, "w", 1.0))
    assert store.missing() == [1]


def test_what_a_killed_writer_left_is_taken_away(done):
    folder, chunks, total = done
    leftover = chunks[0].parent / ".chunk-00003.safetensors.abc"
    leftover.write_bytes(b"half")
    os.utime(leftover, (0, 0))  # long ago
    being_written = leftover.with_name(".chunk-00002.safetensors.def")
    being_written.write_bytes(b"by another worker, just now")
    assert working.add_up(Run(folder)) == total
    assert not leftover.exists() and being_written.exists()


def test_settings_that_differ_never_mix(tmp_path):
    first = working.add_up(Run(tmp_path))
    twice = lambda i: {**working.chunk(i), "total": 2 * working.chunk(i)["total"]}  # noqa: E731
    other = working.add_up(Run(tmp_path), twice, steps=6)
    assert first != other
    assert len(list(tmp_path.iterdir())) == 2
    assert working.add_up(Run(tmp_path)) == first


def test_a_run_id_does_not_depend_on_the_order_of_settings():
    assert run_id({"a": 1, "b": [2]}) == run_id({"b": [2], "a": 1})
    assert run_id({"a": 1}) != run_id({"a": 1.5})


def test_settings_that_are_no_json_are_refused():
    with pytest.raises(ValueError, match="settings of a run do not fit into JSON"):
        run_id({"a": float("nan")})


@pytest.mark.parametrize("what", ["../up", "a/b", "", "x" * 90, "a b", "é"])
def test_names_that_lead_elsewhere_are_refused(tmp_path, what):
    if what:
        with pytest.raises(ValueError, match="no name for a file in .*letters, digits"):
            open_store(tmp_path, what, {}, 1)
    assert list(tmp_path.iterdir()) == []


def test_a_run_whose_folder_is_a_link_is_refused(tmp_path):
    folder = open_store(tmp_path, "adding", {}, 1).folder
    (folder / "settings.json").unlink()
    folder.rmdir()
    folder.symlink_to(tmp_path)
    with pytest.raises(ValueError, match="is a link, which could lead anywhere"):
        open_store(tmp_path, "adding", {}, 1)


def test_numbers_that_are_none_are_not_kept(tmp_path):
    with pytest.raises(ValueError, match=r"chunk 0 of 12 came out with NaN or infinite numbers"):
        working.add_up(Run(tmp_path), lambda i: {"total": torch.full((3, 40), torch.inf)})
    (folder,) = tmp_path.iterdir()
    assert not list(folder.glob("chunk-*"))


def test_settings_beside_the_chunks_are_put_right(done):
    folder, chunks, total = done
    settings = chunks[0].parent / "settings.json"
    said = settings.read_text()
    settings.write_text("{}")
    assert working.add_up(Run(folder)) == total
    assert settings.read_text() == said
    facts = {"format": VERSION, "what": "adding", "chunks": 12}
    assert json.loads(said) == {**facts, **working.SETTINGS}


def test_chunks_of_an_older_version_are_refused_and_not_mixed(done):
    folder, chunks, _ = done
    settings = chunks[0].parent / "settings.json"
    settings.write_text(json.dumps({"format": 1, "what": "adding"}))
    with pytest.raises(ValueError, match="holds chunks of an older version, .* another folder"):
        working.add_up(Run(folder))
    assert all(chunk.is_file() for chunk in chunks)


def test_the_log_has_a_line_for_every_chunk(done):
    _, chunks, _ = done
    lines = [json.loads(s) for s in (chunks[0].parent / "log.jsonl").read_text().splitlines()]
    assert [line["chunk"] for line in lines] == list(range(12))
    for line in lines:
        assert line["worker"].endswith(f":{os.getpid()}")
        assert line["peak_bytes"]["cpu"] > 10**7
        assert line["memory"]["batches_halved"] == 0
        assert line["seconds"] >= 0


def test_a_chunk_that_cannot_be_read_just_now_is_not_taken_for_a_damaged_one(done, monkeypatch):
    folder, chunks, _ = done

    def no_more_files(path):
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr("patching.work.store.read_tensor_file", no_more_files)
    with pytest.raises(OSError, match="Too many open files"):
        working.add_up(Run(folder))
    assert all(chunk.exists() for chunk in chunks)
