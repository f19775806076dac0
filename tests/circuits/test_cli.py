"""The shell: every command on a tiny random model."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from shells import on, write_task

from circuits.circuit import load_circuit
from circuits.cli import main, make_parser
from circuits.scores import load_scores
from circuits.scoring import eap_ig
from circuits.select import prune, top_n
from circuits.shell.examples import EXAMPLES
from circuits.shell.waiting import waiting
from patching.metrics import METRICS, logit_diff
from patching.model import Model
from patching.tasks import from_json

WRITTEN = {
    *("scores.safetensors", "circuit.json", "circuit.svg", "circuit.pdf"),
    *("report.md", "measurements.json"),
}


def test_score_writes_what_the_library_reads_and_names_the_ranking(home, tmp_path, capsys):
    out = tmp_path / "deep" / "er" / "s.safetensors"
    assert main(["score", *on(home), "--method", "eap", "--top", "3", "--out", str(out)]) == 0
    said = capsys.readouterr().out
    scores = load_scores(out)
    assert scores.provenance["method"] == "eap"
    assert scores.provenance["seed"] == 0
    assert "strongest by absolute score" in said
    assert said.count("->") == 3


def test_steps_quadrature_dtype_and_limit_reach_the_scores(home, tmp_path):
    out = tmp_path / "s.safetensors"
    options = ["--steps", "3", "--quadrature", "left", "--dtype", "float64", "--limit", "5"]
    assert main(["score", *on(home), *options, "--out", str(out)]) == 0
    provenance = load_scores(out).provenance
    assert provenance["options"]["steps"] == 3
    assert provenance["options"]["quadrature"] == "left"
    assert (provenance["dtype"], provenance["n_examples"]) == ("float64", 5)


def test_select_makes_the_circuit_that_the_library_makes(home, capsys):
    path, scores = home / "signed.json", home / "scores.safetensors"
    assert (
        main(["select", str(scores), "--size", "7", "--ranking", "signed", "--out", str(path)]) == 0
    )
    assert "7 of 46 edges, chosen by signed score (top-n)" in capsys.readouterr().out
    chosen = {tuple(edge[:2]) for edge in json.loads(path.read_text())["edges"]}
    assert chosen == set(top_n(load_scores(scores), 7, ranking="signed").edges)


def test_greedy_selection_says_so(home, tmp_path, capsys):
    options = ["--selector", "greedy", "--prune", "--out", str(tmp_path / "c.json")]
    assert main(["select", str(home / "scores.safetensors"), "--size", "9", *options]) == 0
    assert "(greedy, pruned)" in capsys.readouterr().out


def test_evaluate_as_json_prints_one_object_per_circuit_and_nothing_else(home, capsys):
    paths = [str(home / "all.json"), str(home / "circuit.json"), str(home / "none.json")]
    scores = load_scores(home / "scores.safetensors")
    for path, size in ((paths[0], 46), (paths[2], 0)):
        top_n(scores, size, ranking="absolute").save(path)
    capsys.readouterr()
    assert main(["evaluate", *on(home), "--dtype", "float64", *paths, "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["circuit"] for row in rows] == paths
    assert all(row["in_sample"] for row in rows), "of the prompts that the scores were found on"
    assert [row["edges"] for row in rows] == [46, 20, 0]
    assert [row["faithfulness"] for row in rows[::2]] == pytest.approx([1, 0], abs=1e-9)
    assert rows[0]["metric"] == pytest.approx(rows[0]["clean"], abs=1e-9)
    assert rows[2]["metric"] == pytest.approx(rows[2]["corrupt"], abs=1e-9)
    assert {row["metric_name"] for row in rows} == {"logit-diff"}
    assert {row["n_examples"] for row in rows} == {12}


def test_evaluate_as_text_is_a_table(home, capsys):
    assert main(["evaluate", *on(home), str(home / "circuit.json")]) == 0
    said = capsys.readouterr().out
    assert "clean run" in said
    assert "circuit are ablated: resample." in " ".join(said.split())
    assert "no edge" in said
    assert "logit difference, mean over 12 prompts" in said


def test_kl_is_positive_for_people_and_as_it_is_in_json(home, capsys):
    circuit = str(home / "circuit.json")
    assert main(["evaluate", *on(home), "--metric", "kl", circuit, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["corrupt"] < 0
    assert main(["evaluate", *on(home), "--metric", "kl", circuit]) == 0
    said = capsys.readouterr().out
    assert "smaller is better" in said
    assert float(said.split("no edge")[1].split()[0]) > 0


def test_export_writes_every_file_named(home, tmp_path, capsys):
    paths = [str(tmp_path / f"c.{suffix}") for suffix in ("svg", "pdf", "png", "json")]
    options = [option for path in paths for option in ("--out", path)]
    assert main(["export", str(home / "circuit.json"), *options]) == 0
    assert all(Path(path).stat().st_size > 0 for path in paths)
    assert capsys.readouterr().out.count("20 edges written to") == 4


def test_show_tells_scores_from_circuits_by_content(home, tmp_path, capsys):
    for name in ("scores.safetensors", "circuit.json"):
        plain = tmp_path / name.split(".")[0]
        plain.write_bytes((home / name).read_bytes())
        assert main(["show", str(plain), "--top", "4"]) == 0
        assert main(["show", str(home / name), "--top", "4"]) == 0
        said = capsys.readouterr().out
        assert said.count("->") == 8
        assert "steps 5, quadrature midpoint" in said
        assert "helps the metric" in said


def test_methods_lists_cost_and_source(capsys):
    assert main(["methods"]) == 0
    said = capsys.readouterr().out
    assert "eap-ig" in said
    assert "arXiv:2403.17806" in said


def test_discover_leaves_its_files_and_a_verdict(home, tmp_path, capsys):
    out = tmp_path / "run"
    assert main(["discover", *on(home), "--steps", "2", "--size", "12", "--out", str(out)]) == 0
    assert {path.name for path in out.iterdir()} == WRITTEN
    said, report = capsys.readouterr().out, (out / "report.md").read_text()
    assert "4 held-out prompts (the search used 8 prompts)" in said
    assert "4 held-out prompts (the search used 8 prompts)" in report
    assert "The model can" in said.splitlines()[0]
    assert "of the 12 best edges lead nowhere" in said
    sizes = [
        int(line.split()[1]) for line in report.split("by size")[1].splitlines() if "%" in line
    ]
    assert (
        sizes == sorted(set(sizes))
        and sizes[-1] == 46
        and load_circuit(out / "circuit.json").size in sizes
    )


def test_a_task_the_model_cannot_do_is_said_and_written_all_the_same(home, tmp_path, capsys):
    task = json.loads((home / "task.json").read_text())["prompts"]
    both = [task, [{**p, "answers": [42], "wrong_answers": [41]} for p in task]]
    arguments = ["discover", "--model", str(home / "model"), "--size", "5", "--out", str(tmp_path)]
    verdicts = []
    for prompts in both:  # the random model prefers one of the two tokens
        write_task(tmp_path / "task.json", prompts)
        assert main([*arguments, "--task", str(tmp_path / "task.json")]) == 0
        verdicts.append(capsys.readouterr().out.splitlines()[0])
    hopeless = [said for said in verdicts if said.startswith("The model cannot do this task: ")]
    assert hopeless
    kept = json.loads((tmp_path / "circuit.json").read_text())["provenance"]["verdict"]
    assert kept == verdicts[-1]
    assert kept == load_scores(tmp_path / "scores.safetensors").provenance["verdict"]
    assert (tmp_path / "circuit.svg").is_file()


def test_without_a_size_the_circuit_is_the_smallest_that_keeps_enough(home, tmp_path, capsys):
    found, chosen = tmp_path / "run", tmp_path / "c.json"
    command = ["discover", *on(home), "--steps", "2", "--holdout", "0", "--out", str(found)]
    assert main([*command, "--faithfulness", "0.5"]) == 0
    said = capsys.readouterr().out
    assert "the smallest found that keeps 50% on the prompts of the search" in said
    by_hand = ["select", str(found / "scores.safetensors"), "--faithfulness", "0.5", "--prune"]
    assert main([*by_hand, *on(home), "--out", str(chosen)]) == 0
    circuit = load_circuit(found / "circuit.json")
    assert circuit == load_circuit(chosen) and prune(circuit) == circuit
    assert main([*command, "--size", "3", "--faithfulness", "0.5"]) == 2
    assert main([*by_hand, "--out", str(chosen)]) == 2
    said = capsys.readouterr().err
    assert "not allowed with argument" in said
    assert "--faithfulness runs circuits: give --model and --task too, or --size N" in said


def test_a_method_is_chosen_by_evidence_and_the_search_is_in_the_interval(home, tmp_path, capsys):
    command = ["discover", *on(home), "--method", "auto", "--size", "20", "--resamples", "3"]
    command += ["--selector", "mean-size"]
    assert main([*command, "--ranking", "signed", "--out", str(tmp_path / "signed")]) == 2
    assert "sizes have no sign" in capsys.readouterr().err
    assert main([*command, "--out", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert "auto keeps " in said and "eap-ig + relp x inputs + gim x inputs" in said
    assert "95 % interval of finding and judging" in " ".join(said.split())
    assert "95 % interval of finding and judging" in (tmp_path / "report.md").read_text()
    scores = tmp_path / "scores.safetensors"
    assert load_scores(scores).by_prompt is not None
    select = ["select", str(scores), "--size", "9", "--out", str(tmp_path / "c.json")]
    assert main([*select, "--selector", "inclusion"]) == 0
    assert "9 of 46 edges, chosen by absolute score (inclusion)" in capsys.readouterr().out
    out = ["--by-prompt", "--out", str(tmp_path / "s.safetensors")]
    assert main(["score", *on(home), "--method", "grad-drop", *out]) == 2
    assert "grad-drop is no mean over prompts" in capsys.readouterr().err
    assert main([*command, "--steps", "2", "--out", str(tmp_path / "new")]) == 2
    assert "auto lays its steps by itself" in capsys.readouterr().err


def test_discover_without_held_out_prompts_says_in_sample(home, tmp_path, capsys):
    options = ["--holdout", "0", "--size", "5", "--method", "eap", "--out", str(tmp_path)]
    assert main(["discover", *on(home), *options]) == 0
    assert "(in-sample)" in capsys.readouterr().out
    assert "(in-sample)" in (tmp_path / "report.md").read_text()


def test_discover_says_which_prompts_to_judge_on_were_seen_before(home, tmp_path, capsys):
    options = ["--eval-task", str(home / "task.json"), "--size", "5", "--out", str(tmp_path)]
    assert main(["discover", *on(home), *options]) == 0
    assert "12 held-out prompts, 12 of which the search saw too" in capsys.readouterr().out


def test_discover_works_with_kl(home, tmp_path, capsys):
    options = ["--metric", "kl", "--steps", "2", "--size", "5", "--out", str(tmp_path)]
    assert main(["discover", *on(home), *options]) == 0
    assert "smaller is better" in capsys.readouterr().out


@pytest.mark.parametrize("command", ["score", "doctor"])
def test_the_help_of_metric_names_every_metric_whole(command, capsys, monkeypatch):
    """At every width: names with hyphens are not broken at the end of a line."""
    for columns in (60, 80, 87):
        monkeypatch.setenv("COLUMNS", str(columns))
        with pytest.raises(SystemExit):
            main([command, "--help"])
        said = capsys.readouterr().out
        words = set(re.findall(r"[a-z][a-z-]*[a-z]", said.partition("--metric NAME")[2]))
        assert not {*METRICS} - words


def test_the_package_runs_as_a_program():
    program = [sys.executable, "-m", "circuits", "--help"]
    done = subprocess.run(program, capture_output=True, text=True, check=True)
    assert "find, judge and draw circuits" in done.stdout.lower()
    assert done.stderr == ""


@pytest.mark.parametrize(
    ("words", "loads"),
    [
        (["score", "--model", "gpt2", "--task", "ioi", "--out", "s.safetensors"], "gpt2"),
        (["show", "s.safetensors"], "libraries"),
        (["methods"], "libraries"),
    ],
)
def test_before_libraries_are_loaded_a_line_says_what_for(words, loads, monkeypatch, capsys):
    monkeypatch.delenv("TQDM_DISABLE", raising=False)
    monkeypatch.delitem(sys.modules, "torch")
    with waiting(make_parser().parse_args(words)):
        said = capsys.readouterr().err
    assert said == f"circuits {words[0]}: loading {loads}\n"


def test_same_numbers_as_from_python(home):
    scores = eap_ig(Model.load(home / "model"), from_json(home / "task.json"), logit_diff)
    torch.testing.assert_close(scores.matrix, load_scores(home / "scores.safetensors").matrix)


def test_a_folder_of_results_and_any_result_can_be_shown(home, capsys, tmp_path):
    assert main(["curve", *on(home), "--sizes", "3,9", "--random", "1", "--json",
                 str(home / "scores.safetensors")]) == 0  # fmt: skip
    (tmp_path / "curve.json").write_text(capsys.readouterr().out)
    for name in ("circuit.json", "scores.safetensors"):
        (tmp_path / name).write_bytes((home / name).read_bytes())
    assert main(["show", str(tmp_path)]) == 0
    listed = capsys.readouterr().out
    assert "curve.json          curves of faithfulness" in listed
    assert "circuit of 20 of 46 edges" in listed
    assert re.search(r"^  command +circuits score --model=", listed, re.M)
    assert "unruled" not in listed and "largest_tile" not in listed
    assert main(["show", str(tmp_path / "curve.json")]) == 0
    assert "points.faithfulness" in capsys.readouterr().out
    assert main(["view", str(tmp_path)]) == 0
    assert (tmp_path / "circuit.html").is_file()
    for name in ("circuit.json", "scores.safetensors"):
        (tmp_path / name).unlink()
    assert main(["show", str(tmp_path)]) == 0  # what `patch` and others leave has neither
    assert "curve.json    curves of faithfulness" in capsys.readouterr().out
    (tmp_path / "curve.json").unlink()
    assert main(["show", str(tmp_path)]) == 2
    assert "holds no result that can be shown, but circuit.html" in capsys.readouterr().err


def test_idle_edges_are_counted(home, capsys, tmp_path):
    scores = str(home / "scores.safetensors")
    assert main(["select", scores, "--size", "4", "--out", str(tmp_path / "c.json")]) == 0
    circuit = top_n(load_scores(scores), 4, ranking="absolute")
    idle = circuit.size - prune(circuit).size
    assert (f"{idle} of these edges lie on no path" in capsys.readouterr().out) == (idle > 0)


def test_a_limit_bounds_what_is_generated(tmp_path, capsys):
    options = ["score", "--model", "toy", "--task", "ioi", "--method", "eap", "--limit", "4"]
    few, many = tmp_path / "few.safetensors", tmp_path / "many.safetensors"
    assert main([*options, "--out", str(few)]) == 0
    assert main([*options, "--n", "10000000", "--out", str(many)]) == 0
    assert torch.equal(load_scores(few).matrix, load_scores(many).matrix)


@pytest.mark.parametrize("command", EXAMPLES)
def test_every_help_ends_with_two_examples_that_parse(command, capsys):
    with pytest.raises(SystemExit):
        main([*command.split(), "--help"])
    lines = capsys.readouterr().out.rstrip().splitlines()[-3:]
    assert lines[0] == "examples:"
    for line in lines[1:]:
        words = shlex.split(line.partition("|")[0])
        assert words[: 1 + len(command.split())] == ["circuits", *command.split()]
        assert make_parser().parse_args(words[1:]).run.__name__ == command.split()[0]
