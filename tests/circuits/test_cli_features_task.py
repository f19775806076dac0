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
    assert main(["features", "export", str(out), "--out", str(csv)]) == 0
    assert len(csv.read_text().splitlines()) == len(effects) + 1
    assert main(["features", "export", str(out), "--out", str(csv.with_suffix(".dot"))]) == 2
    assert "effects are written as .safetensors or .csv" in capsys.readouterr().err
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
    forms = [str(tmp_path / f"c.{suffix}") for suffix in ("graphml", "tex")]
    given = [part for form in forms for part in ("--out", form)]
    assert main(["features", "export", str(out), *given, "--title", "so small"]) == 0
    assert capsys.readouterr().out == f"written to {forms[0]}\nwritten to {forms[1]}\n"
    assert "so small" in (tmp_path / "c.tex").read_text()
    for words, message in (
        (["features", "export", str(out), "--out", "c.csv", "--width", "page"], "; c.csv is none"),
        (["export", str(out), "--out", "c.json"], "; `circuits features` reads it; it should hold"),
        (["features", "effects", *TASK, "--out", str(out)], "holds feature circuit, no feature"),
    ):
        assert main(words) == 2 and message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["effects", "--steps", "3"], "the path 'clean' has no steps; leave out --steps"),
        (["effects", "--rule", "relpp"], "no rule named 'relpp'"),
        (["effects", "--path", "inputs", "--ablation", "zero"], "take --path clean, or places"),
        (["circuit", "--nodes", "50.0"], "no node has an effect of 50 or more: the largest is"),
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


def test_positions_that_do_not_mean_the_same_are_refused_with_the_option_that_helps(capsys):
    task = ["--model", "toy-llama", "--task", "ioi", "--n", "8"]
    assert main(["features", "effects", *task, "--dictionaries", "neurons"]) == 2
    said = capsys.readouterr().err
    assert "ioi has prompts of 1" in said and "give --sum-positions, or prompts of one" in said


def test_what_is_done_is_kept_and_the_same_command_only_reads_it(tmp_path, capsys, monkeypatch):
    run, out = tmp_path / "run", tmp_path / "c.safetensors"
    command = ["features", "circuit", *TASK, "--nodes", "4", "--edges", "3", "--run", str(run)]
    assert main([*command, "--out", str(out)]) == 0
    said, first = capsys.readouterr().out, load_feature_circuit(out)
    kinds = {folder.name.rpartition("-")[0] for folder in run.iterdir()}
    assert kinds == {"features", "feature-edges", "feature-circuits"}

    def nothing(*args, **options):
        raise AssertionError("a batch was measured anew")

    for module in ("patching.attribution.features.effects", "circuits.features.edges"):
        monkeypatch.setattr(f"{module}._measure", nothing)
    monkeypatch.setattr("circuits.features.running._measure", nothing)
    assert main([*command, "--out", str(out)]) == 0
    assert capsys.readouterr().out == said
    assert load_feature_circuit(out).edges == first.edges


def test_a_few_heads_and_neurons_are_kept_and_judged_on_other_prompts(tmp_path, capsys):
    task = ["--model", "truth/composition-relu", "--task", "digit-composition", "--n", "20"]
    out = tmp_path / "units.json"
    size = ["--keep", "60", "--steps", "8", "--out", str(out)]
    assert main(["features", "few", *task, *size]) == 0
    said, told = capsys.readouterr().out, json.loads(out.read_text())
    assert len(told["units"]) == 60 and {"a0.h1", "a1.h3"} <= {*told["units"]}
    assert (told["searched"]["prompts"], told["judged"]["prompts"]) == (14, 6)
    kept = f"60 heads and neurons keep {told['judged']['faithfulness']:.3f} of the gap on 6 prompts"
    assert said.startswith(kept) and f"written to {out}" in said
