"""`--ablation optimal`: constants are learned once, and read from their file from then on."""

import json

import shells

from circuits.cli import main
from patching.constants import load_optimal
from patching.descent import Schedule
from patching.model import Model


def evaluate(home, *more):
    command = ["evaluate", *shells.on(home), str(home / "circuit.json"), "--limit", "4"]
    return main([*command, "--json", *more])


def test_constants_are_learned_once_and_then_read(home, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("patching.optimal.SCHEDULE", Schedule(steps=2))
    path = str(tmp_path / "constants.safetensors")
    optimal = ("--ablation", "optimal", "--constants", path)
    assert evaluate(home, *optimal) == 0
    learned = json.loads(capsys.readouterr().out)
    said = load_optimal(path, Model.load(str(home / "model"))).provenance
    assert (said["method"], said["n_examples"]) == ("optimal-ablation", 4)
    monkeypatch.setattr("patching.optimal.optimal", None)  # not to be called again
    assert evaluate(home, *optimal) == 0
    assert json.loads(capsys.readouterr().out) == learned
    assert evaluate(home, *optimal, "--limit", "5") == 2
    assert "were learned on other prompts" in capsys.readouterr().err


def test_constants_belong_to_optimal_ablation(home, capsys):
    assert evaluate(home, "--ablation", "zero", "--constants", "x.safetensors") == 2
    assert "--constants are those of --ablation optimal" in capsys.readouterr().err
