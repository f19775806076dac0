"""Scorers of one's own in the shell: named by module or file, told by their source."""

import json

import pytest
import shells
import torch

from circuits.cli import main
from circuits.repeating import Permitted, rerun
from circuits.repeating.permitted import words_of
from circuits.scores import load_scores
from circuits.shell import own_methods
from circuits.shell.own_methods import find_method
from patching.model import Model

SCORERS = """
import torch
from circuits import Scores, eap

STEPS = 3

def mine(model, task, metric, *, batch_size=16):
    matrix = 2 * eap(model, task, metric, batch_size=batch_size).matrix
    return Scores(matrix, model.graph, {"told": "twice"})

def with_all(model, task, metric, **options):
    return eap(model, task, metric, **options)

def with_steps(model, task, metric, *, steps=1):
    return mine(model, task, metric)

def a_tensor(model, task, metric):
    return torch.zeros(model.graph.exists.shape)

def outside(model, task, metric):
    return Scores(torch.ones(model.graph.exists.shape).double(), model.graph, {})

def two_things(model, task):
    pass

def wants_more(model, task, metric, temperature):
    pass
"""


@pytest.fixture(scope="module")
def mine(home, tmp_path_factory):
    """A folder with a module of scorers, and the scores that one of them gives."""
    folder = tmp_path_factory.mktemp("own")
    (folder / "scorers.py").write_text(SCORERS)
    (folder / "breaks.py").write_text("1 / 0")
    method = f"{folder}/scorers.py:mine"
    command = ["score", *shells.on(home), "--limit=3", f"--method={method}"]
    assert main([*command, f"--out={folder}/s.safetensors"]) == 0
    return folder


def test_scores_of_ones_own_are_told_by_name_and_source(home, mine, tmp_path):
    found = load_scores(mine / "s.safetensors")
    assert (
        main(
            [
                "score",
                *shells.on(home),
                "--limit=3",
                f"--out={tmp_path}/eap.safetensors",
                "--method=eap",
            ]
        )
        == 0
    )
    assert torch.equal(found.matrix, 2 * load_scores(tmp_path / "eap.safetensors").matrix)
    name = f"{mine}/scorers.py:mine"
    assert found.provenance["method"] == name and found.provenance["told"] == "twice"
    assert found.provenance["ablation"] == "none" and found.provenance["n_examples"] == 3
    before = found.provenance["functions"]
    assert isinstance(before, dict) and set(before) == {name}


def test_the_hash_is_that_of_the_source(home, mine, tmp_path):
    other = tmp_path / "scorers.py"
    other.write_text(SCORERS.replace("2 * eap", "3 * eap"))
    command = ["score", *shells.on(home), "--limit=3", f"--method={other}:mine"]
    assert main([*command, f"--out={tmp_path}/s.safetensors"]) == 0
    (before,) = load_scores(mine / "s.safetensors").provenance["functions"].values()
    (now,) = load_scores(tmp_path / "s.safetensors").provenance["functions"].values()
    assert before != now


def test_a_module_on_the_path_will_do_and_gets_what_it_takes(home, mine, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(mine)
    out = ["--limit=3", f"--out={tmp_path}/s.safetensors"]
    assert (
        main(["score", *shells.on(home), "--method=scorers:with_all", "--ablation=zero", *out]) == 0
    )
    said = load_scores(tmp_path / "s.safetensors").provenance
    assert said["ablation"] == "zero" and said["method"] == "eap"
    assert set(said["functions"]) == {"scorers:with_all"}
    assert find_method("scorers:with_steps").takes_steps
    assert not find_method("scorers:mine").takes_ablation


def test_other_commands_take_it_where_they_take_a_method(home, mine, tmp_path):
    name = f"{mine}/scorers.py:with_all"
    search = [
        "search",
        *shells.on(home),
        "--method=budgeted",
        "--size=5",
        "--budget=60",
        "--limit=3",
        "--metric=logit-diff",
        f"--start=eap,{name}",
    ]
    assert main([*search, f"--out={tmp_path}/c.json"]) == 0
    said = json.loads((tmp_path / "c.json").read_text())["provenance"]
    assert set(said["functions"]) == {name}


BAD = {
    "scorers.py:absent": "scorers.py has no function absent; name a function, as module:function",
    "scorers.py:STEPS": "has a int in place of STEPS",
    "scorers.py:two_things": "is called as a scorer, (model, task, metric, *, ...), and cannot be",
    "scorers.py:wants_more": "cannot be: missing a required argument: 'temperature'",
    "gone.py:mine": "there is no file 'gone.py' to take mine from",
    "breaks.py:mine": "breaks.py cannot be imported: ZeroDivisionError: division by zero",
    "no_such_module:mine": "no_such_module cannot be imported: ModuleNotFoundError",
    "own:": "no method named 'own:'; there are eap,",
    "dice": "and scorers of one's own as module:function or file.py:function",
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_scorer_is_refused_before_the_model_is_loaded(
    home, mine, tmp_path, monkeypatch, capsys, name
):
    monkeypatch.chdir(mine)
    monkeypatch.setattr(Model, "load", lambda *_, **__: pytest.fail("a model was loaded"))
    command = ["score", *shells.on(home), f"--method={name}", f"--out={tmp_path}/s.safetensors"]
    assert main(command) == 2
    assert BAD[name] in capsys.readouterr().err


WRONG = {
    "a_tensor": ([], "returned a Tensor; a scorer returns circuits.Scores"),
    "outside": ([], "scores are 0 where the graph has no edge"),
    "mine": (["--run=kept"], "takes no run= to keep its work in; leave out --run"),
    "with_all": (["--steps=3"], "has no path to take steps on; leave out --steps"),
    "with_steps": (["--ablation=zero"], "does not work under --ablation zero"),
}


def test_searches_and_ensembles_refuse_it_before_the_model_is_loaded(
    home, mine, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(mine)
    monkeypatch.setattr(Model, "load", lambda *_, **__: pytest.fail("a model was loaded"))
    search = ["search", "--method=budgeted", "--size=5", "--start=eap,gone.py:mine", "--out=c.json"]
    learn = ["learn", "--method=hybrid", "--members=eap,gone.py:mine", "--size=5", "--out=learned"]
    for name, *options in (search, learn):
        assert main([name, *shells.on(home), *options]) == 2
        assert "there is no file 'gone.py'" in capsys.readouterr().err


@pytest.mark.parametrize("name", WRONG)
def test_what_a_scorer_must_not_do_is_refused_in_words(
    home, mine, tmp_path, monkeypatch, capsys, name
):
    monkeypatch.chdir(mine)
    options, said = WRONG[name]
    method = [f"--method=scorers.py:{name}", "--limit=2", f"--out={tmp_path}/s.safetensors"]
    assert main(["score", *shells.on(home), *method, *options]) == 2
    assert said in capsys.readouterr().err


def test_a_result_runs_no_scorer_but_where_that_is_asked_for_now(home, mine):
    def refuse(words):
        pytest.fail("a command was run")

    with pytest.raises(ValueError, match="would be imported and run; give --trust-functions"):
        rerun(mine / "s.safetensors", permitted=Permitted((home,)), run=refuse)


def test_a_file_of_functions_lies_where_files_may_be_read(mine, tmp_path):
    asked = Permitted((tmp_path,), functions=True)
    with pytest.raises(ValueError, match="which lies neither here nor beside the result"):
        words_of(["score", f"--method={mine}/scorers.py:mine"], asked)


def test_repeated_where_asked_for_it_says_whether_the_source_has_changed(home, mine):
    asked = Permitted((home,), functions=True)
    assert not rerun(mine / "s.safetensors", permitted=asked, run=shells.here).inputs
    source = mine / "scorers.py"
    source.write_text(SCORERS + "\n# another line\n")
    own_methods._find.cache_clear()  # as in a new process
    try:
        (changed,) = rerun(mine / "s.safetensors", permitted=asked, run=shells.here).inputs
    finally:
        source.write_text(SCORERS)
        own_methods._find.cache_clear()
    assert changed.name.endswith("scorers.py:mine")
