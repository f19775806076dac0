"""Results are repeated from what they say of themselves, and planted differences are found."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from shells import here, on, save_model

from circuits.circuit import load_circuit
from circuits.cli import main
from circuits.repeating import Elsewhere, Permitted, rerun, running, summary
from circuits.repeating.commands import command_of
from circuits.repeating.comparison import compare_numbers
from circuits.scores import load_scores, merge
from circuits.scoring import eap, eap_ig
from circuits.select import prune, random_circuit, top_n
from patching.ablations import mean
from patching.metrics import logit_diff
from patching.tasks import from_json, generate, ioi


def again(path, **options):
    return rerun(path, run=here, **options)


@pytest.fixture(autouse=True)
def _where_the_models_are(home, monkeypatch):
    """What a result may read without more ado lies beside it or in the current folder."""
    monkeypatch.chdir(home)


@pytest.fixture(scope="module")
def results(home, tmp_path_factory) -> Path:
    """One result of every command, in a folder."""
    folder = tmp_path_factory.mktemp("results")
    for name in ("scores.safetensors", "circuit.json"):
        shutil.copy(home / name, folder)
    scores, circuit = str(folder / "scores.safetensors"), str(folder / "circuit.json")
    few = ["--random", "2", "--bootstrap", "20", "--json"]
    curve = here(["curve", *on(home), scores, "--sizes", "3,20", *few])
    (folder / "curve.json").write_text(curve)
    (folder / "evaluation.json").write_text(here(["evaluate", *on(home), circuit, "--json"]))
    here(["patch", *on(home), "--out", str(folder / "patch")])
    here(
        [
            "discover",
            *on(home),
            "--faithfulness",
            "0.99",
            "--steps",
            "2",
            "--out",
            str(folder / "found"),
        ]
    )
    acdc = ["--method", "acdc", "--threshold", "0.001", "--limit", "4"]
    outs = ["--out", str(folder / "acdc.json"), "--scores", str(folder / "acdc.safetensors")]
    here(["search", *on(home), *acdc, *outs, "--log", str(folder / "log.jsonl")])
    few = ["--size", "12", "--steps", "2", "--limit", "4"]
    here(["learn", *on(home), *few, "--out", str(folder / "learned")])
    return folder


@pytest.mark.parametrize(
    "name",
    [
        *("acdc.json", "acdc.safetensors"),
        *("learned/circuit.json", "learned/scores.safetensors"),
        *("scores.safetensors", "circuit.json", "curve.json", "evaluation.json"),
        *("patch/resid_pre-exact.json", "found", "found/scores.safetensors", "found/circuit.json"),
    ],
)
def test_every_result_is_repeated_to_the_last_bit(results, name):
    comparison = again(results / name)
    assert comparison.verdict == "same" and comparison.bitwise, summary(comparison)
    assert comparison.exit_code == 0
    assert sum(one.n for one in comparison.numbers) > 5
    assert not comparison.facts and not comparison.texts
    assert "the same, to the last bit" in summary(comparison)
    assert json.loads(json.dumps(comparison.to_dict(), allow_nan=False))["verdict"] == "same"


def test_neurons_are_repeated(tmp_path):
    few = ["--n", "12", "--top", "2", "--betas", "0,2", "--random", "1", "--elsewhere", "ioi"]
    here(["neurons", "--model", "toy", "--task", "conflict", *few, "--out", str(tmp_path)])
    comparison = again(tmp_path / "neurons.json")
    assert comparison.bitwise and "--betas=0.0,2.0" in comparison.command
    assert {one.name for one in comparison.numbers} == {"neurons.score"}


# Planted differences.


def altered(results, tmp_path, change) -> Path:
    path = tmp_path / "scores.safetensors"
    scores = load_scores(results / "scores.safetensors")
    change(scores).save(path)
    return path


def said(**facts):
    """Scores with other facts in their provenance; None takes one out."""

    def change(scores):
        merged = {**scores.provenance, **facts}
        kept = {name: value for name, value in merged.items() if value is not None}
        return replace(scores, provenance=kept)

    return change


def one_more(factor):
    """Scores with one of them changed, by a share of the largest."""

    def change(scores):
        matrix = scores.matrix.clone()
        edge = scores.graph.edge_index("embed", "m0")
        matrix[edge] += factor * matrix.abs().max()
        return replace(scores, matrix=matrix)

    return change


def test_a_score_that_was_changed_by_hand_is_found(results, tmp_path):
    comparison = again(altered(results, tmp_path, one_more(0.01)))
    (numbers,) = comparison.numbers
    assert comparison.verdict == "differs" and comparison.exit_code == 1
    assert numbers.where == "embed->m0" and 0.009 < numbers.relative < 0.011
    assert numbers.ranks > 0.9
    assert "DIFFERS in numbers (beyond rounding, 0.0001 of the largest)" in summary(comparison)


def test_rounding_is_no_difference_unless_it_is_asked_for(results, tmp_path):
    path = altered(results, tmp_path, one_more(1e-6))
    comparison = again(path)
    assert comparison.verdict == "same" and not comparison.bitwise
    assert "the same but for rounding" in summary(comparison)
    assert again(path, tolerance=0.0).verdict == "differs"


@pytest.mark.parametrize(
    ("field", "named"), [("weights", "weights"), ("config", "config"), ("tokens", "prompts")]
)
def test_other_weights_and_other_prompts_are_found(results, tmp_path, field, named):
    comparison = again(altered(results, tmp_path, said(**{field: "0123456789abcdef"})))
    assert comparison.bitwise and comparison.verdict == "differs"
    assert [fact.name for fact in comparison.inputs] == [named]
    assert f"DIFFERS in {named}" in summary(comparison)


def test_versions_are_told_and_are_no_difference(results, tmp_path):
    scores = load_scores(results / "scores.safetensors")
    versions = {**scores.provenance["versions"], "torch": "1.0"}
    comparison = again(altered(results, tmp_path, said(versions=versions)))
    assert comparison.verdict == "same"
    assert [(fact.name, fact.before) for fact in comparison.facts] == [("torch", "1.0")]
    assert "torch: 1.0, now " in summary(comparison)


def test_it_is_said_which_input_has_changed(results, tmp_path, home):
    """The file of prompts beside what it holds, and facts that a model may know of itself."""
    before = {"tokenizer": "a", "metric": "kl", "versions": {"transformers": "4"}}
    path = altered(results, tmp_path, said(**before))
    task = json.loads((home / "task.json").read_text())
    (tmp_path / "task.json").write_text(json.dumps({**task, "name": "other"}))
    comparison = again(path, elsewhere=Elsewhere(task=str(tmp_path / "task.json")))
    assert comparison.verdict == "same"
    changed = {fact.name for fact in comparison.facts}
    assert changed >= {"tokenizer", "metric", "transformers", "--task"}


def test_the_edges_that_differ_are_named(results, tmp_path):
    circuit = load_circuit(results / "circuit.json")
    source, dest = circuit.edges[0]
    lone = circuit.from_edges(circuit.graph, [(source, dest)])
    path = tmp_path / "circuit.json"
    replace(circuit - lone, provenance=circuit.provenance).save(path)
    comparison = again(path)
    (edges,) = comparison.numbers
    assert comparison.verdict == "differs"
    assert edges.only_now == (f"{source}->{dest}",) and not edges.only_before
    assert f"edges only now (1): {source}->{dest}" in summary(comparison)


def test_a_point_of_a_curve_and_a_text_that_were_changed_are_found(results, tmp_path):
    content = json.loads((results / "curve.json").read_text())
    content[0]["points"][1]["faithfulness"] += 0.5
    content[0]["conditions"]["metric"] = "another"
    (tmp_path / "curve.json").write_text(json.dumps(content))
    comparison = again(tmp_path / "curve.json", permitted=Permitted((results,)))
    differing = [one for one in comparison.numbers if not one.bitwise]
    assert [(one.name, one.where) for one in differing] == [
        ("points.faithfulness", "[0].points[1].faithfulness")
    ]
    assert comparison.texts[0].before == "another"
    assert "DIFFERS in numbers" in summary(comparison) and "texts" in summary(comparison)


def test_a_file_that_was_read_and_changed_since_is_found(results, tmp_path):
    """The command finds the file of that name beside the result, once the first is gone."""
    scores = altered(results, tmp_path, one_more(0.5))
    content = json.loads((results / "curve.json").read_text())
    command = content[0]["provenance"]["command"]
    content[0]["provenance"]["command"] = [*command[:-1], f"gone/{scores.name}"]
    (tmp_path / "curve.json").write_text(json.dumps(content))
    comparison = again(tmp_path / "curve.json")
    assert [fact.name for fact in comparison.inputs] == ["1. scores.safetensors"]
    scores.unlink()
    with pytest.raises(
        ValueError, match="gone/scores.safetensors is wanted, which is neither there nor bes"
    ):
        again(tmp_path / "curve.json")


# What has moved, and what is missing.


def test_a_task_or_model_that_moved_is_taken_from_elsewhere(home, results, tmp_path):
    shutil.copytree(home / "model", tmp_path / "moved")
    shutil.copy(home / "task.json", tmp_path / "other.json")
    path = results / "scores.safetensors"
    elsewhere = Elsewhere(str(tmp_path / "moved"), str(tmp_path / "other.json"), "cpu")
    comparison = again(path, elsewhere=elsewhere)
    assert comparison.verdict == "same", summary(comparison)
    assert comparison.command[-3:] == (
        *(f"--model={tmp_path}/moved", f"--task={tmp_path}/other.json", "--device=cpu"),
    )
    torch.manual_seed(1)
    save_model(tmp_path / "deeper", n_layer=3)
    other = again(path, elsewhere=Elsewhere(model=str(tmp_path / "deeper")))
    assert "weights" in [fact.name for fact in other.inputs]
    assert other.numbers[0].only_now and "scores only now" in summary(other)


def test_a_task_file_that_is_gone_is_asked_for(results, tmp_path):
    scores = load_scores(results / "scores.safetensors")
    words = [w for w in scores.provenance["command"] if not w.startswith("--task=")]
    path = altered(results, tmp_path, said(command=[*words, "--task=gone/prompts.json"]))
    with pytest.raises(
        ValueError, match="the file gone/prompts.json is wanted, .*; --task says where"
    ):
        again(path)


def test_an_old_file_says_all_that_is_missing(home, results, tmp_path):
    old = altered(results, tmp_path, said(command=None, origin=None, source=None))
    with pytest.raises(ValueError, match="cannot be repeated, for want of what the model was load"):
        again(old)
    with pytest.raises(ValueError, match=r"how the prompts were made \(give --task\)"):
        again(old)
    elsewhere = Elsewhere(str(home / "model"), str(home / "task.json"))
    assert again(old, elsewhere=elsewhere).verdict == "same"


def test_what_is_no_result_is_refused(tmp_path):
    with pytest.raises(ValueError, match="is no result: those are .safetensors, .json and the"):
        again(tmp_path / "notes.txt")
    with pytest.raises(ValueError, match="is not what `circuits discover` wrote: it lacks scores"):
        again(tmp_path)
    (tmp_path / "bare.json").write_text('{"edges": 3}')
    with pytest.raises(ValueError, match="want of any provenance .what `circuits discover` wrote"):
        again(tmp_path / "bare.json")
    (tmp_path / "half.json").write_text('{"edges": ')
    with pytest.raises(ValueError, match=r"half.json is not a whole JSON file"):
        again(tmp_path / "half.json")


def test_a_renamed_file_of_a_folder_is_found_by_its_kind_or_refused(results, tmp_path):
    path = tmp_path / "map.json"
    shutil.copy(results / "patch" / "resid_pre-exact.json", path)
    assert again(path).bitwise
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, "more": 1}))
    with pytest.raises(ValueError, match="is like nothing that its command writes: resid_pre"):
        again(path)


# Made in Python.


def test_scores_and_circuits_made_in_python_are_repeated(toy, tmp_path):
    task = generate("ioi:swap", toy.tokenizer, 9, seed=3).take(7)
    scores = eap_ig(toy, task, logit_diff, steps=2)
    scores.save(tmp_path / "scores.safetensors")
    comparison = again(tmp_path / "scores.safetensors")
    assert comparison.verdict == "same" and not comparison.inputs, summary(comparison)
    assert {"--task=ioi:swap", "--n=9", "--seed=3", "--limit=7", "--steps=2"} <= {
        *comparison.command
    }
    top_n(scores, 12, ranking="signed", prune=True).save(tmp_path / "circuit.json")
    assert again(tmp_path / "circuit.json").verdict == "same"


def test_what_python_did_and_no_command_can_is_named(toy, home, tmp_path):
    path = tmp_path / "scores.safetensors"
    whole = generate("ioi", toy.tokenizer, 8)

    def made(task, message, **options):
        eap(toy, task, logit_diff, **options).save(path)
        with pytest.raises(ValueError, match=message):
            again(path)

    made(whole.split(0.5)[0], r"prompts that were cut so: split \(only Python\)")
    made(ioi(toy.tokenizer, 4), "how the prompts were made")
    made(whole, "the prompts behind the ablation 'mean over ioi", ablation=mean(whole))
    scores = eap(toy, whole, logit_diff)
    merge(scores, scores).save(path)
    with pytest.raises(ValueError, match="what the model was loaded from"):
        again(path)
    said(method="mine", metric="own")(scores).save(path)
    with pytest.raises(ValueError, match="a metric of a known name .it was own.; a method of a kn"):
        again(path)
    chosen = tmp_path / "circuit.json"
    for circuit in (random_circuit(toy.graph, 5, seed=0), prune(random_circuit(toy.graph, 5, 0))):
        circuit.save(chosen)
        with pytest.raises(
            ValueError, match="how its edges were chosen from scores .the sel.*known"
        ):
            again(chosen)


def test_the_origin_of_a_task_says_how_it_was_read_and_cut(toy, home):
    whole = generate("ioi", toy.tokenizer, 8, seed=2)
    assert whole.origin == {"task": "ioi", "n": 8, "seed": 2}
    assert whole.take(3).origin["then"] == [["take", 3]]
    parts = whole.split(0.5, seed=1)
    assert [part.origin["then"] for part in parts] == [
        [["split", 0.5, 1, "first"]],
        [["split", 0.5, 1, "second"]],
    ]
    cut = whole.of_length().with_random_corrupt(4)
    assert [step[0] for step in cut.origin["then"]] == ["of length", "random corrupt"]
    path = str(home / "task.json")
    assert from_json(path).origin == {"file": path, "first_token": False}
    assert ioi(toy.tokenizer, 4).take(2).origin == {}


def test_undefined_numbers_equal_each_other_only():
    nan = float("nan")
    assert compare_numbers("x", {"a": nan}, {"a": nan}).bitwise
    assert compare_numbers("x", {"a": nan}, {"a": 1.0}).relative == float("inf")
    assert compare_numbers("x", {"a": 0.0}, {"a": 1e-9}).relative == float("inf")


# The shell, with its new processes.


def test_the_shell_repeats_in_a_new_process_and_exits_by_the_verdict(
    results, tmp_path, capsys, monkeypatch
):
    path = altered(results, tmp_path, one_more(0.01))
    assert main(["rerun", str(path), "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["verdict"] == "differs"
    missing = ["rerun", str(path), "--model", str(tmp_path / "nowhere")]
    assert main(missing) == 2
    error = capsys.readouterr().err
    assert "nowhere', which is no folder here and no name of a model; --model says" in error
    (tmp_path / "python").write_text(REFUSES)
    (tmp_path / "python").chmod(0o755)
    monkeypatch.setattr(running.sys, "executable", str(tmp_path / "python"))
    assert main(["rerun", str(path), "--device", "abacus"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("running: circuits score --model=")
    assert "error: `circuits score " in error and "failed: the device 'abacus' cannot" in error


def test_a_searched_result_is_not_touched_by_its_repetition(results):
    names = ("acdc.json", "acdc.safetensors", "log.jsonl")
    before = {name: (results / name).read_bytes() for name in names}
    again(results / "acdc.safetensors")
    assert {name: (results / name).read_bytes() for name in names} == before


def test_scores_of_some_prompts_after_an_interrupt_are_not_repeated_as_of_all(results, tmp_path):
    scores = load_scores(results / "scores.safetensors")
    partial = {"partial": {"n_examples": 2, "of": 6}}
    replace(scores, provenance={**scores.provenance, **partial}).save(tmp_path / "s.safetensors")
    with pytest.raises(ValueError, match="the rest of it: it is of 2 of 6 prompts"):
        again(tmp_path / "s.safetensors")


def test_another_device_takes_the_place_of_a_device_map():
    said = {"command": ["score", "--model=m", "--n-devices=2", "--task=ioi", "--revision=a"]}
    words = command_of(said, Elsewhere(model="n", device="cpu"))
    assert words == ["score", "--task=ioi", "--model=n", "--device=cpu"]


REFUSES = """#!/bin/sh
echo "error: the device 'abacus' cannot be used here" >&2
exit 2
"""
"""What a command says of such a device, without the seconds in which it imports all it needs."""

WAITS = """#!/bin/sh
echo 'scoring: 3 of 9 (33%)' >&2
tries=0
until [ -e told ]; do tries=$((tries + 1)); [ $tries -lt 500 ] || exit 1; sleep 0.01; done
echo result
[ "$4" = fine ] || { echo 'error: no such task' >&2; exit 2; }
"""
"""A command that goes on only when somebody was told how far it is."""


def test_how_far_a_command_is_is_passed_on_while_it_runs(tmp_path, monkeypatch):
    (tmp_path / "python").write_text(WAITS)
    (tmp_path / "python").chmod(0o755)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(running.sys, "executable", str(tmp_path / "python"))
    told = []
    monkeypatch.setattr(running, "show", lambda line: told.append(line) or Path("told").touch())
    assert running.in_new_process(["fine"]) == "result\n"
    with pytest.raises(ValueError, match="`circuits wrong` failed: no such task"):
        running.in_new_process(["wrong"])
    assert told == ["scoring: 3 of 9 (33%)\n"] * 2
