"""The shell's `neurons`: find, judge, write, and answer with neurons reweighted."""

import json

import pandas as pd
import pytest
from shells import save_model

from circuits.cli import main
from patching.model import Model
from patching.neurons import Neurons, conflict_rates, read_conflicts, scale_neurons, toy_conflicts

WRITTEN = {
    *("report.md", "neurons.json", "ranked.json", "rates.csv"),
    *(f"{name}.{suffix}" for name in ("layers", "sweep", "betas") for suffix in ("png", "svg")),
}
QUICK = ["--steps", "2", "--top", "3", "--betas", "0,4", "--random", "2"]
PROMPT = "Note: the capital of Chile is Rome. The capital of Chile is"


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """A search on the embedded model, with little of everything."""
    out = tmp_path_factory.mktemp("neurons")
    options = ["--model", "toy", "--task", "conflict", "--n", "16", "--elsewhere", "facts"]
    assert main(["neurons", *options, *QUICK, "--out", str(out)]) == 0
    return out


def test_everything_is_written(found):
    assert {path.name for path in found.iterdir()} == WRITTEN


def test_the_report_says_what_was_measured(found):
    report = (found / "report.md").read_text()
    neurons = Neurons.load(found / "neurons.json")
    for words in (
        f"{len(neurons)} neuron",
        "development conflicts",
        "random neurons",
        "context-aware decoding (CAD)",
        "| facts | accuracy |",
        "| facts | perplexity |",
        "## Settings",
        f"`{neurons.names[0]}`",
    ):
        assert words in report
    assert "None" not in report


def test_neurons_and_rates_are_those_of_the_library(found):
    neurons, ranked = (Neurons.load(found / f"{name}.json") for name in ("neurons", "ranked"))
    assert list(neurons) == list(ranked)[: len(neurons)]
    assert len(ranked) == 3
    assert neurons.provenance["source"] == "toy"
    beta = neurons.provenance["beta"]
    model = Model.load("toy")
    from patching.neurons import split_by_question

    _, held_out = split_by_question(toy_conflicts(model.tokenizer, 16, 0), 0.5, seed=0)
    with scale_neurons(model, neurons, beta):
        expected = conflict_rates(model, held_out).at(measure="follows context")
    rates = pd.read_csv(found / "rates.csv")
    row = rates[(rates["what"] == "edited") & (rates["beta"] == beta)]
    row = row[row["measure"] == "follows context"]
    assert row["value"].tolist() == [pytest.approx(expected)] * len(row)
    assert set(rates["what"]) == {"edited", "control", "original", "CAD", "edited + CAD"}


def test_apply_continues_with_and_without(found, capsys):
    file = str(found / "neurons.json")
    options = ["--beta", "0", "--prompt", PROMPT, "--tokens", "1", "--json"]
    assert main(["neurons", "--apply", file, *options]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["without"] in (" Rome", " Santiago")
    assert said["beta"] == 0
    assert main(["neurons", "--apply", file, *options[:-1]]) == 0
    assert f"as it is:   {PROMPT}{said['without']}" in capsys.readouterr().out


def test_apply_without_beta_takes_the_one_found_and_exports(found, tmp_path, capsys):
    folder = tmp_path / "edited"
    assert main(["neurons", "--apply", str(found / "neurons.json"), "--export", str(folder)]) == 0
    assert "times 4" in capsys.readouterr().out
    assert Model.load(folder).graph == Model.load("toy").graph


def test_a_file_of_token_ids_needs_no_tokenizer(tmp_path, capsys):
    save_model(tmp_path / "model", n_layer=2)
    rows = [
        {
            "without_context": [i, 7],
            "with_context": [i + 1, i, 7],
            "answer": [i + 2],
            "memorised": [i + 3],
        }
        for i in range(10, 18)
    ]
    file = tmp_path / "conflict.json"
    file.write_text(json.dumps({"name": "ids", "conflicts": rows}))
    options = ["--model", str(tmp_path / "model"), "--task", str(file), "--method", "relp"]
    options += [*QUICK[2:], "--layers", "1", "--out", str(tmp_path / "out"), "--json"]
    assert main(["neurons", *options]) == 0
    table = pd.DataFrame(json.loads(capsys.readouterr().out))
    assert set(table["n"]) == {4}
    assert {layer for layer, _ in Neurons.load(tmp_path / "out" / "ranked.json")} == {1}
    assert len(read_conflicts(file)) == 8


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ([], "--model is missing"),
        (["--model", "toy"], "--task is missing"),
        (["--model", "toy", "--task", "conflict"], "--out is missing"),
        (["--model", "toy", "--task", "conflct", "--out", "x"], "no conflicts named 'conflct'"),
        (["--model", "toy", "--task", "conflict", "--out", "x", "--method", "eap"], "no method"),
        (
            ["--model", "toy", "--task", "conflict", "--out", "x", "--method", "exact-ablation"],
            "works on a shortlist",
        ),
        (
            "--model toy --task conflict --out x --method relp --steps 3".split(),
            "relp has no path to take steps on",
        ),
        ("--model toy --task conflict --out x --betas 2,-1".split(), "factors from 0"),
        ("--model toy --task conflict --out x --betas 2,nan".split(), "factors from 0"),
        (["--apply", "FILE"], "--apply needs --prompt"),
        (["--apply", "FILE", "--prompt", "a", "--beta", "-1"], "from 0 (erase)"),
        (["--apply", "FILE", "--prompt", "a", "--beta", "nan"], "got nan"),
        (["--apply", "missing.json", "--prompt", "a"], "missing.json"),
    ],
)
def test_wrong_usage_is_one_line(options, said, found, capsys):
    file = str(found / "neurons.json")
    assert main(["neurons", *(file if part == "FILE" else part for part in options)]) == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith("error: ")
    assert said in error
    assert "\n" not in error


def test_neurons_without_a_source_or_a_beta_say_so(tmp_path, capsys):
    Neurons([(0, 1)]).save(tmp_path / "n.json")
    apply = ["neurons", "--apply", str(tmp_path / "n.json"), "--prompt", "a"]
    assert main(apply) == 2
    assert "which beta is best; give --beta" in capsys.readouterr().err
    assert main([*apply, "--beta", "2"]) == 2
    assert "which model it is of; give --model" in capsys.readouterr().err
