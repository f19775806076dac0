"""`--spans`: scores, circuits and curves by span from the shell."""

import json

import pytest

from circuits import eap, load_circuit, load_scores
from circuits.cli import main
from circuits.repeating.commands import command_of
from circuits.spans import collapsed
from patching.metrics import logit_diff
from patching.model import Model
from patching.tasks import generate

IOI = ("--model", "truth/induction", "--task", "repeated-letter", "--n", "6")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("spans")


def test_from_scores_by_span_to_a_curve(folder, capsys):
    scores, circuit = folder / "s.safetensors", folder / "c.json"
    base = ("score", *IOI, "--method", "eap", "--out")
    assert main([*base, str(scores), "--spans", "end:3"]) == 0
    assert main([*base, str(folder / "plain.safetensors")]) == 0
    found, plain = load_scores(scores), load_scores(folder / "plain.safetensors")
    assert found.graph.spans == ("rest", "end-2", "end-1", "end")
    error = (collapsed(found).matrix - plain.matrix).abs().max()
    assert error < 1e-6 * plain.matrix.abs().max()  # float32
    assert main(["select", str(scores), "--size", "9", "--out", str(circuit)]) == 0
    assert load_circuit(circuit).size == 9
    spans = ("--spans", "end:3")
    assert main(["evaluate", *IOI, *spans, str(circuit), "--json"]) == 0
    said = capsys.readouterr().out
    (row,) = json.loads(said[said.index("[") :])
    assert row["edges"] == 9
    assert main(["curve", *IOI, *spans, str(scores), "--sizes", "5,50", "--random", "1"]) == 0
    for suffix, told in (("tex", " end}"), ("dot", "a1.h3@end"), ("svg", "svg")):
        assert main(["export", str(circuit), "--out", str(folder / f"c.{suffix}")]) == 0
        assert told in (folder / f"c.{suffix}").read_text()
    assert main(["show", str(circuit)]) == 0
    assert "spans rest, end-2, end-1, end" in capsys.readouterr().out


def test_discover_searches_and_judges_by_span(folder, capsys):
    out = folder / "found"
    assert (
        main(
            ["discover", *IOI, "--spans", "positions", "--method", "eap", "--size", "12"]
            + ["--holdout", "0.5", "--out", str(out)]
        )
        == 0
    )
    assert load_circuit(out / "circuit.json").graph.spans[:3] == ("rest", "0", "1")
    assert "@" in (out / "report.md").read_text()


@pytest.mark.parametrize(
    ("spans", "message"),
    [
        ("XX", "task 'repeated-letter' has no span 'XX', but rest, previous, next, end"),
        ("end:x", "--spans end:N takes a number of tokens, got 'end:x'"),
        ("end:99", "row 0 of task 'repeated-letter' has"),
    ],
)
def test_spans_that_are_not_there_are_said(folder, capsys, spans, message):
    out = str(folder / "none.safetensors")
    assert main(["score", *IOI, "--method", "eap", "--spans", spans, "--out", out]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    "command",
    [
        ("search", "--threshold", "1", "--metric", "logit-diff"),
        ("learn", "--size", "9", "--steps", "2"),
    ],
)
def test_searches_and_masks_are_by_span(folder, command):
    name, *options = command
    out = folder / name
    file = out / "circuit.json" if name == "learn" else folder / "searched.json"
    given = ("--n", "2", "--spans", "end", "--out", str(out if name == "learn" else file))
    assert main([name, *IOI[:4], *options, *given]) == 0
    assert load_circuit(file).graph.spans == ("rest", "end")


def test_a_map_over_spans_has_their_names(folder):
    out = folder / "map"
    given = ("--over", "layer,span", "--what", "attn_out", "--out", str(out))
    assert main(["patch", *IOI, *given]) == 0
    axes = json.loads((out / "attn_out-exact.json").read_text())["axes"]
    assert axes["span"] == ["rest", "previous", "next", "end"]


def test_scores_by_span_made_in_python_can_be_made_again(folder):
    model = Model.load("toy")
    task = generate("ioi", model.tokenizer, 6, 0).by_span(["S2", "end"])
    scores = eap(model, task, logit_diff)
    assert "--spans=S2,end" in command_of(scores.provenance)
