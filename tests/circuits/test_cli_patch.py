"""The command `patch`."""

import csv
import json

import pytest
import torch
from shells import on

from circuits.cli import main
from patching.activation import activation_patching
from patching.attribution import attribution_patching
from patching.metrics import logit_diff
from patching.model import Model
from patching.rules import relp
from patching.tasks import from_json


def rows_of(path):
    with path.open() as file:
        return list(csv.DictReader(file))


def refused(capsys, *arguments):
    capsys.readouterr()
    assert main([str(argument) for argument in arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    return err


@pytest.fixture(scope="module")
def model(home):
    return Model.load(home / "model")


def test_exact_patching_of_heads_is_written_as_a_map_a_table_and_numbers(
    home, model, tmp_path, capsys
):
    out = tmp_path / "heads"
    assert main(["patch", *on(home), "--what", "head", "--limit", "4", "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert "logit difference, mean over 4 prompts: clean " in said
    assert "Exact, denoising" in said
    assert "estimate" not in said
    task = from_json(home / "task.json", None).take(4)
    grid = activation_patching(model, task, logit_diff, "z", ("layer", "head"))
    rows = rows_of(out / "head-exact.csv")
    assert [row["head"] for row in rows] == ["h0", "h1", "h0", "h1"]
    found = torch.tensor([float(row["mean"]) for row in rows], dtype=torch.float64)
    torch.testing.assert_close(found, grid.mean.flatten(), rtol=1e-4, atol=1e-6)  # float32
    content = json.loads((out / "head-exact.json").read_text())
    assert content["axes"] == {"layer": ["0", "1"], "head": ["h0", "h1"]}
    assert content["provenance"]["what"] == "z"
    assert content["provenance"]["tokens"] == task.hash
    assert (out / "head-exact.png").read_bytes().startswith(b"\x89PNG")
    assert b"<svg" in (out / "head-exact.svg").read_bytes()


def test_estimates_say_that_they_are_and_take_any_rule(home, model, tmp_path, capsys):
    options = ["--what", "mlp-out", "--method", "relp", "--direction", "noising", "--top", "3"]
    assert main(["patch", *on(home), *options, "--out", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert "First-order estimates of noising" in said
    assert "Exact" not in said
    task = from_json(home / "task.json", None)
    grid = attribution_patching(model, task, logit_diff, direction="noising", rule=relp)["mlp_out"]
    ((layer, pos), value), *_ = grid.top(1)
    best = said.splitlines()[2].split()
    assert best[:2] == [layer, pos]
    assert float(best[2]) == pytest.approx(value, abs=1e-3)
    rows = rows_of(tmp_path / "mlp-out-relp.csv")
    assert len(rows) == 2 * 5


def test_atp_star_shows_sizes_without_a_sign(home, tmp_path, capsys):
    options = ["--what", "q", "--method", "atp-star"]
    assert main(["patch", *on(home), *options, "--out", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert "sizes without a sign" in said
    assert "+" not in said.split("estimated effect")[1].split("First-order")[0]


def test_neurons_have_an_axis_of_their_own(home, tmp_path, capsys):
    for method in ("exact", "attribution", "inputs"):
        options = ["--what", "neurons", "--method", method, "--limit", "1", "--top", "2"]
        assert main(["patch", *on(home), *options, "--out", str(tmp_path)]) == 0
        assert "neuron" in capsys.readouterr().out
        assert len(rows_of(tmp_path / f"neurons-{method}.csv")) == 2 * 64


def test_prompts_of_several_lengths_are_pointed_out(home, tmp_path, capsys):
    rows = json.loads((home / "task.json").read_text())["prompts"][:2]
    rows.append({**rows[0], "clean": rows[0]["clean"][1:], "corrupt": rows[0]["corrupt"][1:]})
    (tmp_path / "ragged.json").write_text(json.dumps({"prompts": rows}))
    task = ["--model", str(home / "model"), "--task", str(tmp_path / "ragged.json")]
    said = ["patch", *task, "--method", "attribution", "--out", str(tmp_path)]
    assert main(said) == 0
    assert "Prompts have 4 to 5 tokens" in capsys.readouterr().out
    assert main([*said, "--what", "head"]) == 0
    assert "Prompts have" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--what", "heads"], "no kind of activation named 'heads'; there are head, resid_pre"),
        (
            ["--method", "exat"],
            "no method named 'exat'; there are exact, attribution, inputs, atp-star",
        ),
        (["--over", "layer,head"], "--over for resid_pre by exact is one of layer,pos; layer;"),
        (["--what", "z", "--over", "layer,head,pos"], "got layer,head,pos"),
        (["--what", "z", "--method", "atp-star", "--over", "layer,pos"], "z by atp-star is one of"),
        (["--method", "atp-star"], "atp-star scores what layers write"),
        (["--metric", "accuracy", "--method", "relp"], "accuracy has no gradient"),
        (["--direction", "both"], "invalid choice: 'both'"),
    ],
)
def test_wrong_wishes_are_one_line(home, tmp_path, capsys, options, said):
    assert said in refused(capsys, "patch", *on(home), "--out", tmp_path / "x", *options)
    assert not (tmp_path / "x").exists()


def test_a_file_is_no_folder_for_results(home, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    out = tmp_path / "file"
    assert "is a file; name a folder" in refused(capsys, "patch", *on(home), "--out", out)
