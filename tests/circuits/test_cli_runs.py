"""`--run` and `--engine`: commands that can be stopped, gone on with, and shared out."""

import json

import pytest
import shells

from circuits.cli import main
from circuits.scores import load_scores
from circuits.shell.inputs import device_of_worker
from patching.metrics import METRICS, logit_diff
from patching.neurons import Conflict, ConflictTask, to_json


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return shells.furnish(tmp_path_factory.mktemp("home"))


@pytest.fixture(autouse=True)
def alone(monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "SLURM_PROCID", "SLURM_NTASKS"):
        monkeypatch.delenv(name, raising=False)


def score(home, out, *options: str) -> int:
    return main(["score", *shells.on(home), "--batch-size", "5", "--out", str(out), *options])


def test_a_kept_run_is_read_back_and_scores_the_same(home, tmp_path):
    plain, first, again = (tmp_path / f"{name}.safetensors" for name in ("plain", "a", "b"))
    assert score(home, plain) == 0
    assert score(home, first, "--run", str(tmp_path / "run")) == 0
    chunks = sorted((tmp_path / "run").glob("*/chunk-*"))
    times = [chunk.stat().st_mtime_ns for chunk in chunks]
    assert len(chunks) == 3
    assert score(home, again, "--run", str(tmp_path / "run")) == 0
    assert [chunk.stat().st_mtime_ns for chunk in chunks] == times
    assert plain.read_bytes() == first.read_bytes() == again.read_bytes()


def test_of_several_workers_the_first_writes_and_prints(home, tmp_path, monkeypatch, capsys):
    out, run = tmp_path / "scores.safetensors", str(tmp_path / "run")
    ranks = ("--run", run, "--engine", "ranks")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    assert score(home, out, *ranks) == 0
    assert not out.exists()
    assert capsys.readouterr().out == ""
    monkeypatch.setenv("RANK", "0")
    assert score(home, out, *ranks) == 0
    assert "written to" in capsys.readouterr().out
    assert load_scores(out).provenance["n_examples"] == 12


def test_interrupted_scores_of_some_prompts_are_written_under_a_name_that_says_so(
    home, tmp_path, monkeypatch, capsys
):
    def stops(logits, batch):
        if len(batch) == 2:  # the last of 5, 5 and 2
            raise KeyboardInterrupt
        return logit_diff(logits, batch)

    out, run = tmp_path / "scores.safetensors", str(tmp_path / "run")
    with monkeypatch.context() as patched:
        patched.setitem(METRICS, "logit-diff", stops)
        assert score(home, out, "--run", run) == 130
    assert "interrupted after 10 of 12 prompts" in capsys.readouterr().err
    (partial,) = tmp_path.glob("*.safetensors")
    assert partial.name == "scores.partial-10-of-12.safetensors"
    assert load_scores(partial).provenance["partial"] == {"n_examples": 10, "of": 12}


def test_interrupted_before_anything_is_done_nothing_is_written(
    home, tmp_path, monkeypatch, capsys
):
    def stops(logits, batch):
        raise KeyboardInterrupt

    monkeypatch.setitem(METRICS, "logit-diff", stops)
    assert score(home, tmp_path / "scores.safetensors", "--run", str(tmp_path / "run")) == 130
    assert (
        capsys.readouterr().err.strip().endswith("interrupted; the same command goes on from there")
    )
    assert not list(tmp_path.glob("*.safetensors"))


def test_evaluations_curves_and_discoveries_are_kept_too(home, tmp_path, capsys):
    run, on = str(tmp_path / "run"), shells.on(home)
    scores, circuit = str(home / "scores.safetensors"), str(home / "circuit.json")
    sizes = ["--sizes", "1,20", "--random", "1", "--bootstrap", "0"]
    commands = [
        ["evaluate", *on, circuit],
        ["curve", *on, scores, *sizes],
        ["discover", *on, "--size", "10", "--out", str(tmp_path / "out")],
    ]
    for command in commands:
        assert main([*command, "--run", run]) == 0
        first = capsys.readouterr().out
        before = sorted((tmp_path / "run").glob("*/chunk-*"))
        assert main([*command, "--run", run]) == 0
        assert capsys.readouterr().out == first
        assert sorted((tmp_path / "run").glob("*/chunk-*")) == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--engine", "ranks"], "--engine ranks needs --run FOLDER"),
        (["--engine", "dask", "--run", "x"], "no engine named 'dask'; there are in-process"),
        (["--run", "x", "--address", "auto"], "give --engine ray too"),
        (["--run", "x", "--engine", "ranks"], "not started as one of several"),
        (["--run", __file__], "is a file; name a folder"),
    ],
)
def test_runs_that_cannot_be_are_refused(home, tmp_path, options, message, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert score(home, tmp_path / "scores.safetensors", *options) == 2
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("variable", ["LOCAL_RANK", "SLURM_LOCALID"])
def test_each_of_several_workers_on_a_machine_has_a_gpu_of_its_own(variable):
    def device(name, number, n_gpus):
        return device_of_worker(name, {variable: number}, lambda: n_gpus)

    assert [device("cuda", str(i), 4) for i in (0, 1, 3)] == ["cuda:0", "cuda:1", "cuda:3"]
    assert device("cuda", "3", 1) == "cuda:0"  # Slurm shows each worker its own one
    assert device("cpu", "1", 4) == "cpu"
    assert device(None, "1", 4) is None


def test_a_process_alone_has_the_device_it_was_given():
    assert device_of_worker("cuda", {}) == "cuda"


def test_patches_and_neurons_are_kept_too(home, tmp_path, capsys):
    run, conflicts = str(tmp_path / "run"), str(tmp_path / "conflicts.json")
    rows = [Conflict((1, 5 + i), (1, 20 + i, 5 + i), (30,)) for i in range(8)]
    to_json(ConflictTask("made", tuple(rows)), conflicts)
    judging = ["--betas", "0,2", "--random", "1", "--top", "2", "--steps", "2"]
    commands = [
        ["patch", *shells.on(home), "--what", "head"],
        ["patch", *shells.on(home), "--method", "relp"],
        ["patch", *shells.on(home), "--what", "q", "--method", "atp-star"],
        ["neurons", "--model", str(home / "model"), "--task", conflicts, *judging],
    ]
    for i, command in enumerate(commands):
        out = ["--out", str(tmp_path / str(i))]
        assert main([*command, *out, "--run", run]) == 0
        first = capsys.readouterr().out
        before = sorted((tmp_path / "run").glob("*/chunk-*"))
        assert main([*command, *out, "--run", run]) == 0
        assert capsys.readouterr().out == first
        assert sorted((tmp_path / "run").glob("*/chunk-*")) == before


def test_interrupted_patches_of_some_prompts_are_written_under_a_name_that_says_so(
    home, tmp_path, monkeypatch, capsys
):
    def stops(logits, batch):
        if len(batch) == 2:  # the last of 5, 5 and 2
            raise KeyboardInterrupt
        return logit_diff(logits, batch)

    monkeypatch.setitem(METRICS, "logit-diff", stops)
    out = tmp_path / "out"
    patch = ["patch", *shells.on(home), "--method", "attribution", "--batch-size", "5"]
    assert main([*patch, "--out", str(out)]) == 130
    name = "resid_pre-attribution.partial-10-of-12"
    assert f"interrupted after 10 of 12 prompts, whose scores are in {out / name}" in (
        capsys.readouterr().err
    )
    assert sorted(path.name for path in out.iterdir()) == [
        f"{name}.{suffix}" for suffix in ("csv", "json", "png", "svg")
    ]
    said = json.loads((out / f"{name}.json").read_text())["provenance"]
    assert said["partial"] == {"n_examples": 10, "of": 12}


def test_the_hint_to_go_on_knows_both_spellings_of_the_option(home, tmp_path, monkeypatch, capsys):
    def stops(logits, batch):
        raise KeyboardInterrupt

    monkeypatch.setitem(METRICS, "logit-diff", stops)
    assert score(home, tmp_path / "scores.safetensors", f"--run={tmp_path / 'run'}") == 130
    assert "the same command goes on from there" in capsys.readouterr().err
