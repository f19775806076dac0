"""Hashes of weights: equal for equal weights, different for different ones, and remembered."""

import hashlib
import os
from pathlib import Path

import pytest
import torch

from patching.anatomy import weights
from patching.anatomy.weights import hash_folder, hash_tensors


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
    (made / "model-1.safetensors").write_bytes(b"first part")
    (made / "model-2.safetensors").write_bytes(b"second part")
    return made


@pytest.fixture
def reads(monkeypatch) -> list[object]:
    """One entry for every weight file that is read."""
    seen = []
    original = hashlib.file_digest

    def count(file, name):
        seen.append(file.name)
        return original(file, name)

    monkeypatch.setattr(weights.hashlib, "file_digest", count)
    return seen


def tensors() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "a": torch.randn(3, 4, generator=generator),
        "b": torch.arange(6).reshape(2, 3),
        "c": torch.randn(5, generator=generator).bfloat16(),
        "d": torch.zeros(0, 2),
    }


def test_a_changed_byte_changes_the_hash_of_a_folder(folder):
    before = hash_folder(folder)
    assert len(before) == 16
    (folder / "model-2.safetensors").write_bytes(b"second Part")
    os.utime(folder / "model-2.safetensors", ns=(0, 1))  # in case the clock is too coarse
    assert hash_folder(folder) != before


def test_only_the_weights_count(folder):
    before = hash_folder(folder)
    (folder / "config.json").write_text('{"changed": true}')
    (folder / "notes.txt").write_text("x")
    assert hash_folder(folder) == before
    (folder / "model-3.safetensors").write_bytes(b"")
    assert hash_folder(folder) != before


def test_equal_weights_in_another_folder_have_the_same_hash(folder, tmp_path):
    other = tmp_path / "copy"
    other.mkdir()
    for path in folder.glob("*.safetensors"):
        (other / path.name).write_bytes(path.read_bytes())
    assert hash_folder(other) == hash_folder(folder)


def test_files_that_have_not_changed_are_not_read_again(folder, reads):
    before = hash_folder(folder)
    assert len(reads) == 2
    assert hash_folder(folder) == before
    assert len(reads) == 2
    (folder / "model-1.safetensors").write_bytes(b"longer first part")
    assert hash_folder(folder) != before
    assert len(reads) == 4


@pytest.mark.parametrize("content", ["", '{"abc": "de', "[]", "\x00", "null"])
def test_a_spoilt_cache_costs_time_but_not_the_result(content, folder, cache, reads):
    before = hash_folder(folder)
    cache.write_text(content)
    assert hash_folder(folder) == before
    assert len(reads) == 4
    assert hash_folder(folder) == before
    assert len(reads) == 4, "the spoilt cache was replaced"


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
    other = tmp_path / "other"
    other.mkdir()
    (other / "w.bin").write_bytes(b"x")
    hash_folder(other)
    hash_folder(folder)
    assert len(reads) == 3


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
