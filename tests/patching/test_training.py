"""Training of the embedded models: files, seeds, the command line, and one step by hand."""

import json

import pytest
import torch
from transformers import AutoModelForCausalLM

from patching.models import context_training, toy_training, training
from patching.models.training import WARMUP_STEPS, make, rate, run, save

TRAININGS = {t.name: t for t in (*toy_training.TRAININGS, context_training.TRAINING)}
FILES = ("model.safetensors", "config.json", "tokenizer.json", "training.json")


@pytest.fixture(autouse=True)
def measured_on_few_prompts(monkeypatch):
    monkeypatch.setattr(training, "EVALUATION_PROMPTS", 4)


@pytest.fixture(params=TRAININGS)
def recipe(request):
    return TRAININGS[request.param]


def test_training_gives_the_same_files_for_the_same_seed(recipe, tmp_path):
    for name in ("one", "two"):
        make(recipe, tmp_path / name, steps=1, seed=3)
    for file in FILES:
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()


def test_what_ships_says_what_it_was_trained_on(recipe):
    report = json.loads((recipe.folder / "training.json").read_text(encoding="utf-8"))
    shipped = AutoModelForCausalLM.from_pretrained(recipe.folder)
    assert report["parameters"] == shipped.num_parameters()
    assert report["rows_per_step"] == recipe.rows_per_step
    assert report["steps"] == recipe.steps
    assert [*report["accuracy"]] == [*recipe.tasks]


def test_the_command_trains_one_model_into_a_folder_of_its_own(tmp_path):
    run([*TRAININGS.values()], ["--model", "toy-llama", "--steps", "1", "--out", str(tmp_path)])
    assert [path.name for path in tmp_path.iterdir()] == ["toy_llama"]
    report = json.loads((tmp_path / "toy_llama" / "training.json").read_text(encoding="utf-8"))
    assert (report["steps"], report["seed"]) == (1, 0)
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "toy_llama").config.model_type == "llama"


def test_the_command_knows_its_models(capsys):
    with pytest.raises(SystemExit):
        run([*TRAININGS.values()], ["--model", "gpt2"])
    assert "choose from" in capsys.readouterr().err


def test_saving_returns_the_model_as_it_was_rounded(tmp_path):
    tokenizer = toy_training.toy_tokenizer()
    model = save(toy_training.llama(tokenizer), tokenizer, tmp_path)
    assert model.dtype == torch.float32
    for weight in model.parameters():
        assert torch.equal(weight, weight.half().float())


def test_the_rate_rises_over_the_warm_up_and_falls_to_two_percent():
    assert rate(0, 1000) == pytest.approx(1 / WARMUP_STEPS)
    assert max(range(1000), key=lambda step: rate(step, 1000)) == WARMUP_STEPS - 1
    assert rate(1000, 1000) == pytest.approx(0.02)
