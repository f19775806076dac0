"""`circuits learn`: files, going on from a state, and options that do not fit."""

import pytest
import shells
import torch

from circuits.circuit import load_circuit
from circuits.cli import main
from circuits.scores import load_scores


def learn(home, out, *more):
    command = ["learn", *shells.on(home), "--steps", "3", "--limit", "6", "--out", str(out)]
    return main([*command, "--size", "4", *more])


@pytest.mark.parametrize("method", ["edge-pruning", "ugs", "subnetwork-probing"])
def test_learning_leaves_scores_a_circuit_and_the_loss(home, tmp_path, capsys, method):
    assert learn(home, tmp_path, "--method", method) == 0
    circuit = load_circuit(tmp_path / "circuit.json")
    scores = load_scores(tmp_path / "scores.safetensors")
    assert circuit.provenance["options"]["steps"] == 3
    assert circuit.size > 0
    assert 0 <= float(scores.matrix.min()) <= float(scores.matrix.max()) <= 1
    assert "<svg" in (tmp_path / "loss.svg").read_text()
    assert f"kept by {method} after 3 steps (all steps done)" in capsys.readouterr().out


def test_the_same_command_goes_on_from_its_state_and_another_is_refused(home, tmp_path, capsys):
    assert learn(home, tmp_path) == 0
    before = load_scores(tmp_path / "scores.safetensors").matrix
    assert learn(home, tmp_path) == 0
    assert torch.equal(load_scores(tmp_path / "scores.safetensors").matrix, before)
    for name in ("circuit.json", "scores.safetensors"):
        (tmp_path / name).unlink()  # as after a kill
    assert learn(home, tmp_path, "--seed", "1") == 2
    assert "is the state of another training (" in capsys.readouterr().err
    assert learn(home, tmp_path, "--seed", "1", "--overwrite") == 0
    assert not torch.equal(load_scores(tmp_path / "scores.safetensors").matrix, before)


def test_scores_and_masks_together_are_learned_and_gone_on_with(home, tmp_path, capsys):
    options = ["--method", "hybrid", "--members", "eap,eap-ig,relp"]
    assert learn(home, tmp_path, *options) == 0
    assert "kept by hybrid after 3 steps (all steps done)" in capsys.readouterr().out
    circuit = load_circuit(tmp_path / "circuit.json")
    scores = load_scores(tmp_path / "scores.safetensors")
    assert [one["method"] for one in scores.provenance["members"]] == ["ensemble", "edge-pruning"]
    assert circuit.provenance["selection"]["ranking"] == "absolute"
    assert circuit.size <= 4
    assert learn(home, tmp_path, *options) == 0
    assert torch.equal(load_scores(tmp_path / "scores.safetensors").matrix, scores.matrix)


def test_masks_can_start_from_scores(home, tmp_path):
    assert learn(home, tmp_path, "--start", str(home / "scores.safetensors")) == 0
    assert "started_from" in load_circuit(tmp_path / "circuit.json").provenance


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--method", "magic"], "no method named 'magic'; there are edge-pruning, ugs"),
        (["--method", "hybrid", "--members", "eap"], "an ensemble has two members or more, got 1"),
        (["--method", "hybrid", "--members", "eap,x"], "no method named 'x'"),
        (["--method", "hybrid", "--start", "x"], "hybrid starts from its --members"),
        (["--members", "eap,eap-ig"], "edge-pruning has no members; leave out --members"),
        (["--penalty", "1"], "edge-pruning has a budget and no price; leave out --penalty"),
        (["--method", "subnetwork-probing", "--start", "x"], "learns nodes, and --start gives"),
        (["--method", "ugs", "--ablation", "zero"], "ugs works with corrupt prompts alone"),
    ],
)
def test_options_that_do_not_fit_are_refused(home, tmp_path, capsys, options, said):
    assert learn(home, tmp_path, *options) == 2
    assert said in capsys.readouterr().err
