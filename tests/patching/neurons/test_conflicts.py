import json
import re

import pytest

from patching import Model
from patching.neurons import Conflict, ConflictTask, toy_conflicts
from patching.neurons.conflicts import from_text
from patching.neurons.formats import (
    from_csv,
    from_json,
    from_kre,
    from_memotrap,
    read_conflicts,
    to_json,
)

GOOD = Conflict((1, 5), (1, 7, 5), answer=(6, 9), memorised=(8,))


@pytest.fixture(scope="module")
def tokenizer():
    return Model.load("toy").tokenizer


KNOWN = []


class Words:
    """A tokenizer whose tokens are words with the white space before them."""

    bos_token_id = None

    def encode(self, text, *, add_special_tokens=True):
        words = re.findall(r"\s?\S+|\s", text)
        KNOWN.extend(word for word in words if word not in KNOWN)
        return [KNOWN.index(word) for word in words]


def text(ids):
    return "".join(KNOWN[i] for i in ids)


def test_a_conflict_is_two_tasks_whose_answers_are_first_tokens():
    task = ConflictTask("one", (GOOD,))
    assert task.with_context.prompts[0].clean == (1, 7, 5)
    assert task.without_context.prompts[0].clean == (1, 5)
    assert task.with_context.prompts[0].answers == (6,)
    assert task.with_context.prompts[0].wrong_answers == (8,)
    with_context, without_context = next(task.batches(4))
    assert with_context.answer_pos.tolist() == [2]
    assert without_context.answer_pos.tolist() == [1]


def test_a_split_keeps_every_conflict_once_and_the_hash_sees_all_ids():
    rows = tuple(Conflict((1, i), (1, 99, i), (i + 1,)) for i in range(10))
    task = ConflictTask("ten", rows)
    first, second = task.split(0.3, seed=1)
    assert (len(first), len(second)) == (3, 7)
    assert set(first.conflicts + second.conflicts) == set(rows)
    assert task.split(0.3, seed=1)[0] == first
    assert len({task.hash, first.hash, task.take(3).hash}) == 3


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (Conflict((1, 5), (1, 5), (6,)), "the same prompt with and without context"),
        (Conflict((), (1, 5), (6,)), "an empty question"),
        (Conflict((1, 5), (), (6,)), "an empty prompt with context"),
        (Conflict((1, 5), (1, 7, 5), ()), "no answer"),
        (Conflict((1, 5), (1, -7, 5), (6,)), "negative token ids"),
        (Conflict((1, 5), (1, 7, 5), (6, 1), (6, 2)), "equal first tokens of the context's and"),
    ],
)
def test_bad_conflicts_are_refused_by_row(bad, message):
    with pytest.raises(ValueError, match=f"'bad' has {message}.* in row 1"):
        ConflictTask("bad", (GOOD, bad))


def test_bad_sizes_are_refused():
    task = ConflictTask("one", (GOOD,))
    with pytest.raises(ValueError, match="at least one row"):
        ConflictTask("none", ())
    with pytest.raises(ValueError, match="take at least one conflict, got 0"):
        task.take(0)
    with pytest.raises(ValueError, match="a split of 1 conflicts at 0.5 leaves one part empty"):
        task.split()


@pytest.mark.parametrize("what", ["question", "context", "answer"])
def test_empty_texts_are_refused(what):
    texts = {"question": "a b", "context": "c", "answer": "d", what: " "}
    with pytest.raises(ValueError, match=f"the {what} is empty"):
        from_text(Words(), **texts)


def test_context_and_question_are_joined_by_one_space_and_answers_kept_whole():
    conflict = from_text(Words(), "Who?", "He did.", " me", " you")
    assert text(conflict.with_context) == "He did. Who?"
    assert text(conflict.without_context) == "Who?"
    assert (text(conflict.answer), text(conflict.memorised)) == (" me", " you")
    assert text(from_text(Words(), "Who?", "He.\n", " a").with_context) == "He.\nWho?"


def test_the_toy_conflicts_are_the_toy_task_with_its_question_apart(tokenizer):
    task = toy_conflicts(tokenizer, n=20, seed=3)
    for conflict in task.conflicts:
        n = len(conflict.without_context) - 1
        assert conflict.with_context[-n:] == conflict.without_context[1:]
        assert conflict.answer[0] in conflict.with_context
        assert conflict.memorised[0] not in conflict.with_context


def test_json_goes_round_trip(tokenizer, tmp_path):
    task = toy_conflicts(tokenizer, n=3)
    to_json(task, tmp_path / "c.json")
    again = from_json(tmp_path / "c.json")
    assert again == task
    assert again.conflicts[0].extra == task.conflicts[0].extra
    assert read_conflicts(tmp_path / "c.json") == task


def test_own_files_of_text_are_read(tmp_path):
    row = {"question": "Who?", "context": "He.", "answer": " me", "memorised": " you", "id": "7"}
    (tmp_path / "a.json").write_text(json.dumps({"name": "mine", "conflicts": [row], "by": "us"}))
    (tmp_path / "a.jsonl").write_text(json.dumps(row) + "\n")
    header = ",".join(row)
    (tmp_path / "a.csv").write_text(f"{header}\n{','.join(row.values())}\n")
    whole = from_json(tmp_path / "a.json", Words())
    assert (whole.name, whole.extra) == ("mine", {"by": "us"})
    assert whole.conflicts[0].extra["id"] == "7"
    for task in (
        from_csv(tmp_path / "a.csv", Words()),
        *(read_conflicts(tmp_path / f"a.{x}", Words()) for x in ("csv", "json", "jsonl")),
    ):
        assert task.hash == whole.hash


def test_memotrap_is_split_at_its_first_colon(tmp_path):
    path = tmp_path / "m.csv"
    path.write_text(
        "prompt,classes,answer_index\n"
        '"Write a quote that ends in ""early"": Better late: than","["" never."", "" early.""]",1\n'
    )
    conflict = from_memotrap(path, Words()).conflicts[0]
    assert text(conflict.without_context) == "Better late: than"
    assert text(conflict.with_context) == 'Write a quote that ends in "early": Better late: than'
    assert (text(conflict.answer), text(conflict.memorised)) == (" early.", " never.")


def test_memotrap_answers_that_start_alike_are_refused(tmp_path):
    path = tmp_path / "m.csv"
    path.write_text(
        "prompt,classes,answer_index\na: b,\"[' x', ' x y']\",0\na: b,\"[' x', ' y']\",0\n"
    )
    with pytest.raises(ValueError, match="equal first tokens .* in row 0"):
        read_conflicts(path, Words())
    for read in (read_conflicts, from_memotrap):
        task = read(path, Words(), drop_alike=True)
        assert (len(task), task.extra) == (1, {"dropped": [0]})


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        ("no colon,\"['a', 'b']\",0", "row 0: the prompt 'no colon' has no ': '"),
        ("a: b,what,0", "row 0: 'what' is no list of two texts"),
        ("a: b,\"['a', 'b', 'c']\",0", "row 0: two classes and an index of 0 or 1"),
        ("a: b,\"['a', 'b']\",2", "row 0: two classes and an index of 0 or 1"),
        ("a: b,\"['a', 'b']\"", "row 0 has more or fewer cells than the header"),
    ],
)
def test_bad_rows_of_memotrap_are_named(tmp_path, cells, message):
    path = tmp_path / "m.csv"
    path.write_text(f"prompt,classes,answer_index\n{cells}\n")
    with pytest.raises(ValueError, match=message):
        from_memotrap(path, Words())


def kre(**changes):
    row = {
        "question": "Where?",
        "choices": ["bank", "moon"],
        "answer": "bank",
        "negative_answer": "moon",
        "negative_context": "It was on the moon.",
        "golden_context": "kept",
    }
    return row | changes


@pytest.mark.parametrize("answer", ["bank", "Bank ", "A", "(a)", 0])
def test_kre_becomes_a_question_for_a_letter(tmp_path, answer):
    path = tmp_path / "k.json"
    path.write_text(json.dumps([kre(answer=answer)]))
    task = read_conflicts(path, Words())
    conflict = task.conflicts[0]
    assert text(conflict.without_context) == "Where?\nA. bank\nB. moon\nAnswer:"
    assert text(conflict.with_context) == "It was on the moon.\n" + text(conflict.without_context)
    assert (text(conflict.answer), text(conflict.memorised)) == (" B", " A")
    assert conflict.extra["golden_context"] == "kept"


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (kre(answer="sun"), r"row 0: the answer 'sun' is none of the choices \['bank', 'moon'\]"),
        (kre(choices="bank"), "row 0: choices are a list of at least two texts"),
        (kre(negative_context=" "), "row 0: the negative_context is empty"),
        ({"question": "Where?"}, "row 0 lacks choices, answer"),
        ("text", "row 0 is not an object"),
    ],
)
def test_bad_rows_of_kre_are_named(tmp_path, row, message):
    path = tmp_path / "k.json"
    path.write_text(json.dumps([row]))
    with pytest.raises(ValueError, match=message):
        from_kre(path, Words())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is not a whole JSON file"),
        ('{"rows": []}', 'lacks the list "conflicts"'),
        ('[{"question": "a"}]', "row 0: it lacks context, answer"),
        ('[{"question": 3, "context": "b", "answer": "c"}]', "row 0: question is text, got 3"),
        ('[{"with_context": "a"}]', "row 0: with_context is a list of token ids, got 'a'"),
        ('[{"question": "a", "context": "", "answer": "c"}]', "row 0: the context is empty"),
        ("[]", "'c' is empty"),
    ],
)
def test_bad_files_are_refused(tmp_path, content, message):
    path = tmp_path / "c.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=message):
        read_conflicts(path, Words())


def test_texts_need_a_tokenizer_and_files_a_known_form(tmp_path):
    path = tmp_path / "c.json"
    path.write_text('[{"question": "a", "context": "b", "answer": "c"}]')
    with pytest.raises(ValueError, match="row 0: it holds text, and there is no tokenizer"):
        from_json(path)
    with pytest.raises(ValueError, match=r"c.txt is not .csv, .json or .jsonl"):
        read_conflicts(tmp_path / "c.txt")
    (tmp_path / "c.csv").write_text("question,context\na,b\n")
    with pytest.raises(ValueError, match="row 0 lacks answer"):
        from_csv(tmp_path / "c.csv", Words())
