"""A model goes to another process as what it was loaded from; all that is sent with it can go."""

import copy
import os
import pickle
import subprocess
import sys
from pathlib import Path

import families
import pytest
import torch

from patching.model import Model, _load, _load_again


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "tiny"
    families.module("gpt2", torch.float32).save_pretrained(path)
    return path


@pytest.fixture(autouse=True)
def own_cache(monkeypatch, tmp_path):
    """Hashes are not remembered in the user's folder, nor models beyond a test."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    yield
    _load.cache_clear()


def test_a_model_goes_as_its_name_and_is_loaded_once(folder):
    model = Model.load(folder, dtype=torch.float64)
    assert model.source == str(folder)
    first, second = (pickle.loads(pickle.dumps(model)) for _ in range(2))
    assert first.bridge is second.bridge is not model.bridge
    assert (first.weights, first.dtype, first.graph) == (model.weights, torch.float64, model.graph)


def test_what_differs_in_how_it_is_loaded_is_another_model(folder):
    single, double = (Model.load(folder, dtype=d) for d in (torch.float32, torch.float64))
    assert [copy.copy(m).dtype for m in (single, double)] == [torch.float32, torch.float64]


def test_the_tokenizer_goes_with_it():
    model = Model.load("toy")
    there = copy.copy(model)
    assert there.source == "toy"
    assert there.tokenizer is not None
    assert there.tokenizer.encode("The capital") == model.tokenizer.encode("The capital")


def test_other_weights_under_the_same_name_are_refused(folder):
    model = Model.load(folder)
    rebuild, (reference, identity, tokenizer) = model.__reduce__()
    assert rebuild is _load_again
    families.module("gpt2", torch.float32, seed=1).save_pretrained(folder)
    with pytest.raises(ValueError, match="tiny holds other weights here than where it was sent"):
        _load_again(reference, identity, tokenizer)


def test_a_model_that_was_changed_since_it_was_loaded_stays(folder):
    model = Model.load(folder)
    model.bridge.blocks[0].mlp.out.weight.data.mul_(2)
    with pytest.raises(ValueError, match="tiny was changed in memory since it was loaded"):
        copy.copy(model)


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_model_made_of_something_in_memory_stays(wrapped):
    module = families.module("gpt2", torch.float32)
    model = Model.load(Model.load(module).bridge if wrapped else module)
    assert model.source is None
    with pytest.raises(ValueError, match=r"made of a model in memory, .*module.save_pretrained"):
        copy.copy(model)


SENT = """
import sys
import torch
from ray import cloudpickle
import families
from circuits.scoring.gather import prepare
from patching.gathering import Recipe
from circuits.scoring.score import score
from patching import ablations, metrics, paths, rules
from patching.model import Model

def sent(thing):
    return cloudpickle.loads(cloudpickle.dumps(thing))

model, task = Model.load(sys.argv[1], dtype=torch.float64), families.task()
(batch,) = task.batches(9)
assert sent(task) == task and torch.equal(sent(batch).clean, batch.clean)
assert all(sent(metric) is metric for metric in metrics.METRICS.values())

for path in paths.PATHS.values():
    for rule in rules.RULES.values():
        recipe = Recipe(path(), rule)
        assert sent(prepare(model, task, metrics.logit_diff, recipe)).recipe.name == recipe.name

for ablation in (ablations.zero, ablations.mean(task), ablations.positional_mean(task)):
    recipe = Recipe(paths.along_inputs(2), ablation=ablation)
    bonus = 2.0
    def twice(logits, batch):
        return bonus * metrics.logit_diff(logits, batch)
    here = score(model, task, twice, recipe).matrix
    there = score(*sent((model, task, twice, recipe))).matrix
    assert torch.equal(here, there)
"""


def test_all_that_scores_are_made_of_goes_as_ray_sends_it(folder):
    """In a process of its own: functions that are checked at run time, as in tests, stay."""
    pytest.importorskip("ray", reason="Ray is an optional extra")
    here = Path(__file__).parent.parent
    environment = os.environ | {"PYTHONPATH": f"{here}{os.pathsep}{here.parent}"}
    command = [sys.executable, "-c", SENT, str(folder)]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
