"""Spans: named token ranges of prompts, from generators, files and rules, and in batches."""

import json
from dataclasses import replace
from typing import Literal

import pytest
import torch
from tokenizers_for_tasks import trained_bpe

from patching.models.toy_tasks import TOY_GENERATORS
from patching.models.toy_tokenizer import toy_tokenizer
from patching.tasks import GENERATORS, Prompt, Task, from_csv, from_file, from_json, to_json
from patching.tasks.span_rules import each_position, from_end
from patching.tasks.spans import Span, placed, read_spans, unmark


@pytest.fixture(scope="module")
def bpe():
    return trained_bpe()


@pytest.fixture(scope="module")
def toy():
    return toy_tokenizer()


def _said(tokenizer, prompt):
    texts = {}
    for span in prompt.spans:
        texts.setdefault(span.name, []).append(
            tokenizer.decode(prompt.clean[span.start : span.stop]).strip()
        )
    return texts


def test_indirect_objects_are_marked_wherever_they_stand(toy):
    task = GENERATORS["ioi"](toy, 20, 0)
    assert {*task.span_names} == {"rest", "IO", "S1", "S2", "end"}
    for prompt in task.prompts:
        texts = _said(toy, prompt)
        (right,), (wrong,) = (
            [toy.decode([a]).strip() for a in some]
            for some in (prompt.answers, prompt.wrong_answers)
        )
        assert texts["IO"] == [right]
        assert texts["S1"] == texts["S2"] == [wrong]
        assert prompt.spans[-1] == Span("end", len(prompt.clean) - 1, len(prompt.clean))
    orders = {[s.name for s in sorted(p.spans, key=lambda s: s.start)][0] for p in task.prompts}
    assert orders == {"IO", "S1"}


@pytest.mark.parametrize("name", GENERATORS)
def test_every_family_marks_every_row_and_its_end(bpe, name):
    task = GENERATORS[name](bpe, 6, 1)
    for prompt in task.prompts:
        names = [span.name for span in prompt.spans]
        assert len(names) >= 2 and names[-1] == "end"


@pytest.mark.parametrize("name", ["induction", "repeated-tokens"])
def test_the_next_token_is_the_answer_and_the_one_before_it_is_the_last(toy, name):
    for prompt in GENERATORS[name](toy, 10, 2).prompts:
        at = {span.name: prompt.clean[span.start] for span in prompt.spans}
        assert (at["next"], at["previous"]) == (prompt.answers[0], prompt.clean[-1])


def test_what_the_conflict_tells_is_marked(toy):
    for prompt in TOY_GENERATORS["conflict"](toy, 5, 0).prompts:
        told = next(span for span in prompt.spans if span.name == "told")
        assert prompt.clean[told.start : told.stop] == prompt.answers


def test_marks_are_taken_out_and_found_again_in_tokens(bpe):
    text, marks = unmark("When {IO:Mary} and {S1:John} went")
    encode = lambda some: bpe.encode(some, add_special_tokens=False)  # noqa: E731
    ids = [7, *encode(text)]  # one token in front, as a BOS is
    found = placed(encode, text, ids, marks)
    for span, tokens in found.items():
        assert tokens is not None and tokens.name == span.name
        assert bpe.decode(ids[tokens.start : tokens.stop]).strip() == text[span.start : span.stop]


def test_marks_inside_a_token_are_not_placed(bpe):
    encode = lambda some: bpe.encode(some, add_special_tokens=False)  # noqa: E731
    for marked in ("When {a:Ma}ry went", "When M{a:ary} went", "When {a:} Mary"):
        text, marks = unmark(marked)
        assert [*placed(encode, text, encode(text), marks).values()] == [None], marked


ROW = {"clean": [1, 2, 3, 4, 5], "corrupt": [1, 2, 3, 4, 6], "answers": [7]}


def _file(tmp_path, **row):
    path = tmp_path / "t.json"
    path.write_text(json.dumps({"prompts": [ROW, {**ROW, **row}]}))
    return path


def test_files_name_ranges_and_are_written_as_they_were_read(tmp_path):
    path = _file(tmp_path, spans={"b": [[1, 2], [3, 4]], "end": 4}, kept=1)
    task = from_json(path)
    assert task.prompts[1].spans == (Span("b", 1, 2), Span("b", 3, 4), Span("end", 4, 5))
    assert task.prompts[1].extra == {"kept": 1}
    to_json(task, path)
    assert from_json(path) == task == replace(from_file(path), name=task.name)


@pytest.mark.parametrize(
    ("spans", "message"),
    [
        ({"far": [3, 9]}, r"a span outside its prompt .*1.*'far' at tokens 3 to 8 of 5"),
        ({"none": [2, 2]}, r"a span outside its prompt"),
        ({"a": [1, 3], "b": [2, 4]}, r"overlapping spans .*1.*'b' at tokens 2 to 3 of 5"),
        ({"rest": 1}, "a name that spans cannot have .*1.*'rest' at tokens 1 to 1"),
        ({"a@b": 1}, "a name that spans cannot have"),
        ({"a": "1"}, r"row 1: the span 'a' is '1'; a token, or \[start, stop\]"),
        ([1, 2], r"row 1: spans are names and token ranges, .* got \[1, 2\]"),
        ("marked", 'row 1: spans are "marked", and there is no clean text'),
    ],
)
def test_spans_that_cannot_be_are_refused_with_their_row(tmp_path, spans, message):
    path = _file(tmp_path, spans=spans)
    with pytest.raises(ValueError, match=message):
        from_json(path)
    with pytest.raises(ValueError, match="row 1"):
        from_file(path)


def test_texts_of_files_may_be_marked(tmp_path, toy):
    row = {
        "clean": "When {IO:Mary} and {S1:John} went to the store, {S2:John} gave a book to",
        "corrupt": "When {IO:Mary} and John went to the store, Paul gave a book to",
        "answers": [" Mary"],
        "spans": "marked",
    }
    path = tmp_path / "t.json"
    path.write_text(json.dumps({"prompts": [row]}))
    (prompt,) = from_json(path, toy).prompts
    assert _said(toy, prompt) == {"IO": ["Mary"], "S1": ["John"], "S2": ["John"]}
    assert "{" not in toy.decode(prompt.clean) + toy.decode(prompt.corrupt)
    path.write_text(json.dumps({"prompts": [{**row, "clean": "When {IO:} Mary and"}]}))
    with pytest.raises(ValueError, match="row 0: the mark 'IO' around '' is empty, or"):
        from_json(path, toy)


def test_tables_have_a_column_of_spans(tmp_path, toy):
    path = tmp_path / "t.csv"
    path.write_text(
        "clean,corrupted,correct_idx,incorrect_idx,spans\n"
        'When Mary went to,When John went to,5,6,"{""name"": [2, 3]}"\n'
        "When {name:Mary} went to,When John went to,5,6,marked\n"
        "When Mary went to,When John went to,5,6,\n"
    )
    for task in (from_csv(path, toy), from_file(path, toy)):
        assert [len(p.spans) for p in task.prompts] == [1, 1, 0]
        assert _said(toy, task.prompts[1]) == {"name": ["Mary"]}
    path.write_text(path.read_text().replace("[2, 3]", "[2, 30]"))
    with pytest.raises(ValueError, match="a span outside its prompt in row 0 .*2 to 29 of"):
        from_csv(path, toy)


def _task(padding: Literal["right", "left"] = "right"):
    pairs = [
        Prompt((1, 2, 3, 4, 5), (1, 2, 3, 4, 6), (7,), spans=(Span("b", 3, 4), Span("a", 1, 2))),
        Prompt((1, 2, 3), (1, 2, 4), ((7, 8, 9),), spans=(Span("a", 0, 2),)),
        Prompt((1, 2), (1, 3), (7,)),
    ]
    return Task("t", tuple(pairs), padding=padding)


def _numbers(batch):
    assert batch.span is not None
    return batch.span


def test_names_are_in_the_order_of_their_places_and_batches_number_them():
    task = _task()
    assert task.span_names == ("rest", "a", "b")
    assert next(task.batches(9)).span is None
    batch = next(task.by_span().batches(9))
    expected = [[0, 1, 0, 2, 0], [1, 1, 0, 0, 0], [0, 0, 0, 0, 0]]
    assert _numbers(batch).tolist() == expected  # tokens of answers are the rest
    assert _numbers(batch[torch.tensor([1, 0])]).tolist() == [expected[1], expected[0]]
    left = next(_task("left").by_span().batches(9))
    assert _numbers(left).tolist()[1:] == [[1, 1, 0, 0, 0], [0, 0, 0, 0, 0]]
    assert _numbers(left)[left.is_token].tolist() == _numbers(batch)[batch.is_token].tolist()


def test_some_spans_are_kept_apart_and_unknown_ones_refused():
    batch = next(_task().by_span(["b"]).batches(9))
    assert _numbers(batch).tolist()[0] == [0, 0, 0, 1, 0]
    first, second = _task().by_span().split(0.67)
    assert first.apart == second.apart == ("rest", "a", "b")
    with pytest.raises(ValueError, match="has no span 'c', but rest, a, b"):
        _task().by_span(["c"])
    with pytest.raises(ValueError, match="no prompt of task 't' has a span; .* from_end"):
        Task("t", (Prompt((1,), (2,), (3,)),)).by_span()


def test_rules_name_positions_and_tokens_from_the_end():
    ended = from_end(_task(), 2)
    assert ended.prompts[1].spans == (Span("end-1", 1, 2), Span("end", 2, 3))
    assert ended.span_names == ("rest", "end-1", "end")
    alike = each_position(_task().take(1))
    assert alike.span_names == ("rest", "0", "1", "2", "3", "4")
    with pytest.raises(ValueError, match=r"differ in length: 2 tokens \(row 2\), 3 tokens"):
        each_position(_task())
    with pytest.raises(ValueError, match="row 2 of task 't' has 2 tokens, fewer than 3"):
        from_end(_task(), 3)
    with pytest.raises(ValueError, match="at least one token from the end, got 0"):
        from_end(_task(), 0)


def test_a_token_a_range_or_several_are_read():
    assert read_spans({"a": 2, "b": [1, 2]}) == (Span("a", 2, 3), Span("b", 1, 2))
    assert read_spans(None) == ()
