"""`circuits tasks`, names with a corruption, and files of other tools as `--task`."""

import json

import pytest

from circuits.cli import main
from patching.tasks import FAMILIES


def test_tasks_are_listed_with_source_and_corruptions(capsys):
    assert main(["tasks"]) == 0
    said = capsys.readouterr().out
    for name, family in FAMILIES.items():
        assert f"\n{name}\n    {family.asks} ({family.source})" in f"\n{said}"
    assert "    corruptions: abc (default), ioi:swap, ioi:names, ioi:random\n" in said
    assert "    forms: addition:any, addition:three-digits\n" in said
    assert "\nconflict\n" in said and "words left" not in said
    assert "mib: fields prompt" in said


def test_a_models_tokenizer_counts_the_words(capsys):
    assert main(["tasks", "--model", "toy"]) == 0
    said = capsys.readouterr().out
    assert "words left: 16 of 16 noun pairs, 6 of 6 verb pairs\n" in said
    assert "not for this tokenizer: too few single-token pronouns: 0 of 2, and at least 2" in said


def test_a_model_without_tokenizer_is_refused(capsys, tmp_path):
    assert main(["tasks", "--model", str(tmp_path / "nothing")]) == 2
    assert "no model '" in capsys.readouterr().err
    (tmp_path / "config.json").write_text("{")
    assert main(["tasks", "--model", str(tmp_path)]) == 2
    assert "has no tokenizer" in capsys.readouterr().err


def test_a_tokenizer_larger_than_any_is_refused_before_it_is_read(capsys, tmp_path):
    (tmp_path / "vocab.json").write_text("{}")
    with (tmp_path / "merges.txt").open("wb") as file:
        file.truncate(2**28 + 1)  # takes no room
    assert main(["tasks", "--model", str(tmp_path)]) == 2
    assert "merges.txt has 268,435,457 bytes, and no tokenizer" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("task", "says"),
    [
        ("ioi:abd", "no corruption 'abd'; there are abc, swap, names, random"),
        ("iou:swap", "no task named 'iou:swap'; there are ioi, greater-than"),
    ],
)
def test_names_that_cannot_be_are_one_line(capsys, tmp_path, task, says):
    arguments = ["--model", "toy", "--n", "4", "--out", str(tmp_path / "s.safetensors")]
    assert main(["score", "--task", task, *arguments]) == 2
    assert says in capsys.readouterr().err


def test_a_corruption_is_named_after_a_colon(capsys, tmp_path):
    out = tmp_path / "s.safetensors"
    arguments = ["--model", "toy", "--n", "4", "--method", "eap", "--out", str(out)]
    assert main(["score", "--task", "ioi:swap", *arguments]) == 0
    assert out.exists()


def test_rows_of_a_file_that_cannot_be_used_are_dropped_if_asked(capsys, tmp_path):
    row = {"clean": "When Mary", "corrupted": "When John", "correct_idx": 5, "incorrect_idx": 6}
    path = tmp_path / "rows.jsonl"
    bad = {**row, "correct_idx": "x"}
    path.write_text("\n".join(json.dumps(one) for one in (row, bad, row)))
    arguments = ["--model", "toy", "--task", str(path), "--method", "eap"]
    arguments += ["--out", str(tmp_path / "s.safetensors")]
    assert main(["score", *arguments]) == 2
    assert "1 of 3 rows that cannot be used: row 1: 'x' is not a token" in capsys.readouterr().err
    assert main(["score", *arguments, "--drop-rows"]) == 0
    assert "warning: " in (err := capsys.readouterr().err) and "left out 1 of 3 rows" in err
