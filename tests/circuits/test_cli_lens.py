"""The command `lens`: tables on the screen, files in a folder, errors in one line."""

import pandas as pd
import pytest
import shells
import torch

from circuits.cli import main
from patching.lens import train_tuned_lens
from patching.model import Model

TEXT = ["--model", "toy", "--prompt", "The capital of France is"]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    home = tmp_path_factory.mktemp("lens")
    shells.save_model(home / "model", n_layer=2)
    rows = [{"clean": [1, 2, 3], "corrupt": [1, 2, 4], "answers": [5], "wrong_answers": [6]}] * 3
    shells.write_task(home / "task.json", rows)
    return home


def run(capsys, *arguments):
    code = main(["lens", *map(str, arguments)])
    out, err = capsys.readouterr()
    return code, out, err


def test_a_prompt_is_printed_layer_by_layer_the_last_on_top(capsys):
    code, out, _ = run(capsys, *TEXT, "--top", 2)
    assert code == 0
    lines = out.splitlines()
    assert lines[0] == "logit lens of toy on The capital of France is"
    table = [line.split() for line in lines if line.startswith("r")]
    assert [row[0] for row in table] == ["r3.post", "r2.post", "r1.post", "r0.post"] * 2
    assert table[0][-1] == "Paris"
    assert table[4][2:4] == ["0.00", "Paris"]  # no distance from itself


def test_long_prompts_show_their_last_positions(capsys):
    code, out, _ = run(capsys, "--model", "toy", "--prompt", "The capital of France is " * 4)
    assert code == 0
    assert "the last 12 positions" in out


def test_files_hold_all_positions_and_the_top_tokens(capsys, tmp_path):
    code, out, _ = run(capsys, *TEXT, "--nodes", "resid_pre,m3", "--top", 3, "--out", tmp_path)
    assert code == 0
    assert "written to" in out
    table = pd.read_csv(tmp_path / "lens.csv")
    assert len(table) == 5 * 6 * 3
    assert (tmp_path / "lens.png").read_bytes().startswith(b"\x89PNG")
    assert "Paris" in (tmp_path / "lens.svg").read_text(encoding="utf-8")


def test_a_task_is_judged_by_its_answers(capsys, home, tmp_path):
    on = ["--model", home / "model", "--task", home / "task.json"]
    code, out, _ = run(capsys, *on, "--out", tmp_path, "--scale", "frozen", "--no-softcap")
    assert code == 0
    assert "means over 3 prompts" in out
    assert out.splitlines()[1].split() == ["node", "answers", "rank", "entropy", "KL"]
    assert (tmp_path / "lens.png").exists()


def test_a_tuned_lens_is_read_from_its_file(capsys, home, tmp_path):
    model = Model.load(str(home / "model"), dtype=torch.float32)
    train_tuned_lens(model, [[1, 2, 3]], steps=1).save(tmp_path / "tuned.safetensors")
    on = ["--model", home / "model", "--task", home / "task.json"]
    code, out, _ = run(capsys, *on, "--tuned", tmp_path / "tuned.safetensors")
    assert (code, out.startswith("tuned lens of")) == (0, True)
    code, _, err = run(capsys, *TEXT, "--tuned", tmp_path / "tuned.safetensors")
    assert code == 2
    assert "this tuned lens was trained for" in err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--prompt", ""], "error: the prompt is empty; give at least one word"),
        (["--prompt", "The", "--position", "9"], "error: position 9 lies beyond prompt 0"),
        (["--prompt", "The", "--position", "x"], "positions such as -1 or 0,3,-1 are needed"),
        (["--prompt", "The", "--nodes", "resid_pots"], "did you mean 'resid_post'?"),
        (["--prompt", "The", "--tuned", "/no/such"], "No such file"),
        (["--prompt", "The", "--task", "facts"], "not allowed with argument"),
        ([], "one of the arguments --prompt --task is required"),
    ],
)
def test_errors_are_one_line(capsys, options, message):
    code, _, err = run(capsys, "--model", "toy", *options)
    assert code == 2
    assert message in err
    assert err.count("\n") == 1


def test_out_must_not_be_a_file(capsys, tmp_path):
    (tmp_path / "file").write_text("")
    code, _, err = run(capsys, *TEXT, "--out", tmp_path / "file")
    assert code == 2
    assert "is a file; name a folder" in err
