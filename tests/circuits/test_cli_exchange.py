"""`export --to`, and EAP-IG's graph files as inputs of every command that reads results."""

import json

import families
import pytest
import torch

from circuits.circuit import load_circuit
from circuits.cli import main
from circuits.export import read_mib
from circuits.scores import load_scores

TO = ["--to", "eap-ig", "--d-model", "32"]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A grouped model, a task, scores of every query head's keys and values, a circuit of them."""
    folder = tmp_path_factory.mktemp("exchange")
    families.module("llama", torch.float32).save_pretrained(folder / "model")
    rows = [
        {"clean": list(p.clean), "corrupt": list(p.corrupt)}
        | {"answers": list(p.answers), "wrong_answers": list(p.wrong_answers)}
        for p in families.task().prompts
    ]
    (folder / "task.json").write_text(json.dumps({"prompts": rows}))
    scores = str(folder / "scores.safetensors")
    assert main(["score", *on(folder), "--method", "eap", "--out", scores]) == 0
    circuit = str(folder / "circuit.json")
    assert main(["select", scores, "--size", "40", "--out", circuit]) == 0
    return folder


def on(folder, *, grouped: bool = False) -> list[str]:
    model = ["--model", str(folder / "model"), "--task", str(folder / "task.json")]
    return model if grouped else [*model, "--ungroup"]


@pytest.fixture(scope="module", params=[".json", ".pt"])
def theirs(request, place):
    """EAP-IG's file of the circuit with the scores of all edges."""
    path = place / f"theirs{request.param}"
    files = [str(place / "circuit.json"), "--scores", str(place / "scores.safetensors")]
    assert main(["export", *files, *TO, "--out", str(path)]) == 0
    return path


def test_a_circuit_goes_and_comes_back_with_the_scores_outside_it(place, theirs):
    found, scores = read_mib(theirs), load_scores(place / "scores.safetensors")
    circuit = load_circuit(place / "circuit.json")
    assert found is not None
    assert found.circuit == circuit
    assert found.scores is not None
    assert torch.equal(found.scores.matrix, scores.matrix)
    heads = scores.matrix[:, scores.graph.v_readers(1)]
    assert not torch.allclose(heads[:, 0], heads[:, 1])  # of one group


def test_every_command_that_reads_results_reads_theirs(place, theirs, tmp_path, capsys):
    ours, circuit = str(place / "scores.safetensors"), str(place / "circuit.json")
    file, out = str(theirs), str(tmp_path / "c.json")
    assert main(["select", file, "--size", "40", "--out", out]) == 0
    assert load_circuit(out) == load_circuit(circuit)
    for words in (
        ["show", file],
        ["view", file, "--out", str(tmp_path / "v.html")],
        ["view", circuit, "--scores", file, "--compare", file, "--out", str(tmp_path / "w.html")],
        ["compare", file, circuit],
        ["evaluate", *on(place), file],
        ["curve", *on(place), file, "--sizes", "30", "--random", "0", "--bootstrap", "0"],
        ["export", file, "--against", circuit, "--out", str(tmp_path / "c.svg")],
        ["learn", *on(place), "--start", file, "--size", "9", "--steps", "1"]
        + ["--out", str(tmp_path / "l")],
        ["search", *on(place), "--threshold", "9", "--guess", file, "--limit", "1"]
        + ["--out", str(tmp_path / "s.json")],
    ):
        assert main(words) == 0, capsys.readouterr().err
    capsys.readouterr()
    assert main(["evaluate", *on(place), file, circuit, "--json"]) == 0
    a, b = json.loads(capsys.readouterr().out)
    assert a["metric"] == b["metric"]
    assert main(["compare", ours, circuit]) == 2
    assert "give files of one kind" in capsys.readouterr().err


def test_circuits_of_query_heads_are_joined_for_a_model_as_it_is(place, theirs, capsys):
    assert main(["evaluate", *on(place, grouped=True), str(theirs), "--json"]) == 0
    joined = json.loads(capsys.readouterr().out)[0]["edges"]
    assert joined <= load_circuit(place / "circuit.json").size


def test_scores_that_heads_share_are_spread_with_a_warning(place, tmp_path, capsys):
    scores = str(tmp_path / "shared.safetensors")
    assert main(["score", *on(place, grouped=True), "--method", "eap", "--out", scores]) == 0
    assert main(["export", scores, *TO, "--out", str(tmp_path / "t.json")]) == 0
    assert "each head gets an equal part" in capsys.readouterr().err
    found = read_mib(tmp_path / "t.json")
    assert found is not None
    assert found.result.graph == load_scores(scores).graph  # our files say of which graph


def test_a_submission_to_mib_is_a_folder(place, tmp_path):
    scores = str(place / "scores.safetensors")
    words = ["--to", "mib", "--cell", "ioi_qwen2.5", "--d-model", "32"]
    assert main(["export", scores, *words, "--out", str(tmp_path)]) == 0
    assert (tmp_path / "ioi_qwen2.5" / "importances.pt").is_file()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["c", "--to", "eap-ig", "--out", "x.json"], "--to eap-ig needs --d-model, the width"),
        (["c", *TO, "--cell", "ioi_gpt2", "--out", "x.json"], "--to mib needs --cell"),
        (["c", "c", *TO, "--out", "x.json"], "one file of scores or one circuit goes into"),
        (["s", "--scores", "s", *TO, "--out", "x.json"], "holds scores already; leave out"),
        (["c", *TO, "--out", "x.svg"], "a file that ends in .json, .pt would be right"),
        (["c", "--d-model", "8", "--out", "x.svg"], "--scores, --d-model, --cell need --to"),
        (["c", "--to", "mib", "--cell", "ioi_gpt2", "--d-model", "8", "--out", "m"], "is one cir"),
    ],
)
def test_what_does_not_fit_is_one_line(words, message, place, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    files = {"c": str(place / "circuit.json"), "s": str(place / "scores.safetensors")}
    assert main(["export", *(files.get(word, word) for word in words)]) == 2
    assert message in capsys.readouterr().err
