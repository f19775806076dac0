"""Models of the hub, from a cache laid out as it lays it out: snapshots of links to blobs."""

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import families
import pytest
import torch
from tokenizers_for_tasks import word_level

from patching.model import Model

NAME, FIRST, SECOND = "someone/tiny", "a" * 40, "b" * 40


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("made")
    families.module("llama", torch.float32).save_pretrained(path)
    return path


@pytest.fixture
def cached(monkeypatch, tmp_path) -> Callable[[Path, str], Path]:
    """Puts the files of a folder where a download of that commit would; the last one is `main`."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    there = tmp_path / "hub" / f"models--{NAME.replace('/', '--')}"

    def put(folder: Path, commit: str) -> Path:
        snapshot = there / "snapshots" / commit
        for part in ("blobs", "refs", f"snapshots/{commit}"):
            (there / part).mkdir(parents=True, exist_ok=True)
        for file in folder.iterdir():
            shutil.copy(file, there / "blobs" / f"{commit[0]}-{file.name}")
            (snapshot / file.name).symlink_to(f"../../blobs/{commit[0]}-{file.name}")
        (there / "refs" / "main").write_text(commit)
        return snapshot

    return put


def test_a_model_of_the_hub_is_the_model_of_its_snapshot_and_knows_its_commit(cached, folder):
    snapshot = cached(folder, FIRST)
    model = Model.load(NAME)
    assert (model.name, model.revision, model.tokenizer) == (NAME, FIRST, None)
    assert model.identity == Model.load(folder).identity == Model.load(snapshot).identity


def test_a_commit_is_kept_to_while_others_come(cached, folder, tmp_path):
    cached(folder, FIRST)
    first = Model.load(NAME)
    other = families.module("llama", torch.float32)
    with torch.no_grad():
        other.lm_head.weight.mul_(2)
    other.save_pretrained(tmp_path / "other", max_shard_size="20KB")  # several files and an index
    word_level().save_pretrained(tmp_path / "other")
    assert (tmp_path / "other" / "model.safetensors.index.json").is_file()
    cached(tmp_path / "other", SECOND)
    second = Model.load(NAME)
    assert second.revision == SECOND and second.tokenizer is not None
    assert second.weights != first.weights
    assert Model.load(NAME, revision=FIRST).identity == first.identity
    sent = pickle.loads(pickle.dumps(first))
    assert sent.revision == FIRST and sent.weights == first.weights


def test_what_the_hub_gives_is_refused_as_a_folder_would_be(cached, folder, tmp_path):
    bad = shutil.copytree(folder, tmp_path / "bad")
    said = json.loads((bad / "config.json").read_text())
    (bad / "config.json").write_text(json.dumps({**said, "num_hidden_layers": 10**9}))
    cached(bad, FIRST)
    with pytest.raises(ValueError, match=r"config.json says that num_hidden_layers is 1,000,000"):
        Model.load(NAME)
    (bad / "model.safetensors").unlink()
    cached(bad, SECOND)
    with pytest.raises(ValueError, match=r"holds none of model.safetensors"):
        Model.load(NAME)
    with pytest.raises(ValueError, match=r"no model 'someone/else'.* the hub did not give it"):
        Model.load("someone/else")
