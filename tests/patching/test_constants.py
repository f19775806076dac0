"""Files of learned constants: a round trip, and what is refused."""

import pytest
import torch

from circuits.checks.linear import STOP, A, B, linear_model
from patching.constants import by_name, from_names, load_optimal
from patching.descent import Schedule
from patching.files.tensors import read_tensors, write_tensors
from patching.metrics import logit_diff
from patching.model import Model
from patching.optimal import optimal
from patching.tasks import Prompt, Task

FORMAT = "file of learned constants 1"


@pytest.fixture(scope="module")
def linear():
    return linear_model()


@pytest.fixture(scope="module")
def found(linear):
    pair, turned = (
        Prompt((A, STOP), (B, STOP), (A,), (B,)),
        Prompt((B, STOP), (A, STOP), (A,), (B,)),
    )
    return optimal(linear, Task("mixed", (pair, turned)), logit_diff, schedule=Schedule(steps=2))


@pytest.fixture
def path(found, tmp_path):
    found.save(tmp_path / "constants.safetensors")
    return tmp_path / "constants.safetensors"


def test_constants_come_back_from_a_file_as_they_were(linear, found, path):
    again = load_optimal(path, linear)
    for name, part in by_name(found.constants.writes).items():
        assert torch.equal(by_name(again.constants.writes)[name], part)
    assert torch.equal(again.losses, found.losses)
    assert torch.equal(again.mean_losses, found.mean_losses)
    assert torch.equal(again.history.curves["loss"], found.history.curves["loss"])
    assert again.constants.name == found.constants.name
    assert again.provenance["tokens"] == found.provenance["tokens"]
    assert again(linear) is again.constants


def test_parts_by_name_make_the_same_writes(found):
    writes = found.constants.writes
    assert from_names(by_name(writes), len(writes.heads)) == writes


def test_a_file_of_another_models_constants_is_refused(path):
    with pytest.raises(ValueError, match="embed should be finite numbers of shape .* truth/copy"):
        load_optimal(path, Model.load("truth/copy"))


def altered(path, linear, message, *, tensors=None, **facts):
    kept, said = read_tensors(path, FORMAT)
    write_tensors(path, {**kept, **(tensors or {})}, FORMAT, {**said, **facts})
    with pytest.raises(ValueError, match=message):
        load_optimal(path, linear)


def test_other_weights_are_refused(path, linear):
    altered(path, linear, "with other weights than .*; learn them anew", weights="0" * 12)


def test_facts_of_the_wrong_kind_are_refused(path, linear):
    altered(path, linear, "does not say what its constants are of", provenance=[1])


def test_numbers_that_are_none_are_refused(path, linear):
    wrong = torch.full_like(read_tensors(path, FORMAT)[0]["embed"], torch.nan)
    altered(path, linear, "embed should be finite numbers", tensors={"embed": wrong})


def test_unknown_tensors_are_refused(path, linear):
    altered(path, linear, "holds the tensor 'more'", tensors={"more": torch.zeros(1)})


def test_files_of_another_kind_are_refused(linear, tmp_path):
    write_tensors(tmp_path / "lens", {}, "tuned lens 1", {})
    with pytest.raises(ValueError, match="lens is no file of learned constants of a kind"):
        load_optimal(tmp_path / "lens", linear)


def test_a_flipped_bit_is_noticed(path, linear):
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match="was altered after it was written"):
        load_optimal(path, linear)
