"""The commands for other circuits, on the furnished model."""

import json

from shells import on

from circuits.circuit import load_circuit
from circuits.cli import main
from circuits.judging.rivals import shared


def test_rivals_are_written_and_share_as_little_as_asked(home, tmp_path, capsys):
    scores, out = str(home / "scores.safetensors"), tmp_path / "rivals"
    few = ["--faithfulness", "0.3", "--most", "3", "--overlap", "0.4", "--rescore", "1"]
    assert main(["rivals", *on(home), scores, *few, "--out", str(out)]) == 0
    said = capsys.readouterr().out
    found = [load_circuit(path) for path in sorted(out.glob("circuit-*.json"))]
    assert found and len(found) == len((out / "rivals.csv").read_text().splitlines()) - 1
    assert (shared(found) - shared(found).diag().diag()).max() <= 0.4
    assert "circuits of" in said or "No rival" in said


def test_clusters_and_transfer_are_tables(home, tmp_path, capsys):
    scores, other = str(tmp_path / "s.safetensors"), tmp_path / "other.json"
    assert main(["score", *on(home), "--steps", "1", "--by-prompt", "--out", scores]) == 0
    capsys.readouterr()
    code = main(["clusters", *on(home), scores, "--size", "30", "--no-prune", "--json"])
    said = capsys.readouterr()
    if code == 0:
        rows = json.loads(said.out)
        assert [row["circuit"] for row in rows[::2]] == ["group 0", "group 1", "all"]
        assert all(row["edges"] == 30 for row in rows)
    assert code == 0 or "two are the least" in said.err or "wrong sign" in said.err
    assert main(["clusters", *on(home), str(home / "scores.safetensors")]) == 2
    assert "do not say what each prompt alone scores" in capsys.readouterr().err
    other.write_text((home / "task.json").read_text())
    command = ["transfer", *on(home), "--method", "eap", "--size", "30", "--to"]
    assert main([*command, str(other), "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert len(rows) == 4 and {row["jaccard"] for row in rows} == {1.0}
    assert rows[0]["faithfulness"] == rows[1]["faithfulness"], "the same prompts"
    assert main([*command, str(home / "task.json")]) == 2
    assert "a task is named twice" in capsys.readouterr().err


def test_curves_hold_the_search_and_files_are_compared_in_pairs(home, tmp_path, capsys):
    files = [str(tmp_path / "s.safetensors"), str(tmp_path / "other.safetensors")]
    for path, steps in zip(files, ("1", "2"), strict=True):
        assert main(["score", *on(home), "--steps", steps, "--by-prompt", "--out", path]) == 0
    few = ["--sizes", "20,46", "--random", "0", "--bootstrap", "0", "--resamples", "3"]
    command = ["curve", *on(home), *files, *few]
    capsys.readouterr()
    assert main(command) == 0
    said = capsys.readouterr().out
    assert said.count("finding and judging") == 2 and "more than s" in said
    assert main([*command, "--json"]) == 0
    first, second = (one["resampled"] for one in json.loads(capsys.readouterr().out))
    assert "more" not in first[0] and abs(second[1]["more"]) < 1e-6 and second[1]["jaccard"] == 1.0
    assert second[0]["more"] == second[0]["faithfulness"] - first[0]["faithfulness"]
    assert main([*command, "--granularity", "nodes"]) == 2
    assert "--resamples finds circuits of edges" in capsys.readouterr().err


def test_circuits_and_methods_are_judged_on_resamples_of_the_prompts_they_were_found_on(
    home, tmp_path, capsys
):
    files = [str(tmp_path / f"{name}.safetensors") for name in ("one", "two")]
    circuits = [str(tmp_path / f"{name}.json") for name in ("one", "two")]
    for path, circuit, steps in zip(files, circuits, ("1", "2"), strict=True):
        assert main(["score", *on(home), "--steps", steps, "--by-prompt", "--out", path]) == 0
        assert main(["select", path, "--size", "20", "--prune", "--out", circuit]) == 0
    command = ["evaluate", *on(home), *circuits, "--resamples", "3", "--scores"]
    capsys.readouterr()
    assert main([*command, ",".join(files), "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    read = rows[0]["provenance"]["files"]
    assert {"--scores one.safetensors", "--scores two.safetensors"} <= {*read}
    first, second = (row["resampled"] for row in rows)
    assert first["low"] <= first["faithfulness"] <= first["high"]
    assert second["more"] == second["faithfulness"] - first["faithfulness"]
    assert main([*command, files[0]]) == 2
    assert "these scores give another circuit" in capsys.readouterr().err
    assert main([*command[:-1]]) == 2
    assert "--resamples N and --scores SCORES go together" in capsys.readouterr().err
    assert main(["compare", *files, "--resamples", "4", "--size", "20", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert 0 < row["jaccard"] <= 1 and 0 < row["a with itself"] <= 1 and row["edges"] == 20
    assert main(["compare", *circuits, "--resamples", "4"]) == 2
    assert "--resamples chooses circuits from scores" in capsys.readouterr().err
