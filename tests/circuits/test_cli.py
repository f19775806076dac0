"""The shell: every command on a tiny random model, and every error as one line."""

import json
import random
from pathlib import Path

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from circuits.cli import main
from circuits.scores import load_scores
from circuits.select import top_n
from patching.metrics import METRICS
from patching.model import Model

WRITTEN = {"scores.safetensors", "circuit.json", "circuit.svg", "circuit.pdf", "report.md"}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model, a task of token ids, scores of all edges and a circuit."""
    home = tmp_path_factory.mktemp("shell")
    save_model(home / "model", n_layer=2)
    save_model(home / "deeper", n_layer=3)
    rng = random.Random(0)
    prompts = [[rng.randrange(40) for _ in range(5)] for _ in range(12)]
    write_task(
        home / "task.json",
        [
            {
                "clean": ids,
                "corrupt": [*ids[:2], 45, *ids[3:]],
                "answers": [41],
                "wrong_answers": [42],
            }
            for ids in prompts
        ],
    )
    assert main(["score", *on(home), "--out", str(home / "scores.safetensors")]) == 0
    scores = str(home / "scores.safetensors")
    assert main(["select", scores, "--size", "20", "--out", str(home / "circuit.json")]) == 0
    return home


def save_model(folder: Path, n_layer: int) -> None:
    torch.manual_seed(0)
    config = GPT2Config(
        n_layer=n_layer, n_head=2, n_embd=16, vocab_size=50, n_positions=16, initializer_range=0.3
    )
    GPT2LMHeadModel(config).save_pretrained(folder)


def write_task(path: Path, prompts: list) -> None:
    path.write_text(json.dumps({"prompts": prompts}))


def on(home: Path) -> list[str]:
    return ["--model", str(home / "model"), "--task", str(home / "task.json")]


@pytest.fixture
def fails(capfd: pytest.CaptureFixture[str]):
    """Run a command that has to fail, and return the one line it says."""

    def run(*arguments: str | Path) -> str:
        capfd.readouterr()
        assert main([str(argument) for argument in arguments]) == 2
        out, err = capfd.readouterr()
        assert out == ""
        assert err.startswith("error: ")
        assert err.count("\n") == 1
        assert err.endswith("\n")
        return err

    return run


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
    assert provenance["options"] == {"steps": 3, "quadrature": "left"}
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
    for path, size in ((paths[0], "46"), (paths[2], "0")):
        scores = str(home / "scores.safetensors")
        assert main(["select", scores, "--size", size, "--out", path]) == 0
    capsys.readouterr()
    assert main(["evaluate", *on(home), "--dtype", "float64", *paths, "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["circuit"] for row in rows] == paths
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
    assert "corrupt run" in said
    assert "logit difference, mean over 12 prompts" in said


def test_kl_is_positive_for_people_and_as_it_is_in_json(home, capsys):
    circuit = str(home / "circuit.json")
    assert main(["evaluate", *on(home), "--metric", "kl", circuit, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["corrupt"] < 0
    assert main(["evaluate", *on(home), "--metric", "kl", circuit]) == 0
    said = capsys.readouterr().out
    assert "smaller is better" in said
    assert float(said.split("corrupt run")[1].split()[0]) > 0


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


def test_discover_leaves_five_files_and_a_verdict(home, tmp_path, capsys):
    out = tmp_path / "run"
    assert main(["discover", *on(home), "--steps", "2", "--size", "12", "--out", str(out)]) == 0
    assert {path.name for path in out.iterdir()} == WRITTEN
    said, report = capsys.readouterr().out, (out / "report.md").read_text()
    assert "4 held-out prompts (the search used 8 prompts)" in said
    assert "4 held-out prompts (the search used 8 prompts)" in report
    assert "The model can" in said.splitlines()[0]
    for size in (1, 2, 5, 10, 12, 20, 46):
        assert f"\n| {size} |" in report


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
    assert (tmp_path / "circuit.svg").is_file()


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


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--method", "epa"], "no method named 'epa'; there are eap, eap-ig"),
        (["--metric", "loss"], "no metric named 'loss'; there are logit-diff, prob-diff, kl"),
        (["--quadrature", "simpson"], "no quadrature named 'simpson'; there are midpoint, left"),
        (
            ["--method", "eap", "--steps", "3"],
            "eap has no path to take steps on; leave out --steps",
        ),
        (["--method", "eap", "--metric", "kl"], "kl has no slope at the clean run"),
        (["--metric", "accuracy"], "accuracy has no gradient"),
        (["--dtype", "float8"], "argument --dtype: invalid choice: 'float8'"),
        (["--limit", "0"], "argument --limit: a whole number from 1 is needed, got '0'"),
        (["--device", "abacus"], "the device 'abacus' cannot be used here"),
        (["--task", "iou"], "no task named 'iou'; there are ioi, greater-than, subject-verb"),
        (["--task", "ioi"], "model has no tokenizer to write the task 'ioi' with"),
        (["--task", "nowhere.json"], "nowhere.json: No such file or directory"),
        (["--task", "nowhere.csv"], "has no tokenizer to read the texts of nowhere.csv"),
        (["--model", "tests"], "tests is not a model folder: it holds no config.json"),
    ],
)
def test_what_score_cannot_do_is_one_line(home, fails, tmp_path, arguments, says):
    assert says in fails("score", *on(home), "--out", tmp_path / "s.safetensors", *arguments)
    assert not (tmp_path / "s.safetensors").exists()


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"corrupt": [1, 2]}, "prompts of unequal token length in row 1 (row 1: 3 and 2 tokens)"),
        ({"answers": []}, "no answers in row 1"),
        ({"answers": [99]}, "holds token id 99, and model has only 50 tokens"),
        ({"corrupt": [1, 2, 3]}, "a corrupt prompt equal to the clean one in row 1"),
        ({"clean": "text"}, "row 1: the file holds text, and the model has no tokenizer"),
    ],
)
def test_a_bad_row_is_named(home, fails, tmp_path, changes, says):
    good = {"clean": [1, 2, 3], "corrupt": [1, 4, 3], "answers": [5], "wrong_answers": [6]}
    write_task(tmp_path / "task.json", [good, {**good, **changes}])
    arguments = ["--model", home / "model", "--task", tmp_path / "task.json"]
    assert says in fails("score", *arguments, "--out", tmp_path / "s.safetensors")


def test_an_empty_task_is_refused(home, fails, tmp_path):
    write_task(tmp_path / "task.json", [])
    arguments = ["--model", home / "model", "--task", tmp_path / "task.json", "--out", tmp_path]
    assert "has no prompts; at least one is needed" in fails("discover", *arguments)


def test_an_answer_of_several_tokens_is_refused(fails, tmp_path):
    prompt = {"clean": "List: bed cat", "corrupt": "List: cat bed", "answers": [" bed cat"]}
    write_task(tmp_path / "task.json", [prompt])
    arguments = ["--model", "toy", "--task", tmp_path / "task.json", "--out", tmp_path]
    assert "the answer ' bed cat' has 2 tokens" in fails("discover", *arguments)


def test_a_truncated_score_file_is_refused(home, fails, tmp_path):
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes((home / "scores.safetensors").read_bytes()[:-40])
    said = fails("select", cut, "--out", tmp_path / "c.json")
    assert "is not a whole safetensors file" in said
    assert "is not a whole safetensors file" in fails("show", cut)


def test_an_altered_score_file_is_refused(home, fails, tmp_path):
    content = bytearray((home / "scores.safetensors").read_bytes())
    content[-5] ^= 1
    altered = tmp_path / "altered.safetensors"
    altered.write_bytes(content)
    assert "was altered after it was written" in fails("show", altered)


def test_a_circuit_of_another_graph_is_named(home, fails):
    arguments = ["--model", home / "deeper", "--task", home / "task.json"]
    said = fails("evaluate", *arguments, home / "circuit.json", "--json")
    assert "circuit.json is a circuit of another graph (2 sequential layers" in said


def test_more_edges_than_there_are_cannot_be_chosen(home, fails, tmp_path):
    scores = home / "scores.safetensors"
    said = fails("select", scores, "--size", "60", "--out", tmp_path / "c.json")
    assert "cannot choose 60 edges; this graph has 46" in said
    said = fails("discover", *on(home), "--size", "60", "--out", tmp_path / "run")
    assert "cannot choose 60 edges; the graph of model has 46" in said
    assert not (tmp_path / "run").exists()


def test_one_prompt_cannot_be_split(home, fails, tmp_path):
    said = fails("discover", *on(home), "--limit", "1", "--out", tmp_path)
    assert "one prompt cannot be split; give more, or --holdout 0" in said


@pytest.mark.parametrize("holdout", ["1", "-0.1", "half"])
def test_a_holdout_that_is_no_share_is_refused(home, fails, tmp_path, holdout):
    said = fails("discover", *on(home), "--out", tmp_path, f"--holdout={holdout}")
    assert f"a fraction from 0 to below 1 is needed, got '{holdout}'" in said


@pytest.mark.parametrize("command", ["show", "export", "evaluate", "select"])
def test_a_missing_file_is_named(home, fails, command):
    options = {"show": [], "evaluate": on(home)}.get(command, ["--out", "c.json"])
    name = "gone.safetensors" if command == "select" else "gone.json"
    said = fails(command, *options, name)
    assert name in said
    assert "No such file or directory" in said


def test_an_unknown_suffix_is_refused(home, fails, tmp_path):
    assert ".odt" in fails("export", home / "circuit.json", "--out", tmp_path / "c.odt")


def test_a_file_of_another_kind_cannot_be_shown(fails, tmp_path):
    (tmp_path / "notes").write_text("nothing of ours")
    assert "is neither scores (safetensors) nor a circuit (JSON)" in fails(
        "show", tmp_path / "notes"
    )


def test_results_do_not_replace_a_folder_or_go_below_a_file(home, fails, tmp_path):
    assert "is a folder; name the file" in fails("score", *on(home), "--out", tmp_path)
    (tmp_path / "file").touch()
    assert "is a file; name a folder" in fails("discover", *on(home), "--out", tmp_path / "file")


def test_wrong_usage_points_to_the_help(fails):
    assert "(see circuits --help)" in fails("sellect")
    assert "required: COMMAND" in fails()


def test_an_interrupt_ends_with_130_and_no_traceback(monkeypatch, capsys):
    def interrupt(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("circuits.shell.commands.print_columns", interrupt)
    assert main(["methods"]) == 130
    assert capsys.readouterr().err == "interrupted\n"


def test_lack_of_memory_is_one_line_and_other_faults_keep_their_traceback(monkeypatch, fails):
    def fail(*arguments: object) -> None:
        raise RuntimeError(message)

    monkeypatch.setattr("circuits.shell.commands.print_columns", fail)
    message = "CUDA out of memory.\nTried to allocate 20 GiB"
    assert "Tried to allocate 20 GiB; try a smaller --batch-size" in fails("methods")
    message = "a fault of ours"
    with pytest.raises(RuntimeError, match="a fault of ours"):
        main(["methods"])


def test_the_help_of_metric_names_all_metrics_with_a_gradient(capsys):
    with pytest.raises(SystemExit):
        main(["score", "--help"])
    said = capsys.readouterr().out
    assert all(name in said for name in METRICS if name != "accuracy")


def test_same_numbers_as_from_python(home):
    from circuits.scoring import eap_ig
    from patching.metrics import logit_diff
    from patching.tasks import from_json

    scores = eap_ig(Model.load(home / "model"), from_json(home / "task.json"), logit_diff)
    torch.testing.assert_close(scores.matrix, load_scores(home / "scores.safetensors").matrix)
