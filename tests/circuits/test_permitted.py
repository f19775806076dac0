"""What a result's file says is run: nothing is written, read or imported that was not asked for."""

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from shells import on

from circuits.circuit import load_circuit
from circuits.cli import main, make_parser
from circuits.repeating import Permitted, downloads, rerun
from circuits.repeating.permitted import OPTIONS, words_of
from circuits.scores import load_scores
from circuits.shell.recording import _NOT_OF_THE_RESULT


class Ran(AssertionError):
    """Something was run."""


def refuse_to_run(words):
    raise Ran(words)


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    """A folder to stand in, and one beside it that nobody has named."""
    (tmp_path / "here").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "prompts.json").write_text('{"prompts": []}')
    (tmp_path / "elsewhere" / "model").mkdir()
    (tmp_path / "here" / "link.json").symlink_to(tmp_path / "elsewhere" / "prompts.json")
    (tmp_path / "here" / "own.json").write_text("{}")
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


GOOD = ["score", "--model=toy", "--dtype=float32", "--task=ioi", "--n=4", "--seed=0"]

HOSTILE = {
    "code that comes with a model": (["--trust-remote-code"], "runs code that comes with the mod"),
    "the same, shortened": (["--trust-remote"], "none of the options that decide"),
    "the same, with a value": (["--trust-remote-code=1"], "which no command records so"),
    "a table": (["--csv=own.json"], "none of the options that decide"),
    "a table, shortened": (["--cs=own.json"], "none of the options that decide"),
    "a figure": (["--plot=x.svg"], "none of the options that decide"),
    "a log": (["--log=own.json"], "none of the options that decide"),
    "a folder for chunks": (["--run=x"], "none of the options that decide"),
    "where results go": (["--out=own.json"], "none of the options that decide"),
    "a cluster": (["--engine=ray", "--address=evil:1"], "none of the options that decide"),
    "an export": (["--export=x"], "none of the options that decide"),
    "an end of options": (["--"], "none of the options that decide"),
    "a short option": (["-o", "x"], "none of the options that decide"),
    "a value of its own": (["--task", "own.json"], "which no command records so"),
    "a file for a command without": (["own.json"], "reads no file"),
    "a function": (["--method=os:system"], "would be imported and run; give --trust-functions"),
    "constants to be written": (["--constants=new.safetensors"], "neither there nor beside"),
    "prompts of elsewhere": (["--task=../elsewhere/prompts.json"], "neither here nor beside"),
    "prompts by a link": (["--task=link.json"], "neither here nor beside the result; give --allow"),
    "a device map of elsewhere": (["--device-map=../elsewhere/prompts.json"], "neither here nor"),
    "a model of elsewhere": (["--model=../elsewhere/model"], "neither here nor beside the result"),
    "an address as a model": (["--model=http://evil/x"], "no folder here and no name of a model"),
    "a model above the hub": (["--model=a/..b"], "no folder here and no name of a model"),
    "a revision above": (["--revision=../../x"], "no revision of a model"),
    "a type of another module": (["--dtype=os;"], "where a name or number would be right"),
    "signs of a terminal": (["--metric=\x1b[31m"], "where a name or number would be right"),
}


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("kind", ["scores", "circuit", "json"])
def test_hostile_commands_are_refused_in_words_before_anything_is_run(here, home, name, kind):
    extra, says = HOSTILE[name]
    path = _recorded(here, home, kind, [*GOOD, *extra])
    before = {one: one.read_bytes() for one in here.iterdir() if one.is_file()}
    with pytest.raises(ValueError, match=says) as caught:
        rerun(path, run=refuse_to_run)
    assert path.name in str(caught.value)
    assert "\x1b" not in str(caught.value)
    assert {one: one.read_bytes() for one in here.iterdir() if one.is_file()} == before


def _recorded(here: Path, home: Path, kind: str, command: object) -> Path:
    """A result that says it was made by a command."""
    if kind == "json":
        content = [{"metric": 1.0, "provenance": {"command": command}}]
        (here / "result.json").write_text(json.dumps(content))
        return here / "result.json"
    load = load_scores if kind == "scores" else load_circuit
    suffix = "safetensors" if kind == "scores" else "json"
    found = load(home / f"{'scores' if kind == 'scores' else 'circuit'}.{suffix}")
    said = replace(found, provenance={**found.provenance, "command": command})
    said.save(here / f"result.{suffix}")
    return here / f"result.{suffix}"


@pytest.mark.parametrize(
    ("command", "says"),
    [
        (["export", "c.json", "--out=x"], "its command is 'export'; those that make results are"),
        (["rerun", "result.json"], "its command is 'rerun'"),
        (["view", "c.json", "--open"], "its command is 'view'"),
        ([], "its command is ''"),
        ("score --model=toy", "want of a command .the recorded one is 'score --model=toy', no lis"),
        ([["score"]], "want of a command"),
        ({"score": 1}, "want of a command"),
    ],
)
def test_what_is_no_command_that_makes_results_is_refused(here, home, command, says):
    with pytest.raises(ValueError, match=says):
        rerun(_recorded(here, home, "json", command), run=refuse_to_run)


@pytest.mark.parametrize(
    "provenance",
    [
        {"source": "--trust-remote-code", "origin": {"task": "ioi"}},
        {"source": "toy", "origin": {"file": "/etc/passwd"}},
        {"source": "../elsewhere/model", "origin": {"task": "ioi"}},
        {"source": "toy", "origin": {"task": "ioi", "then": "take"}},
        {"source": "toy", "origin": {"task": "ioi", "then": [[], 3]}},
        {"source": "toy", "origin": {"counterfactual": "x"}},
        {"source": "toy", "origin": 3},
    ],
)
def test_hostile_facts_without_a_command_are_refused_too(here, home, provenance):
    known = {"metric": "logit_diff", "method": "eap", "ablation": "resample"}
    (here / "result.json").write_text(json.dumps({"provenance": {**known, **provenance}}))
    with pytest.raises(ValueError, match=r"result.json (is not repeated|cannot be repeated)"):
        rerun(here / "result.json", run=refuse_to_run)


@pytest.mark.parametrize(
    "selection",
    [{"selector": "top_n"}, {"selector": "top_n", "requested": "9", "ranking": "signed"}, [], "x"],
)
def test_a_hostile_selection_is_refused(here, home, selection):
    circuit = load_circuit(home / "circuit.json")
    said = {**circuit.provenance, "selection": selection}
    replace(circuit, provenance=said).save(here / "c.json")
    with pytest.raises(ValueError, match="for want of how its edges were chosen"):
        rerun(here / "c.json", run=refuse_to_run)


# What is permitted.


def test_what_is_asked_for_now_is_run(here):
    asked = Permitted((here,), model_code=True, functions=True)
    command = [*GOOD, "--trust-remote-code", "--method=own:score"]
    assert words_of(command, asked) == command
    allowed = Permitted((here, here.parent / "elsewhere"))
    for value in ("../elsewhere/prompts.json", "link.json"):
        assert words_of(["score", f"--task={value}"], allowed) == ["score", f"--task={value}"]
    assert words_of(["score", "--model=../elsewhere/model"], allowed)


def test_a_file_beside_the_result_comes_in_the_place_of_one_that_is_gone(here):
    beside = Permitted((here.parent / "elsewhere",))
    words = words_of(["score", "--task=gone/prompts.json"], beside)
    assert words == ["score", f"--task={here.parent}/elsewhere/prompts.json"]


def test_where_a_search_wrote_its_scores_is_left_out(here):
    assert words_of(["search", "--size=3", "--scores=own.json"], Permitted((here,))) == [
        *("search", "--size=3"),
    ]


def test_models_of_the_hub_are_told(here):
    assert downloads(["score", "--model=gpt2"]) == "gpt2"
    assert downloads(["score", "--model=toy"]) is None
    assert downloads(["score", f"--model={here}"]) is None


def test_every_option_that_a_command_records_is_looked_at():
    """A new option says in `permitted` what a file may do with it."""
    parsers = make_parser()._subparsers
    assert parsers is not None
    (commands,) = [a for a in parsers._actions if isinstance(a, argparse._SubParsersAction)]
    for name, options in OPTIONS.items():
        known = {action.dest.replace("_", "-") for action in commands.choices[name]._actions}
        never = {one.replace("_", "-") for one in (*_NOT_OF_THE_RESULT, "help", "files")}
        of_others = {"apply", "beta", "prompt", "export"}  # neurons that answer make no result
        assert known - never - of_others - set(options) == set(), name


# The shell, in new processes.


def test_the_shell_shows_a_command_before_it_runs_and_runs_no_module_of_the_folder(
    here, home, capfd, monkeypatch
):
    monkeypatch.chdir(home)
    assert main(["score", *on(home), "--out", str(here / "s.safetensors")]) == 0
    shown = f"running: circuits score --model={home}/model"
    monkeypatch.chdir(here)
    (here / "torch.py").write_text("open('was-run', 'w')")
    (here / "circuits").mkdir()
    (here / "circuits" / "__init__.py").write_text("open('was-run', 'w')")
    monkeypatch.setattr(sys, "path", sys.path)
    capfd.readouterr()
    assert main(["rerun", "s.safetensors"]) == 2
    assert f"give --allow {home}, or --model" in capfd.readouterr().err
    assert main(["rerun", "s.safetensors", "--allow", str(home)]) == 0
    out, err = capfd.readouterr()
    assert "the same, to the last bit" in out
    assert err.startswith(shown)
    assert not (here / "was-run").exists()


def test_code_of_a_model_is_not_run_because_a_result_says_so(here, home, capfd):
    """A folder beside the result, whose configuration names a module of its own."""
    import shutil

    shutil.copytree(home / "model", here / "model")
    config = json.loads((here / "model" / "config.json").read_text())
    config["auto_map"] = {"AutoModelForCausalLM": "own.Own", "AutoConfig": "own.Config"}
    config["model_type"] = "own"
    (here / "model" / "config.json").write_text(json.dumps(config))
    (here / "model" / "own.py").write_text(f"open({str(here / 'was-run')!r}, 'w')")
    shutil.copy(home / "task.json", here)
    command = ["score", "--model=model", "--task=task.json", "--dtype=float32"]
    path = _recorded(here, home, "scores", [*command, "--trust-remote-code"])
    assert main(["rerun", str(path)]) == 2
    assert "give --trust-remote-code" in capfd.readouterr().err
    path = _recorded(here, home, "scores", command)
    assert main(["rerun", str(path), "--trust-remote-code"]) == 2
    assert "failed: " in capfd.readouterr().err
    assert not (here / "was-run").exists()
