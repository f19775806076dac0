"""What a model is: another identity for whatever changes it, the same for whatever does not."""

import copy
import dataclasses
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import families
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM

from circuits.scoring import eap
from patching import work
from patching.anatomy import stored as read_from
from patching.anatomy.identity import Identity
from patching.metrics import logit_diff
from patching.model import Model
from patching.provenance import confirmed, describe

pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.fixture
def folder(llama, tmp_path) -> Path:
    """A copy that may be written to."""
    return shutil.copytree(llama, tmp_path / "llama")


# In files.


def configured(**said: object) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **said}))

    return change


def stored(name: str, change: Callable[[Tensor], Tensor]) -> Callable[[Path], None]:
    def rewrite(folder: Path) -> None:
        tensors = load_file(folder / "model.safetensors")
        tensors[name] = change(tensors[name]).contiguous()
        save_file(tensors, folder / "model.safetensors", {"format": "pt"})

    return rewrite


def shuffled(matrix: Tensor) -> Tensor:
    order = torch.randperm(matrix.numel(), generator=torch.Generator().manual_seed(0))
    return matrix.flatten()[order].view_as(matrix)


LAYER = "model.layers.0."
IN_FILES = {
    "rotary base": configured(rope_parameters={"rope_theta": 500.0, "rope_type": "default"}),
    "epsilon": configured(rms_norm_eps=1e-2),
    "activation": configured(hidden_act="gelu"),
    "one weight": stored(LAYER + "mlp.up_proj.weight", lambda w: w + torch.eye(*w.shape)),
    "shuffled": stored(LAYER + "mlp.up_proj.weight", shuffled),
    "transposed": stored(LAYER + "self_attn.q_proj.weight", lambda w: w.T),
    "rows exchanged": stored("model.embed_tokens.weight", lambda w: w.flip(0)),
}


@pytest.mark.parametrize("change", IN_FILES.values(), ids=IN_FILES)
def test_whatever_is_changed_in_files_changes_what_the_model_is(llama, folder, change):
    change(folder)
    differ = Model.load(folder).identity.differences(Model.load(llama).identity.facts)
    assert differ in (("config",), ("weights",))


def test_the_type_it_computes_in_is_part_of_it(llama):
    single, double = (Model.load(llama, dtype=d) for d in (torch.float32, torch.float64))
    assert double.identity.differences(single.identity.facts) == ("dtype",)


# What changes nothing.


def sharded(folder: Path) -> None:
    module = AutoModelForCausalLM.from_pretrained(folder)
    (folder / "model.safetensors").unlink()
    module.save_pretrained(folder, max_shard_size="10KB")


def in_subfolders(folder: Path) -> None:
    sharded(folder)
    index = folder / "model.safetensors.index.json"
    said = json.loads(index.read_text())
    (folder / "parts").mkdir()
    for path in set(said["weight_map"].values()):
        (folder / path).rename(folder / "parts" / path)
    said["weight_map"] = {name: f"parts/{path}" for name, path in said["weight_map"].items()}
    index.write_text(json.dumps(said))


def pickled(folder: Path) -> None:
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def saved_again(folder: Path) -> None:
    AutoModelForCausalLM.from_pretrained(folder).save_pretrained(folder)


def touched(folder: Path) -> None:
    os.utime(folder / "model.safetensors", ns=(0, 0))


def other_files(folder: Path) -> None:
    (folder / "README.md").write_text("A model")
    (folder / "training_args.bin").write_bytes(b"x")


def defaults_written_out(folder: Path) -> None:
    configured(attention_bias=False, use_cache=True, transformers_version="4.0.0")(folder)


def linked(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.rename(folder / "blob")
    path.symlink_to(folder / "blob")


def renamed(folder: Path) -> None:
    folder.rename(folder.parent / "another name")
    (folder.parent / "another name").rename(folder)


def nothing(folder: Path) -> None:
    """A copy in another place is all."""


SAME = [
    *(nothing, sharded, in_subfolders, pickled, saved_again, touched, other_files),
    *(defaults_written_out, linked, renamed),
]


@pytest.mark.parametrize("change", SAME, ids=[change.__name__ for change in SAME])
def test_what_changes_nothing_leaves_the_model_what_it_is(llama, folder, change):
    change(folder)
    assert Model.load(folder).confirmed() == Model.load(llama).identity


def test_runs_and_scores_leave_the_model_what_it_is(llama):
    model = Model.load(llama)
    before = model.confirmed()
    eap(model, families.task(), logit_diff)
    model.run([1, 2, 3], cache=["a0.h0.pattern", "m0"])
    assert copy.copy(model).identity == model.identity == model.confirmed() == before
    torch.set_num_threads(torch.get_num_threads() + 1)
    try:
        assert model.confirmed() == before
    finally:
        torch.set_num_threads(torch.get_num_threads() - 1)


def test_an_embedded_model_is_as_its_files_say():
    for name in ("toy", "truth/copy"):
        model = Model.load(name)
        assert model.confirmed() == model.identity == Model.load(name).identity
        assert model.identity.inside is None


# Where it is used.


def test_a_folder_that_is_written_to_while_it_is_loaded_is_refused(folder, monkeypatch):
    path, read = folder / "model.safetensors", read_from._from_pretrained
    stat = path.stat()

    def overwrite(*args: Any) -> Any:
        module = read(*args)
        IN_FILES["shuffled"](folder)
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
        return module

    monkeypatch.setattr(read_from, "_from_pretrained", overwrite)
    with pytest.raises(ValueError, match="llama was written to while it was loaded; load it again"):
        Model.load(folder)


def test_a_folder_of_an_adapter_is_refused(folder):
    (folder / "adapter_config.json").write_text("{}")
    with pytest.raises(ValueError, match=r"holds a model and an adapter .*: which is meant\?"):
        Model.load(folder)


def test_a_run_folder_never_gives_another_models_numbers(folder, tmp_path):
    task, run = families.task(), work.Run(tmp_path / "run")
    model = Model.load(folder)
    first = eap(model, task, logit_diff, run=run).matrix
    IN_FILES["rotary base"](folder)
    other = Model.load(folder)
    assert torch.equal(
        eap(other, task, logit_diff, run=run).matrix, eap(other, task, logit_diff).matrix
    )
    model.bridge.blocks[0].mlp.out.weight.data.mul_(2)  # no version counter sees this
    changed = eap(model, task, logit_diff, run=run).matrix
    assert torch.equal(changed, eap(model, task, logit_diff).matrix)
    assert not torch.equal(changed, first)


def test_provenance_names_the_parts_and_the_hooks_that_somebody_put_there(llama):
    model = Model.load(llama)
    said = describe(model, families.task(), logit_diff, "eap", {}, facts={})
    assert {name: said[name] for name in model.identity.facts} == model.identity.facts
    assert confirmed(model, said) == said
    model.bridge.blocks[0].ln1.original_component.register_forward_hook(lambda *_: None)
    hooked = describe(model, families.task(), logit_diff, "eap", {}, facts={})
    assert hooked["hooks"] == ["blocks.0.input_layernorm"]
    with pytest.raises(ValueError, match="cannot for the hooks"):
        eap(model, families.task(), logit_diff, run=work.Run(llama.parent / "unused"))


def test_parts_of_an_identity_are_compared_one_by_one():
    identity = Identity("c", "w", "t", "float32", None)
    for part in ("config", "weights", "tokenizer", "dtype", "inside"):
        other = dataclasses.replace(identity, **{part: "other"})
        assert identity.differences(other.facts) == other.differences(identity.facts) == (part,)
    assert identity.differences({"weights": "w"}) == ()  # an older file says no more
