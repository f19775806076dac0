"""The shell: every error is one line on stderr, with exit code 2 and no traceback."""

from pathlib import Path

import pytest
from shells import on, write_task

from circuits.cli import main
from circuits.shell import values
from patching.model import Model


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
        (["--task", "nowhere.csv"], "nowhere.csv: No such file or directory"),
        (["--model", "tests"], "tests is not a model folder: it holds no config.json"),
    ],
)
def test_what_score_cannot_do_is_one_line(home, fails, tmp_path, arguments, says):
    assert says in fails("score", *on(home), "--out", tmp_path / "s.safetensors", *arguments)
    assert not (tmp_path / "s.safetensors").exists()


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"corrupt": [1, 2]}, "row 1: clean and corrupt prompts of unequal token length"),
        ({"answers": []}, "1 of 2 rows that cannot be used: row 1: no answers; drop=True (--drop"),
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


def test_an_answer_of_several_tokens_is_refused_where_single_ones_are_compared(fails, tmp_path):
    sound = {"clean": "List: bed cat", "corrupt": "List: cat bed", "answers": [" bed"]}
    rows = [{**sound, "wrong_answers": [" cat"]} for _ in range(2)]
    write_task(tmp_path / "task.json", [*rows, {**rows[0], "answers": [" bed cat"]}])
    arguments = ["--model", "toy", "--task", tmp_path / "task.json", "--metric", "logit-diff"]
    said = fails("score", *arguments, "--out", tmp_path / "s.safetensors")
    assert "answers of several tokens (logit_diff compares single ones; take logprob_diff" in said
    assert said.endswith("in row 2\n")


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


def test_texts_need_a_tokenizer(home, fails, tmp_path):
    (tmp_path / "texts.csv").write_text("clean,corrupt,answers\na,b,c\n")
    said = fails("score", *on(home), "--out", "s.safetensors", "--task", tmp_path / "texts.csv")
    assert "has no tokenizer to read the texts of" in said


@pytest.mark.parametrize(
    ("arguments", "meant"),
    [
        (["scroe"], "score"),
        (["score", "--model", "toy", "--task", "ioi", "--stepz", "4", "--out", "s"], "--steps"),
        (["score", "--method", "eap-gi"], "eap-ig"),
        (["score", "--metric", "logitdiff"], "logit-diff"),
        (["score", "--task", "capitals"], "facts"),
        (["score", "--task", "greater_then"], "greater-than"),
        (["score", "--ranking", "sigend"], "signed"),
        (["score", "--model", "toy-lama"], "toy-llama"),
        (["score", "--ablation", "means"], "mean"),
        (["score", "--path", "input"], "inputs"),
        (["learn", "--method", "edge-prunning", "--size", "3", "--out", "new"], "edge-pruning"),
    ],
)
def test_what_was_probably_meant_is_said(fails, tmp_path, monkeypatch, arguments, meant):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)  # read when imported
    usual = {"--model": "toy", "--task": "ioi", "--out": "s.safetensors"}
    lacking = {} if arguments == ["scroe"] else usual
    given = [*arguments, *(w for k, v in lacking.items() if k not in arguments for w in (k, v))]
    assert f"did you mean '{meant}'?" in fails(*given)


def test_a_misspelt_option_that_is_needed_is_named(fails):
    said = fails("score", "--modle", "toy", "--task=ioi", "--out", "s.safetensors")
    assert "are required: --model; there is no --modle; did you mean '--model'?" in said
    assert "there is no" not in fails("score", "--mod", "toy", "--task", "ioi")  # an abbreviation


def test_names_are_looked_at_before_a_model_is_loaded(home, fails, tmp_path, monkeypatch):
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("no model is needed for this")

    monkeypatch.setattr(Model, "load", refuse)
    given = ["score", *on(home), "--out", tmp_path / "s.safetensors"]
    for option in ("--task", "--ablation-task", "--metric", "--method"):
        assert "there are" in fails(*given, option, "nonsense")


@pytest.mark.parametrize(
    ("arguments", "holds", "needed"),
    [
        (["select", "circuit.json", "--out", "new.json"], "a circuit", "scores"),
        (["curve", "circuit.json"], "a circuit", "scores"),
        (["evaluate", "scores.safetensors"], "scores", "a circuit"),
        (["export", "scores.safetensors", "--out", "new.svg"], "scores", "a circuit"),
        (["view", "circuit.json", "--scores", "circuit.json"], "a circuit", "scores"),
        (["view", "scores.safetensors", "--curve", "circuit.json"], "a circuit", "curves"),
    ],
)
def test_a_result_of_another_kind_is_named(home, fails, tmp_path, arguments, holds, needed):
    given = [str(home / word) if (home / word).is_file() else word for word in arguments]
    given = [str(tmp_path / word) if word.startswith("new.") else word for word in given]
    model = on(home) if arguments[0] in ("curve", "evaluate") else []
    said = fails(*given[:1], *model, *given[1:])
    assert f"holds {holds}; it should hold {needed}" in said


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

    monkeypatch.setattr("circuits.shell.methods.print_columns", interrupt)
    assert main(["methods"]) == 130
    assert capsys.readouterr().err == "interrupted\n"


def test_lack_of_memory_is_one_line_and_other_faults_keep_their_traceback(monkeypatch, fails):
    def fail(*arguments: object) -> None:
        raise RuntimeError(message)

    monkeypatch.setattr("circuits.shell.methods.print_columns", fail)
    message = "CUDA out of memory.\nTried to allocate 20 GiB"
    assert "Tried to allocate 20 GiB; try a smaller --batch-size" in fails("methods")
    message = "a fault of ours"
    with pytest.raises(RuntimeError, match="a fault of ours"):
        main(["methods"])


@pytest.mark.parametrize("size", ["lots", "0", "1.5", "2XB"])
def test_a_memory_size_that_is_none_is_refused(home, fails, tmp_path, size):
    arguments = ["score", *on(home), "--memory", size, "--out", str(tmp_path / "s.safetensors")]
    assert "a memory size such as 500MB or 2GB" in fails(*arguments)


def test_memory_sizes_are_read_with_units_and_as_fractions():
    sizes = [values.memory(text) for text in ("500MB", "2gb", "4096", "0.5")]
    assert sizes == [500 * 2**20, 2 * 2**30, 4096, 0.5]


@pytest.mark.parametrize("content", ['["cpu"]', '{"embed": 0.5}', '"auto"'])
def test_a_device_map_that_is_none_is_refused(fails, home, tmp_path, content):
    path = tmp_path / "map.json"
    path.write_text(content)
    command = ["score", *on(home), "--device-map", path, "--out", tmp_path / "s.safetensors"]
    assert "map.json is no device map: it holds {part: device}" in fails(*command)


def test_a_device_map_from_a_file_reaches_the_model(home, tmp_path, monkeypatch):
    (tmp_path / "map.json").write_text('{"embed": 0, "blocks.0": "cuda:1"}')
    seen = {}

    def load(source, **options):
        seen.update(options)
        raise ValueError("seen enough")

    monkeypatch.setattr(Model, "load", load)
    command = ["score", *on(home), "--device-map", str(tmp_path / "map.json")]
    assert main([*command, "--out", str(tmp_path / "s.safetensors")]) == 2
    assert seen["device_map"] == {"embed": 0, "blocks.0": "cuda:1"}


@pytest.mark.parametrize(
    ("command", "wrong", "right"),
    [
        (["score"], "circuit.json", ".safetensors"),
        (["search", "--method", "acdc", "--threshold", "1"], "circuit.safetensors", ".json"),
    ],
)
def test_results_are_not_written_under_another_kinds_name(
    fails, home, tmp_path, command, wrong, right
):
    said = fails(*command, *on(home), "--out", tmp_path / wrong)
    assert f"{wrong}': a file that ends in {right} would be right" in said
    (tmp_path / "file").touch()
    below = tmp_path / "file" / f"x{right}"
    assert "is no folder to write to" in fails(*command, *on(home), "--out", below)
