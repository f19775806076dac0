"""The doctor: planted faults are found by name, healthy models pass, and the shell says it."""

import json
from dataclasses import replace
from functools import cache
from pathlib import Path

import families
import pytest
import torch

from circuits.cli import main
from circuits.doctor import Report, examine, pairs, read_rows, summary
from circuits.doctor.finding import Finding, at_least, at_most, named
from patching.metrics import accuracy, kl, logit_diff
from patching.model import Model
from patching.models import induction
from patching.tasks import Prompt, Task, to_json
from patching.tasks.random_tokens import random_tokens
from patching.tasks.spans import Span
from patching.tracr import load_tracr

SHARED = Path(__file__).parents[3] / "shared"
STORIES, TRACR = SHARED / "models" / "stories260K", SHARED / "tracr"
TASK = induction(n=10).task
BOS, UNKNOWN = 1, 2


@pytest.fixture(scope="module")
def model():
    return Model.load("truth/induction")


def tiny() -> Model:
    return Model.load(families.module("gpt2", torch.float64))


def each(change) -> Task:
    return replace(TASK, prompts=tuple(change(p) for p in TASK.prompts))


# Faults of models: what is done to a healthy one, what finds it, and how bad that is.


def scale_a_norm(model):
    model.bridge.blocks[0].ln1.original_component.weight.data.mul_(1.1)


def leave_a_hook_that_changes(model):
    model.bridge.hook_dict[model.blocks[0].mlp_out].add_hook(lambda t, hook: 1.5 * t)


def leave_a_hook_that_looks(model):
    model.bridge.hook_dict[model.blocks[0].mlp_out].add_hook(lambda t, hook: None)


def put_nan_into_a_weight(model):
    next(model.bridge.parameters()).data[0, 0] = torch.nan


def add_a_hidden_branch(model):
    model.bridge.blocks[1].mlp.original_component.register_forward_hook(lambda m, i, out: 2 * out)
    model.bridge.hook_dict[model.blocks[1].stream_out].add_hook(
        lambda t, hook: t + 1, is_permanent=True
    )


def cut_a_gradient(model):
    model.bridge.blocks[0].mlp.original_component.c_proj.register_forward_hook(
        lambda m, i, out: out.detach() + 0 * out
    )


MODEL_FAULTS = {
    scale_a_norm: ("same as the plain model", "unusable"),
    leave_a_hook_that_changes: ("no hooks left behind", "unusable"),
    leave_a_hook_that_looks: ("no hooks left behind", "doubtful"),
    put_nan_into_a_weight: ("finite numbers", "unusable"),
    add_a_hidden_branch: ("writers rebuild the stream", "unusable"),
    cut_a_gradient: ("scores are slopes", "unusable"),
}


@pytest.mark.parametrize("plant", MODEL_FAULTS, ids=lambda plant: plant.__name__)
def test_a_fault_planted_in_a_model_is_found(plant):
    name, verdict = MODEL_FAULTS[plant]
    broken = tiny()
    plant(broken)
    report = examine(broken)
    assert report.of(name).verdict == verdict
    assert report.of(name).advice
    assert report.verdict == verdict
    assert report.exit_code == (3 if verdict == "unusable" else 0)


def test_a_signal_below_half_precision_is_found():
    """A large constant in every embedding: the norm removes it, after bfloat16 has rounded."""
    module = families.module("gpt2", torch.float32)
    module.transformer.wte.weight.data.add_(16.0)
    broken = Model.load(module.to(torch.bfloat16))
    report = examine(broken)
    noise = report.of("dtype noise of the metric")
    assert noise.verdict != "good" and noise.measured > 0.1
    assert "float32" in noise.advice
    assert report.of("dtype noise of scores").verdict != "good"


# Faults of tasks in memory.


def shuffled(prompt: Prompt) -> Prompt:
    letters = torch.randperm(24, generator=torch.Generator().manual_seed(sum(prompt.clean))) + 3
    right, wrong = letters[:2].tolist()
    return replace(prompt, answers=(right,), wrong_answers=(wrong,))


def corrupt_elsewhere(prompt: Prompt) -> Prompt:
    """The first letter, which the repetition does not hang on, is another."""
    other = next(i for i in range(3, 27) if i not in prompt.clean)
    return replace(prompt, corrupt=(prompt.clean[0], other, *prompt.clean[2:]))


TASK_FAULTS = {
    "clean and corrupt swapped": (
        each(lambda p: replace(p, clean=p.corrupt, corrupt=p.clean)),
        "gap between clean and corrupt",
        "unusable",
    ),
    "wrong answers first": (
        each(lambda p: replace(p, answers=p.wrong_answers, wrong_answers=p.answers)),
        "prefers the answer",
        "unusable",
    ),
    "random answers": (each(shuffled), "prefers the answer", "unusable"),
    "nothing of interest corrupted": (
        each(corrupt_elsewhere),
        "prefers the answer when corrupt",
        "doubtful",
    ),
    "rows twice": (
        replace(TASK, prompts=TASK.prompts[:5] * 2),
        "rows are distinct",
        "doubtful",
    ),
    "equal pairs": (
        each(lambda p: replace(p, corrupt=p.clean) if p is TASK.prompts[3] else p),
        "pairs differ",
        "unusable",
    ),
    "no BOS": (
        each(lambda p: replace(p, clean=p.clean[1:], corrupt=p.corrupt[1:], spans=())),
        "one BOS",
        "doubtful",
    ),
    "two BOS": (
        each(lambda p: replace(p, clean=(BOS, *p.clean), corrupt=(BOS, *p.corrupt))),
        "one BOS",
        "doubtful",
    ),
    "unknown words": (
        each(lambda p: replace(p, clean=(BOS, UNKNOWN, *p.clean[2:]))),
        "words are known",
        "doubtful",
    ),
    "one answer for all": (
        each(lambda p: replace(p, answers=TASK.prompts[0].answers, wrong_answers=(0,))),
        "answers vary",
        "doubtful",
    ),
    "another vocabulary": (
        each(lambda p: replace(p, answers=(900,)) if p is TASK.prompts[2] else p),
        "rows fit the model",
        "unusable",
    ),
    "everything corrupted": (
        each(lambda p: replace(p, corrupt=tuple(3 + (i + 5) % 24 for i in p.clean))),
        "pairs are close",
        "doubtful",
    ),
}


@cache
def report_on(fault: str) -> Report:
    return examine(Model.load("truth/induction"), TASK_FAULTS[fault][0])


@pytest.mark.parametrize("fault", TASK_FAULTS)
def test_a_fault_planted_in_a_task_is_found(fault):
    _, name, verdict = TASK_FAULTS[fault]
    report = report_on(fault)
    found = report.of(name)
    assert found.verdict == verdict, summary(report)
    assert found.advice
    assert report.verdict in (verdict, "unusable")


def test_what_to_exchange_is_said():
    report = report_on("clean and corrupt swapped")
    assert "swapped: exchange them" in report.of("prefers the answer").advice
    assert "no better than corrupt" in str(report.ability)


def test_bad_rows_are_named_and_to_be_dropped():
    report = report_on("equal pairs")
    assert report.of("pairs differ").rows == report.rows_to_drop == (3,)
    assert report_on("another vocabulary").of("rows fit the model").rows == (2,)
    report = report_on("rows twice")
    assert report.of("rows are distinct").rows == (5, 6, 7, 8, 9) == report.rows_to_drop


# Faults of files: loading stops at the first, the doctor reads on.

SOUND = {"clean": "a b c a", "corrupt": "a b c d", "answers": [" b"], "wrong_answers": [" c"]}
BAD_ROWS = {
    1: ({**SOUND, "corrupt": "a b c"}, "pairs have equal lengths", "5 and 4 tokens"),
    2: ({**SOUND, "answers": [[]]}, "answers are in order", "an empty answer"),
    4: ({**SOUND, "wrong_answers": [" b"]}, "answers are in order", "also a wrong answer"),
    5: ({**SOUND, "answers": []}, "answers are in order", "no answers"),
    6: (
        {"clean": "a b"},
        "rows can be read",
        "row 6: a form that cannot be read (lacks corrupt, answers",
    ),
    7: ({**SOUND, "corrupt": "a b c a"}, "pairs differ", "equal to the clean one"),
    8: (
        {**SOUND, "clean": [], "corrupt": [], "answers": [3], "wrong_answers": [4]},
        "answers are in order",
        "empty",
    ),
}


def bad_file(folder: Path) -> Path:
    rows = [BAD_ROWS[i][0] if i in BAD_ROWS else SOUND for i in range(10)]
    path = folder / "bad.json"
    path.write_text(json.dumps({"prompts": rows}))
    return path


def test_every_bad_row_of_a_file_is_found_at_once(model, tmp_path):
    path = bad_file(tmp_path)
    reading = read_rows(path, model.tokenizer)
    assert [fault.row for fault in reading.faults] == list(BAD_ROWS)
    assert reading.rows == (0, 3, 9) and reading.task is not None and len(reading.task) == 3
    report = examine(model, reading)
    for row, (_, name, said) in BAD_ROWS.items():
        finding = report.of(name)
        assert finding.verdict == "unusable" and row in finding.rows
        assert said in finding.means
    assert set(BAD_ROWS) <= set(report.rows_to_drop)
    assert read_rows(path, model.tokenizer, limit=1).n_rows == 1


def test_a_file_without_a_sound_row_is_said_to_have_none(model, tmp_path):
    path = tmp_path / "bad.json"
    path.write_text(json.dumps({"prompts": [BAD_ROWS[1][0]]}))
    report = examine(model, read_rows(path, model.tokenizer))
    assert report.verdict == "unusable" and report.ability is None
    assert "it has no sound row" in summary(report)


def test_a_table_is_read_row_by_row(model, tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("clean,corrupted,correct_idx,incorrect_idx\na b a,a b c,4,5\na b a,a b c,x,5\n")
    reading = read_rows(path, model.tokenizer)
    assert reading.rows == (0,)
    assert [(f.row, f.kind) for f in reading.faults] == [(1, "a form that cannot be read")]
    with pytest.raises(ValueError, match="no tokenizer to read the texts of"):
        read_rows(path)


MIB_ROW = {"prompt": "a b a", "choices": ["b", "c"], "answerKey": 0}
PUBLISHED = {
    "rows.jsonl": "\n".join(
        json.dumps(row)
        for row in (
            {**MIB_ROW, "symbol_counterfactual": {**MIB_ROW, "prompt": "a c a", "answerKey": 1}},
            {**MIB_ROW, "symbol_counterfactual": {"choices": ["b", "c"], "answerKey": 1}},
        )
    ),
    "table.csv": "clean,corrupted,answers_idx,corrupted_answers_idx\na b a,a c a,4,5\na b,a c,,5\n",
    "list.json": json.dumps(
        [
            {"clean": "a b a", "corrupted": "a c a", "correct_idx": [4], "incorrect_idx": [5]},
            {"clean": "a b a", "corrupted": "a c a"},
        ]
    ),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_every_form_that_tasks_read_is_read_row_by_row(model, tmp_path, name):
    path = tmp_path / name
    path.write_text(PUBLISHED[name])
    reading = read_rows(path, model.tokenizer)
    assert (reading.n_rows, reading.rows) == (2, (0,)), reading.faults
    assert [fault.row for fault in reading.faults] == [1]


# The healthy.


@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma2"])
def test_healthy_models_pass(family):
    report = examine(Model.load(families.module(family, torch.float64)))
    assert report.verdict == "good", summary(report)
    assert report.exit_code == 0


def test_what_a_family_hides_is_doubtful_and_named():
    report = examine(Model.load(families.module("mixtral", torch.float32)))
    assert report.verdict == "doubtful"
    assert "neurons" in report.of("activations shown").means
    assert "experts" in report.of("backward rules act").means


def test_a_known_circuit_passes_with_every_metric(model):
    for metric in (logit_diff, kl, accuracy):
        report = examine(model, TASK.take(6), metric)
        assert report.verdict == "good", summary(report)
    assert report.ability is not None and report.ability.startswith("The model can do this task")


def test_nothing_is_left_in_the_model(model):
    before = {name: p.clone() for name, p in model.bridge.named_parameters()}
    examine(model, TASK)
    assert all(torch.equal(p, before[name]) for name, p in model.bridge.named_parameters())
    assert not any(p.fwd_hooks for p in model.bridge.hook_dict.values())


def test_a_metric_that_cannot_be_measured_is_found(model):
    without = each(lambda p: replace(p, wrong_answers=()))
    report = examine(model, without)
    assert "compares with wrong answers" in report.of("prefers the answer").means
    assert report.exit_code == 3


def test_spans_are_told_with_the_rows_that_have_none():
    marked = replace(TASK.prompts[0], spans=(Span("a", 0, 1), Span("b", 1, 3), Span("b", 4, 5)))
    rows = (marked, marked, replace(marked, spans=(Span("a", 0, 2),)), replace(marked, spans=()))
    found = pairs.spans(replace(TASK, prompts=rows), range(4))
    assert (found.measured, found.rows, found.verdict) == (1, (3,), "doubtful")
    n = len(marked.clean)
    said = f"a: 1 to 2 tokens in 3 of 4 rows; b: 3 tokens in 2 of 4 rows; rest: {n - 2.5:.1f} "
    assert found.means.startswith(said)


def test_faulty_spans_are_found_row_by_row(tmp_path):
    path = tmp_path / "t.json"
    to_json(TASK, path)
    content = json.loads(path.read_text())
    content["prompts"][2]["spans"] = {"far": [3, 99]}
    path.write_text(json.dumps(content))
    (found,) = [f for f in pairs.row_faults(read_rows(path)) if f.rows]
    assert (found.name, found.rows, found.verdict) == ("spans are in order", (2,), "unusable")
    assert "row 2: a span outside its prompt ('far' at tokens 3 to 98 of" in found.means


def test_memory_grows_with_the_batch(model):
    one, many = (examine(model, batch_size=n).of("memory for scoring").measured for n in (1, 1000))
    assert many > 1.5 * one
    with pytest.raises(ValueError, match="at least one example, got batch_size=0"):
        examine(model, batch_size=0)


def test_verdicts_by_thresholds_and_row_numbers():
    assert [at_least(x, 0.5, 0.1) for x in (0.5, 0.2, 0.0)] == ["good", "doubtful", "unusable"]
    assert at_most(float("nan"), 1) == "unusable"
    assert named([2]) == "row 2"
    report = Report("m", None, (Finding("a", "model", "good", 0, 0, "", ""),))
    with pytest.raises(ValueError, match="no finding 'b' in this report, but a"):
        report.of("b")


def test_random_prompts_need_three_tokens():
    with pytest.raises(ValueError, match="vocabulary of 3 tokens and room for 1; got 2"):
        random_tokens(2, 5)


# The shell.


def test_the_shell_prints_a_table_and_json(tmp_path, capsys):
    to_json(TASK, tmp_path / "task.json")
    arguments = ["doctor", "--model", "truth/induction", "--task", str(tmp_path / "task.json")]
    assert main(arguments) == 0
    text = capsys.readouterr().out
    assert text.startswith("truth/induction on repeated-letter: good\nThe model can do this task")
    assert max(map(len, text.splitlines())) <= 100
    assert main([*arguments[:3], "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["verdict"] == "good" and len(said["findings"]) > 10
    assert said["findings"][2]["details"].keys() >= {"layer 0", "layer 1"}


def test_the_shell_returns_3_for_what_is_unusable_and_2_for_errors(tmp_path, capsys):
    arguments = ["doctor", "--model", "truth/induction", "--task"]
    assert main([*arguments, str(bad_file(tmp_path))]) == 3
    out = capsys.readouterr().out
    assert "row 1: clean and corrupt prompts of unequal token length (5 and 4 tokens)" in out
    assert "rows to drop" in out
    assert main([*arguments, "nonsense"]) == 2
    assert "no task named 'nonsense'" in capsys.readouterr().err
    assert main([*arguments, str(tmp_path / "none.json")]) == 2


@pytest.mark.skipif(not STORIES.exists(), reason="the pretrained model is not here")
def test_stories_cannot_do_ioi(capsys):
    task = str(STORIES / "tasks" / "ioi.json")
    assert main(["doctor", "--model", str(STORIES), "--task", task]) == 3
    assert "The model cannot do this task" in capsys.readouterr().out


def test_a_task_without_wrong_answers_makes_no_model_unusable(model):
    report = examine(model, each(lambda p: replace(p, wrong_answers=())), kl)
    assert "memory for scoring" in {found.name for found in report.findings}
    assert not [found.name for found in report.findings if found.verdict == "unusable"]


@pytest.mark.skipif(not TRACR.is_dir(), reason="compiled programs are not there")
def test_a_model_that_reads_both_ways_is_examined_as_one():
    model, known = load_tracr(TRACR / "sort_unique")
    for report in (examine(model), examine(model, known.task)):
        assert not [found.name for found in report.findings if found.verdict == "unusable"]


def test_the_first_prompts_are_shown_with_their_answers_as_text(model):
    prompts = [Prompt((0, 5, 6, 5), (0, 5, 7, 5), (6,), (7, 8)), Prompt((0, 5), (0, 6), (7,))]
    report = examine(model, Task("mine", tuple(prompts)))
    assert report.examples == ("'<pad> c d c' -> 'd', not 'e', 'f'", "'<pad> c' -> 'e'")
    assert all(example in summary(report) for example in report.examples)
    assert report.to_dict()["examples"] == list(report.examples)
