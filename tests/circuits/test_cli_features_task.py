"""The commands `features effects` and `features circuit`: what they print and write."""

import json

import pytest

from circuits.cli import main
from circuits.features import load_feature_circuit
from patching.attribution.features import load_effects

TASK = ["--model", "toy-llama", "--task", "ioi", "--n", "3", "--sum-positions"]
TASK += ["--dictionaries", "neurons"]


def test_effects_are_printed_beside_exact_ones_and_written(tmp_path, capsys):
    out = tmp_path / "e.safetensors"
    assert (
        main(["features", "effects", *TASK, "--exact", "4", "--top", "5", "--out", str(out)]) == 0
    )
    said, effects = capsys.readouterr().out, load_effects(out)
    assert said.startswith(f"{len(effects):,} nodes of neurons differ on 3 prompts of ioi")
    assert all(name in said for name, _ in effects.top(5))
    assert "exact patching of the 4 strongest: " in said and not effects.nodes.by_position
    assert main(["features", "show", str(out), "--top", "2"]) == 0
    assert all(name in capsys.readouterr().out for name, _ in effects.top(1))
    csv = tmp_path / "e.csv"
    path = ["--path", "places", "--steps", "2", "--rule", "relp", "--ablation", "mean"]
    assert main(["features", "effects", *TASK, *path, "--json", "--out", str(csv)]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["provenance"]["options"] == {
        **{"steps": 2, "quadrature": "left"},
        **{"rule": "relp", "path": "places"},
    }
    assert csv.read_text().startswith("node,place,position,feature,effect,low,high\n")


def test_a_circuit_is_found_judged_and_written(tmp_path, capsys):
    out, plot = tmp_path / "c.safetensors", tmp_path / "c.svg"
    size = ["--nodes", "6", "--edges", "4", "--plot", str(plot), "--out", str(out)]
    assert main(["features", "circuit", *TASK, *size]) == 0
    said, circuit = capsys.readouterr().out, load_feature_circuit(out)
    assert (len(circuit), circuit.n_edges) == (6, 4) and plot.exists()
    assert said.startswith("6 of ") and "nodes and 4 edges keep " in said
    assert "completeness" in said and f"written to {plot}" in said
    assert all(name in said for name in circuit.names)
    assert main(["features", "show", str(out), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["edges"] == 4


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["effects", "--steps", "3"], "the path 'clean' has no steps; leave out --steps"),
        (["effects", "--rule", "relpp"], "no rule named 'relpp'"),
        (["effects", "--out", "e.json"], "ends in .safetensors, .csv would be right for --out"),
        (["effects", "--dictionaries", "no/such/folder"], "there is no folder no/such/folder"),
        (["circuit", "--nodes", "-1"], "a number of things or, with a point, a least size"),
        (["circuit", "--out", "c.pt"], "would be right for --out"),
    ],
)
def test_what_is_wrong_is_said(capsys, tmp_path, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    assert main(["features", *words[:1], *TASK, *words[1:]]) == 2
    assert message in capsys.readouterr().err
