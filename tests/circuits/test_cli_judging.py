"""The commands `curve` and `compare`."""

import csv
import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from shells import on

from circuits.circuit import load_circuit
from circuits.cli import main
from circuits.shell.overlap import overlap
from patching.tasks.task import Prompt, Task

FEW = ["--random", "2", "--bootstrap", "50", "--dtype", "float64"]


@pytest.fixture(scope="module")
def task(home: Path) -> list[str]:
    """The model and the task, in the direction in which the random model has a gap."""
    rows = json.loads((home / "task.json").read_text())["prompts"]
    swapped = [{**r, "clean": r["corrupt"], "corrupt": r["clean"]} for r in rows]
    (home / "swapped.json").write_text(json.dumps({"prompts": swapped}))
    scores = str(home / "scores.safetensors")
    options = ["--sizes", "46", *FEW, "--bootstrap", "0"]
    if main(["curve", *on(home), scores, *options]) == 0:
        return on(home)
    return ["--model", str(home / "model"), "--task", str(home / "swapped.json")]


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    capsys.readouterr()
    assert main([str(argument) for argument in arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    return err


def test_a_curve_is_a_table_with_areas_a_csv_and_a_figure(home, task, tmp_path, capsys):
    paths = ["--csv", str(tmp_path / "c.csv"), "--plot", str(tmp_path / "c.svg")]
    assert main(["curve", *task, str(home / "scores.safetensors"), *FEW, *paths]) == 0
    said = capsys.readouterr().out
    assert "by absolute score" in said
    assert "CPR: " in said
    assert "CMD, log axis: " in said
    assert "mean over 12 prompts" in said
    assert "{" not in said
    with (tmp_path / "c.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 10
    assert {row["ranking"] for row in rows} == {"absolute"}
    assert float(rows[-1]["faithfulness"]) == pytest.approx(1)
    assert b"<svg" in (tmp_path / "c.svg").read_bytes()


def test_a_curve_as_json_holds_all_numbers_of_every_file(home, task, tmp_path, capsys):
    copy = tmp_path / "copy.safetensors"
    copy.write_bytes((home / "scores.safetensors").read_bytes())
    files = [str(home / "scores.safetensors"), str(copy)]
    capsys.readouterr()
    assert main(["curve", *task, *files, "--json", *FEW]) == 0
    first, second = json.loads(capsys.readouterr().out)
    assert [first["scores"], second["scores"]] == files
    assert first["points"] == second["points"]
    assert set(first["areas"]) == {"CPR", "CMD", "CPR, log axis", "CMD, log axis"}
    assert first["areas"]["CPR"]["low"] <= first["areas"]["CPR"]["high"]
    assert first["conditions"]["metric"] == "logit-diff"
    assert first["in_sample"] is (task == on(home))


def test_prompts_that_both_sides_took_of_one_draw_are_told():
    task = Task("t", (Prompt((1, 2), (1, 3), (4,)),))
    draw = {"task": "ioi", "n": 8, "seed": 0}
    first, second = ({**draw, "then": [["split", 0.7, 0, half]]} for half in ("first", "second"))
    found = partial(replace, task)
    for theirs, ours, said in (
        (first, {**draw, "n": 12}, "partly in-sample"),
        (first, second, ""),
        (first, {**draw, "seed": 1}, ""),
        ({}, {}, ""),
    ):
        assert overlap({"tokens": "others", "origin": theirs}, found(origin=ours)) == said
    assert overlap({"tokens": task.hash}, task) == "in-sample"


def test_sizes_of_ones_own_have_no_mib_areas(home, task, capsys):
    capsys.readouterr()
    options = ["--sizes", "5,20,46", *FEW, "--ablation", "zero", "--json"]
    code = main(["curve", *task, str(home / "scores.safetensors"), *options])
    out, err = capsys.readouterr()
    if code == 2:  # the random model may have the other sign without any edge
        assert "the gap has the wrong sign" in err
        return
    (found,) = json.loads(out)
    assert [point["requested"] for point in found["points"]] == [5, 20, 46]
    assert found["areas"] == {}
    assert "zero" in found["conditions"]["ablation"]


def test_one_prompt_is_judged_without_intervals(home, task, capsys):
    options = ["--limit", "1", "--sizes", "46", *FEW, "--json"]
    capsys.readouterr()
    code = main(["curve", *task, str(home / "scores.safetensors"), *options])
    out, err = capsys.readouterr()
    assert "wrong sign" in err if code else json.loads(out)[0]["points"][0]["low"] is None


def test_what_curve_cannot_do_is_one_line(home, task, tmp_path, capsys):
    scores = home / "scores.safetensors"
    arguments = ["curve", *task, scores, *FEW]
    assert "no circuit can have 99 edges" in refused(capsys, *arguments, "--sizes", "99")
    assert "a whole number from 0 is needed, got 'x'" in refused(capsys, *arguments, "--sizes", "x")
    assert "a file that ends in .svg, .pdf, .png would" in refused(
        capsys, *arguments, "--plot", "c.txt"
    )
    assert "is a folder; name the file" in refused(capsys, *arguments, "--csv", tmp_path)
    assert "a file is given twice" in refused(capsys, "curve", *task, scores, scores)
    deeper = ["--model", home / "deeper", "--task", home / "task.json"]
    assert "scores.safetensors holds scores of another graph" in refused(
        capsys, "curve", *deeper, scores, *FEW
    )


def test_compare_says_what_circuits_share(home, tmp_path, capsys):
    small, large = tmp_path / "small.json", home / "circuit.json"
    scores, out = str(home / "scores.safetensors"), tmp_path / "diff.json"
    assert main(["select", scores, "--size", "5", "--out", str(small)]) == 0
    capsys.readouterr()
    files = [str(large), str(small)]
    extra = ["--difference", str(out), "--plot", str(tmp_path / "c.png")]
    assert main(["compare", *files, *extra, "--csv", str(tmp_path / "c.csv")]) == 0
    head, row = capsys.readouterr().out.splitlines()
    assert head.split()[-1] == "jaccard"
    assert row.split()[-1] == "0.250"
    assert load_circuit(out) == load_circuit(large) - load_circuit(small)
    assert (tmp_path / "c.png").stat().st_size > 0
    assert (tmp_path / "c.csv").read_text().startswith("a,b,edges_a")
    assert main(["compare", *files, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["shared"] == 5


def test_compare_says_how_far_scores_rank_alike(home, tmp_path, capsys):
    other = str(tmp_path / "eap.safetensors")
    assert main(["score", *on(home), "--method", "eap", "--out", other]) == 0
    capsys.readouterr()
    assert main(["compare", str(home / "scores.safetensors"), other, "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert {"spearman", "kendall", "top_10"} <= set(row)
    assert -1 <= row["spearman"] <= 1


def test_what_compare_cannot_do_is_one_line(home, tmp_path, capsys):
    circuit, scores = home / "circuit.json", home / "scores.safetensors"
    copy = tmp_path / "copy.safetensors"
    copy.write_bytes(scores.read_bytes())
    assert "give files of one kind" in refused(capsys, "compare", circuit, scores)
    assert "needs at least two, got 1" in refused(capsys, "compare", circuit)
    said = refused(capsys, "compare", scores, copy, "--difference", tmp_path / "d.json")
    assert "--difference writes a circuit, and these are files of scores" in said


def test_circuits_can_be_ablated_themselves_or_restored(home, tmp_path, capsys):
    circuit = str(home / "circuit.json")

    def metric(*options: str) -> dict[str, object]:
        assert main(["evaluate", *on(home), circuit, "--json", *options]) == 0
        return json.loads(capsys.readouterr().out)[0]

    outside, inside = metric(), metric("--ablated", "inside")
    restored = metric("--direction", "denoising", "--csv", str(tmp_path / "values.csv"))
    assert (inside["ablated"], restored["direction"]) == ("inside", "denoising")
    assert len({outside["metric"], inside["metric"], restored["metric"]}) == 3
    rows = (tmp_path / "values.csv").read_text().splitlines()
    assert rows[0] == "circuit,prompt,logit-diff,clean,corrupt"
    values = [float(row.split(",")[2]) for row in rows[1:]]
    assert sum(values) / len(values) == pytest.approx(restored["metric"], rel=1e-6)


def test_a_curve_over_nodes_says_so(home, tmp_path, capsys):
    picture = str(tmp_path / "nodes.svg")
    arguments = ["--granularity", "nodes", "--sizes", "0,2,6", "--random", "2", "--plot", picture]
    scores = str(home / "scores.safetensors")
    assert main(["curve", *on(home), scores, *arguments]) == 0
    shown = capsys.readouterr().out
    assert shown.splitlines()[1].split()[0] == "nodes"
    assert "edges run" in shown
    assert ">nodes<" in (tmp_path / "nodes.svg").read_text()
