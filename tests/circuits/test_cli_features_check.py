"""The commands `features check` and `features train`: what they print and write, exit codes."""

import json

import pytest
import shells
import torch

from circuits.cli import main
from patching.dictionaries import (
    Dictionaries,
    Dictionary,
    load_dictionaries,
    save_dictionaries,
)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A model of width 16, a dictionary that copies a stream, and one that is of nothing there."""
    home = tmp_path_factory.mktemp("features")
    shells.save_model(home / "model", n_layer=2)
    eye, zero = torch.eye(16), torch.zeros(32)
    tensors = (torch.cat([eye, -eye], 1), zero, torch.cat([eye, -eye]), zero[:16], zero)
    copies = Dictionary("copies", "r0.post", "r0.post", *tensors, facts={"l0": 4})
    shifted = (*tensors[:3], zero[:16] + 50, zero)
    wrong = Dictionary("wrong", "r1.post", "r1.post", *shifted)
    save_dictionaries(Dictionaries("good", (copies,)), home / "good")
    save_dictionaries(Dictionaries("both", (copies, wrong)), home / "both")
    return home


def run(capsys, home, folder, *options):
    given = [str(home / folder), "--model", str(home / "model"), "--n", "2", "--length", "9"]
    code = main(["features", "check", *given, *options])
    out, err = capsys.readouterr()
    return code, out, err


def test_dictionaries_that_fit_are_told_with_their_numbers(capsys, home):
    code, out, _ = run(capsys, home, "good")
    assert code == 0
    row = next(line.split() for line in out.splitlines() if line.startswith("r0.post"))
    assert row == ["r0.post", "32", "0.000", "16.0", "4", row[-1]]
    assert "doubtful, r0.post: 16.0 features are active on a token; 4 were published" in out


def test_one_that_is_no_better_than_the_mean_is_told_by_the_exit_code(capsys, home):
    code, out, _ = run(capsys, home, "both")
    assert code == 3
    assert "\nr1.post: no better than the mean. They are of another place" in out


def test_numbers_come_as_json(capsys, home):
    code, out, _ = run(capsys, home, "both", "--json")
    assert code == 3
    said = json.loads(out)
    assert [fit["writes"] for fit in said["fits"]] == ["r0.post", "r1.post"]
    assert said["fits"][0]["fvu"] < 1e-10 < 1 < said["fits"][1]["fvu"]
    assert len(said["fits"][0]["hash"]) == 16 and said["text"] == "2 rows of its own, seed 0"


def test_dictionaries_are_trained_written_and_fit_what_they_were_trained_on(capsys, home, tmp_path):
    text = ["--text", "self", "--n", "16", "--length", "9"]
    recipe = ["--features", "24", "--k", "3", "--steps", "40", "--batch-size", "32"]
    to = ["--sites", "m1,r0.post", "--out", str(tmp_path / "made"), "--run", str(tmp_path / "run")]
    given = ["features", "train", "--model", str(home / "model"), *text, *recipe, *to, "--json"]
    assert main(given) == 0
    said = json.loads(capsys.readouterr().out)
    assert [fit["writes"] for fit in said["fits"]] == ["m1", "r0.post"]
    assert all(fit["fvu"] < 1 and fit["l0"] <= 3 for fit in said["fits"])
    assert [one["places"] for one in said["loss"]["alone"]] == [["m1"], ["r0.post"]]
    assert all(0 < one["rebuilt"] < 9 for one in said["loss"]["alone"])
    assert main(given) == 0  # done already: states are taken up, and the same comes out
    assert json.loads(capsys.readouterr().out) == said
    sites = given.index("m1,r0.post")
    assert main([*given[:sites], "m1", *given[sites + 1 : -1]]) == 0
    assert capsys.readouterr().out.endswith("made, beside r0.post, trained before\n")
    assert main([*given[:sites], "m9", *given[sites + 1 :]]) == 2
    said_of_it = capsys.readouterr().err
    assert "there is no place 'm9'" in said_of_it and "sampling" not in said_of_it
    code, out, _ = run(capsys, home, tmp_path / "made", "--loss")
    assert code == 0 and "m1.in" in out and "loss recovered" in out
    stored = load_dictionaries(tmp_path / "made")["m1"].facts["quality"]
    assert stored["fvu"] == said["fits"][0]["fvu"] and stored["loss"] > 0


@pytest.mark.parametrize(
    ("folder", "options", "message"),
    [
        ("model", [], "holds no dictionaries of a format that can be read"),
        ("good", ["--reads", "r7.post"], "there is no place 'r7.post'"),
        ("good", ["--text", "none.txt"], "has no tokenizer to read none.txt with"),
        ("good", ["--writes", "m0"], "needs reads= too"),
    ],
)
def test_what_cannot_be_checked_is_said_in_one_line(capsys, home, folder, options, message):
    code, out, err = run(capsys, home, folder, *options)
    assert (code, out) == (2, "")
    assert message in err and len(err.strip().splitlines()) == 1
