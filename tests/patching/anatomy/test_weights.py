"""Hashes of weights: equal for equal weights, different for different ones, and remembered."""

import json
import os
import shutil
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from patching.anatomy import weights
from patching.anatomy.checkpoint import weight_files
from patching.anatomy.weights import hash_files, hash_tensors


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    """An empty cache folder of the test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "circuit-workbench" / "weights.json"


@pytest.fixture
def folder(tmp_path) -> Path:
    made = tmp_path / "model"
    made.mkdir()
    (made / "config.json").write_text("{}")
    save_file(tensors(), made / "model.safetensors")
    return made


@pytest.fixture
def reads(monkeypatch) -> list[Path]:
    """One entry for every weight file that is read."""
    seen = []
    original = weights._digests_of

    def count(path):
        seen.append(path)
        return original(path)

    monkeypatch.setattr(weights, "_digests_of", count)
    return seen


def hash_folder(folder: Path) -> str:
    return hash_files(weight_files(folder))


def cut(folder: Path, *, under: str = "", suffix: str = ".safetensors") -> None:
    """Take the one weight file of a folder apart into two, in a format, in a subfolder."""
    stem = {".safetensors": "model", ".bin": "pytorch_model"}[suffix]
    (folder / under).mkdir(exist_ok=True)
    (folder / "model.safetensors").unlink()
    named = {}
    for name in tensors():
        path = f"{under}{stem}-{'ab'.index(name) if name in 'ab' else 2}{suffix}"
        named[name] = path
        held = {key: tensors()[key] for key in named if named[key] == path}
        save_file(held, folder / path) if suffix == ".safetensors" else torch.save(
            held, folder / path
        )
    (folder / f"{stem}{suffix}.index.json").write_text(json.dumps({"weight_map": named}))


def tensors() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "a": torch.randn(3, 4, generator=generator),
        "b": torch.arange(6).reshape(2, 3),
        "c": torch.randn(5, generator=generator).bfloat16(),
        "d": torch.zeros(0, 2),
    }


def test_a_changed_number_changes_the_hash_of_a_folder(folder):
    before = hash_folder(folder)
    assert len(before) == 16
    save_file({**tensors(), "b": tensors()["b"] + 1}, folder / "model.safetensors")
    assert hash_folder(folder) != before


def test_only_the_weights_count(folder):
    before = hash_folder(folder)
    (folder / "config.json").write_text('{"changed": true}')
    (folder / "notes.txt").write_text("x")
    (folder / "optimizer.safetensors").write_text("not one that is loaded")
    assert hash_folder(folder) == before


@pytest.mark.parametrize("under", ["", "shards/"])
@pytest.mark.parametrize("suffix", [".safetensors", ".bin"])
def test_neither_the_cut_nor_the_format_nor_the_place_matters(folder, under, suffix):
    before = hash_folder(folder)
    assert before == hash_tensors(tensors().items())
    cut(folder, under=under, suffix=suffix)
    assert hash_folder(folder) == before
    assert len(weight_files(folder)) == 3


def test_shards_in_subfolders_are_read(folder):
    cut(folder, under="shards/")
    before = hash_folder(folder)
    save_file({"a": tensors()["a"] + 1}, folder / "shards/model-0.safetensors")
    assert hash_folder(folder) != before


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ({}, "has no weight_map"),
        ({"weight_map": {"a": "../else.safetensors"}}, "'../else.safetensors', which is not in"),
        ({"weight_map": {"a": "/else.safetensors"}}, "'/else.safetensors', which is not in"),
        ({"weight_map": {"a": "model-9.safetensors"}}, "is incomplete: .* 'model-9.safetensors'"),
    ],
)
def test_an_index_that_leads_nowhere_is_refused(folder, index, message):
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match=message):
        weight_files(folder)


def test_a_tied_tensor_counts_only_where_it_differs(folder):
    before = hash_folder(folder)
    tied = {"head": "a"}
    save_file({**tensors(), "head": tensors()["a"]}, folder / "model.safetensors")
    assert hash_files(weight_files(folder), tied=tied) == before
    save_file({**tensors(), "head": tensors()["a"] + 1}, folder / "model.safetensors")
    assert hash_files(weight_files(folder), tied=tied) != before


def test_equal_weights_in_another_folder_have_the_same_hash(folder, tmp_path):
    other = shutil.copytree(folder, tmp_path / "copy")
    assert hash_folder(other) == hash_folder(folder)


def test_files_that_have_not_changed_are_not_read_again(folder, reads):
    before = hash_folder(folder)
    assert len(reads) == 1
    assert hash_folder(folder) == before
    assert len(reads) == 1


def test_a_file_of_the_same_size_and_time_is_read_again(folder, reads):
    path = folder / "model.safetensors"
    before, stat = hash_folder(folder), path.stat()
    time.sleep(0.02)  # as coarse as the clocks of file systems are
    with path.open("r+b") as file:  # in place: the same inode
        file.seek(-1, os.SEEK_END)
        file.write(b"\x55")
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (stat.st_size, stat.st_mtime_ns)
    assert hash_folder(folder) != before
    assert len(reads) == 2


def test_a_user_without_a_home_can_hash(folder, monkeypatch):
    before = hash_folder(folder)
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", lambda: (_ for _ in ()).throw(RuntimeError("no home")))
    assert hash_folder(folder) == before


@pytest.mark.parametrize("content", ["", '{"abc": "de', "[]", "\x00", "null"])
def test_a_spoilt_cache_costs_time_but_not_the_result(content, folder, cache, reads):
    before = hash_folder(folder)
    cache.write_text(content)
    assert hash_folder(folder) == before
    assert len(reads) == 2
    assert hash_folder(folder) == before
    assert len(reads) == 2, "the spoilt cache was replaced"


def test_a_cache_that_is_not_text_costs_time_but_not_the_result(folder, cache):
    before = hash_folder(folder)
    cache.write_bytes(b"\xff\xfe\x00")
    assert hash_folder(folder) == before


def test_a_cache_that_cannot_be_written_costs_time_but_not_the_result(
    folder, tmp_path, monkeypatch
):
    before = hash_folder(folder)
    (tmp_path / "in the way").write_text("a file, not a folder")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "in the way"))
    assert hash_folder(folder) == before


def test_the_cache_keeps_what_it_knew_of_other_folders(folder, tmp_path, reads):
    hash_folder(folder)
    hash_folder(shutil.copytree(folder, tmp_path / "other"))
    hash_folder(folder)
    assert len(reads) == 2


def test_the_order_of_tensors_does_not_matter():
    some = tensors()
    assert hash_tensors(some.items()) == hash_tensors(reversed(some.items()))
    assert hash_tensors(tensors().items()) == hash_tensors(some.items())


def test_layout_in_memory_does_not_matter():
    some = tensors()
    transposed = {**some, "a": some["a"].T.contiguous().T}
    assert hash_tensors(transposed.items()) == hash_tensors(some.items())


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("a", torch.zeros(3, 4)),
        ("a", tensors()["a"].double()),
        ("a", tensors()["a"].reshape(4, 3)),
        ("b", tensors()["b"] + 1),
        ("b", tensors()["b"].flip(0)),
        ("d", torch.zeros(2, 0)),
        ("e", torch.zeros(1)),
    ],
)
def test_another_value_type_shape_or_name_changes_the_hash(name, value):
    some = tensors()
    assert hash_tensors({**some, name: value}.items()) != hash_tensors(some.items())


def test_the_smallest_change_of_one_number_changes_the_hash():
    some = tensors()
    changed = {**some, "a": some["a"].clone()}
    changed["a"][1, 2] = torch.nextafter(changed["a"][1, 2], torch.tensor(9.0))
    assert hash_tensors(changed.items()) != hash_tensors(some.items())


def test_equal_bytes_of_another_type_or_shape_have_another_hash():
    zeros = [torch.zeros(4), torch.zeros(4, dtype=torch.int32), torch.zeros(2, 2)]
    assert len({hash_tensors([("a", tensor)]) for tensor in zeros}) == 3


def test_swapped_names_change_the_hash():
    a, b = torch.zeros(2), torch.ones(2)
    assert hash_tensors([("a", a), ("b", b)]) != hash_tensors([("a", b), ("b", a)])


def test_a_tensor_without_axes_is_hashed():
    """Some models keep counters and scales among their weights."""
    one, two = (hash_tensors([("scale", torch.tensor(x))]) for x in (1.0, 2.0))
    assert one != two
