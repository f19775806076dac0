"""Plain texts as tasks: what comes next at every token, and no corrupt prompts."""

from pathlib import Path

import families
import pytest
import torch

from circuits import Circuit, eap, evaluate, top_n
from circuits.cli import main
from circuits.discover import check_task
from circuits.doctor import examine, read_rows
from circuits.doctor.behaviour import Behaviour, usable_rows
from circuits.scores import load_scores
from patching.ablations import mean, zero
from patching.descent import Schedule
from patching.metrics import logprob_per_token
from patching.model import Model
from patching.optimal import optimal
from patching.suited import above_chance
from patching.tasks import Prompt, Task, from_file, from_text, to_json

STORIES = Path(__file__).parents[3] / "shared" / "models" / "stories260K"
TEXT = """Once upon a time, there was a little girl named Lily. She loved to play outside in the
park. One day, she saw a big dog. The dog was very happy and wanted to play with her. They played
all day and had a lot of fun. Then her mom said it was time to go home. Lily was sad, but she
said goodbye to the dog and went home with her mom. She was very happy.
"""


class Letters:
    """A token for each letter, behind a BOS."""

    bos_token_id: int | None = 1

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        return [1] * add_special_tokens + [ord(letter) for letter in text]


@pytest.fixture
def book(tmp_path):
    (tmp_path / "book.txt").write_text("abcdefgh")
    return tmp_path / "book.txt"


def test_a_text_is_cut_into_pieces_that_are_asked_at_every_token(book):
    task = from_text(book, Letters(), length=4)
    pieces = [(1, *map(ord, part)) for part in ("abc", "def", "gh")]
    assert task.name == "book" and [p.clean for p in task.prompts] == pieces
    for prompt in task.prompts:
        assert prompt.corrupt == prompt.clean and prompt.is_text
        assert prompt.answers == prompt.clean[1:]
        assert prompt.answer_positions == tuple(range(len(prompt.clean) - 1))
    assert from_text(book, Letters(), length=4, n=2).prompts == task.prompts[:2]
    assert from_file(book, Letters()).prompts == from_text(book, Letters()).prompts


def test_what_is_no_text_is_refused_in_words(book):
    with pytest.raises(ValueError, match="a piece of a text has at least 2 tokens, got length=1"):
        from_text(book, Letters(), length=1)
    with pytest.raises(ValueError, match="the file holds text, and the model has no tokenizer"):
        from_file(book)
    book.write_text("")
    with pytest.raises(ValueError, match="book.txt holds 0 tokens of text; at least 2 are needed"):
        from_text(book, Letters())
    book.write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match="book.txt is no text in UTF-8: byte 0"):
        from_text(book, Letters())


def test_a_text_is_told_from_pairs_that_do_not_differ(tmp_path):
    """Of rows without contrast, only those that compare nothing and are asked inside are sound."""
    text = Prompt((3, 4, 5), (3, 4, 5), (4, 5), answer_positions=(0, 1))
    same = Prompt((3, 4, 5), (3, 4, 5), (6,), (7,))
    pair = Prompt((3, 4, 5), (3, 9, 5), (6,), (7,))
    for rows, sound in (([text, text], (0, 1)), ([text, same], (0,)), ([text, pair], (1,))):
        to_json(Task("t", tuple(rows)), tmp_path / "t.json")
        assert read_rows(tmp_path / "t.json").rows == sound
    with pytest.raises(ValueError, match="one .a text has none: take zero, mean .* in row 0"):
        Task("t", (text,)).require_contrast()


def test_a_model_that_does_better_than_chance_can_do_a_text():
    model = Model.load(families.module("gpt2", torch.float64))
    with torch.no_grad():
        tokens = model.run([3, 4, 5]).logits[0, :2].argmax(dim=-1).tolist()
    text = Prompt((3, 4, 5), (3, 4, 5), tuple(tokens), answer_positions=(0, 1))
    task = Task("t", (text,))
    (batch,) = task.batches(1)
    logits = model.answer_logits(batch.clean, batch)
    expected = logprob_per_token(logits, batch) - torch.tensor(1 / families.VOCAB).log()
    torch.testing.assert_close(above_chance(logits, batch), expected, rtol=0, atol=1e-6)
    verdict = check_task(model, [task], logprob_per_token, 4, ablation=zero)
    assert verdict.share_right == 1.0


@pytest.mark.parametrize("ablate", ["mean", "optimal"])
def test_circuits_of_a_text_run_under_mean_and_optimal_ablation(ablate):
    """A circuit is worth its loss: all of it is the model, and none what the constants leave."""
    model = Model.load(families.module("gpt2", torch.float64))
    texts = tuple(
        Prompt(ids, ids, ids[1:], answer_positions=tuple(range(len(ids) - 1)))
        for ids in ((3, 4, 5, 6, 3), (7, 5, 4))
    )
    task = Task("t", texts)
    ablation = mean(task)
    if ablate == "optimal":
        ablation = optimal(model, task, logprob_per_token, schedule=Schedule(steps=2))
    circuits = [Circuit.full(model.graph), Circuit.empty(model.graph)]
    found = evaluate(model, task, circuits, logprob_per_token, ablation=ablation)
    assert torch.equal(found.values[0], found.clean)
    torch.testing.assert_close(found.values[1], found.corrupt)
    for i, prompt in enumerate(texts):
        with torch.no_grad():
            logits = model.run([*prompt.clean]).logits[0, :-1].log_softmax(dim=-1)
        expected = logits[torch.arange(len(prompt.clean) - 1), list(prompt.clean[1:])].mean()
        torch.testing.assert_close(found.clean[i], expected.double(), rtol=0, atol=1e-12)
    scores = eap(model, task, logprob_per_token, ablation=ablation)
    kept = top_n(scores, 30, ranking="absolute")
    runs = evaluate(model, task, [kept, ~kept], logprob_per_token, ablation=ablation)
    assert bool(runs.values.isfinite().all()) and not torch.equal(runs.values[0], runs.values[1])


def test_usable_rows_are_counted_by_the_length_of_their_answers():
    one = Prompt((3, 4), (3, 5), (6,), (7,))
    long = Prompt((3, 4), (3, 5), ((6, 7),), ((8, 9),))
    told = torch.tensor([1.0, -1.0, 1.0, 1.0])
    gaps = torch.tensor([1.0, 1.0, 1.0, -1.0])
    seen = Behaviour((0, 1, 2, 3), gaps, torch.zeros(4), told, told, told, told)
    found = usable_rows(seen, Task("t", (one, one, long, long)))
    assert (found.measured, found.threshold, found.verdict) == (2, 3, "doubtful")
    assert found.unit == "of 4 rows, 1 of several tokens"
    assert "1 of 2 rows with answers of one token and 1 of 2 with several" in found.means


@pytest.mark.skipif(not STORIES.is_dir(), reason="stories260K is not here")
def test_the_doctor_calls_a_story_usable(tmp_path):
    model = Model.load(STORIES)
    (tmp_path / "story.txt").write_text(TEXT)
    assert model.tokenizer is not None
    task = from_text(tmp_path / "story.txt", model.tokenizer, length=24)
    report = examine(model, task, logprob_per_token)
    assert report.exit_code == 0 and {f.verdict for f in report.findings} <= {"good", "doubtful"}
    assert report.of("prefers the answer").measured == 1.0
    assert report.of("gap between clean and corrupt").measured > 1
    assert "can do this task" in (report.ability or "")


def test_the_shell_scores_a_text_by_its_loss(tmp_path, capsys):
    (tmp_path / "list.txt").write_text("List: bed cat door bed cat door bed cat door")
    out = tmp_path / "s.safetensors"
    given = ["score", "--model", "toy", "--task", str(tmp_path / "list.txt"), "--method", "eap"]
    assert main([*given, "--out", str(out)]) == 2
    assert "a text has none: take zero, mean or optimal" in capsys.readouterr().err
    assert main([*given, "--ablation", "zero", "--out", str(out)]) == 0
    assert load_scores(out).provenance["metric"] == "logprob-per-token"


def test_the_shell_takes_the_usual_metric_of_a_form(tmp_path):
    out = tmp_path / "s.safetensors"
    given = ["--model", "toy", "--task", "facts:any", "--n", "3", "--method", "eap"]
    assert main(["score", *given, "--out", str(out)]) == 0
    assert load_scores(out).provenance["metric"] == "logprob-diff"
