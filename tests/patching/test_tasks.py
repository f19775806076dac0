"""Tasks as values, as batches, as text and as files; every refusal with its message."""

import json
from collections.abc import Iterator
from typing import cast

import pytest
import tokenizers
import torch
from jaxtyping import config
from tokenizers import models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from patching.tasks import (
    Prompt,
    Task,
    TextPrompt,
    Tokenizer,
    from_csv,
    from_json,
    to_json,
    to_prompt,
)
from patching.tasks.tokens import encode_answer, encode_prompt

GOOD = Prompt(clean=(1, 5, 6), corrupt=(1, 5, 7), answers=(6,), wrong_answers=(7,))
SHORT = Prompt(clean=(1, 8), corrupt=(2, 8), answers=(6, 9), wrong_answers=())
SPECIAL = ("<unk>", "<s>", "</s>")
PIECES = (*SPECIAL, *"abcd", " a", " b", " c", " d", " ", "ab")


def many(n: int) -> Task:
    """Prompt i holds the token i."""
    return Task("many", tuple(Prompt((i, 1), (i, 2), (3,)) for i in range(n)))


def tokenizer(added: str | None = "<s> $A") -> Tokenizer:
    """Letters, with or without the space before them; `added` is what a text is wrapped in."""
    ids = {piece: i for i, piece in enumerate(PIECES)}
    made = tokenizers.Tokenizer(models.WordLevel(ids, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Split(tokenizers.Regex(" ?[a-d]+"), "isolated")
    if added is not None:
        special = [(name, ids[name]) for name in ("<s>", "</s>")]
        made.post_processor = processors.TemplateProcessing(single=added, special_tokens=special)
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=made, unk_token="<unk>", bos_token="<s>", eos_token="</s>"
    )
    return cast(Tokenizer, wrapped)


def ids(*pieces: str) -> tuple[int, ...]:
    return tuple(PIECES.index(piece) for piece in pieces)


@pytest.fixture
def without_type_checks() -> Iterator[None]:
    """What a user sees: shape and type checks run in tests only."""
    config.update("jaxtyping_disable", True)
    yield
    config.update("jaxtyping_disable", False)


def json_file(folder, content: object):
    path = folder / "rows.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def csv_file(folder, text: str):
    path = folder / "rows.csv"
    path.write_text(text, encoding="utf-8")
    return path


# The checks of a task.


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (Prompt((1, 2), (1,), (3,)), r"unequal token length in row 1 \(row 1: 2 and 1 tokens\)"),
        (Prompt((), (), (3,)), "an empty prompt in row 1"),
        (Prompt((-1,), (1,), (3,)), "negative token ids in row 1"),
        (Prompt((1,), (1,), (3,), (-2,)), "negative token ids in row 1"),
        (Prompt((1,), (1,), (), (3,)), "no answers in row 1"),
        (Prompt((1,), (1,), (3, 4), (5, 4)), "an answer that is also a wrong answer in row 1"),
    ],
)
def test_a_bad_prompt_is_refused_and_its_row_named(bad, message):
    with pytest.raises(ValueError, match=f"task 'pairs' has .*{message}"):
        Task("pairs", (GOOD, bad, GOOD))


def test_many_bad_rows_are_not_all_listed():
    bad = Prompt((1, 2), (1,), (3,))
    with pytest.raises(ValueError, match=r"row 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, \.\.\. \(row 1: 2"):
        Task("pairs", (GOOD, *[bad] * 11))


def test_a_task_without_prompts_is_refused():
    with pytest.raises(ValueError, match="task 'none' has no prompts; at least one is needed"):
        Task("none", ())


def test_an_unknown_padding_side_is_refused(without_type_checks):
    with pytest.raises(ValueError, match="padding is 'right' or 'left', got 'middle'"):
        Task("t", (GOOD,), padding="middle")  # pyright: ignore[reportArgumentType]


def test_pairs_without_contrast_are_refused_only_where_contrast_is_needed():
    same = Prompt((1, 2), (1, 2), (3,))
    task = Task("same", (GOOD, same, same))
    with pytest.raises(ValueError, match="corrupt prompt equal to the clean one in row 1, 2"):
        task.require_contrast()
    Task("good", (GOOD, SHORT)).require_contrast()


# Parts of a task, and its hash.


def test_taking_keeps_the_first_prompts():
    task = many(5)
    assert task.take(2).prompts == task.prompts[:2]
    assert task.take(9).prompts == task.prompts
    assert task.take(2).name == "many"
    with pytest.raises(ValueError, match="take at least one prompt, got 0"):
        task.take(0)


@pytest.mark.parametrize(("fraction", "n_first"), [(0.7, 7), (0.5, 5), (0.04, 0), (0.1, 1)])
def test_a_split_is_disjoint_complete_and_in_order(fraction, n_first):
    task = many(10)
    if n_first == 0:
        with pytest.raises(ValueError, match="split of 10 prompts at 0.04 leaves one part empty"):
            task.split(fraction)
        return
    first, second = (part.prompts for part in task.split(fraction, seed=3))
    assert len(first) == n_first
    assert sorted([*first, *second], key=lambda p: p.clean) == list(task.prompts)
    for part in (first, second):
        assert list(part) == sorted(part, key=lambda p: p.clean)


def test_a_split_hangs_on_nothing_but_its_seed():
    task = many(20)
    assert task.split(0.5, seed=1) == task.split(0.5, seed=1)
    assert task.split(0.5, seed=1) != task.split(0.5, seed=2)


def test_parts_keep_padding_and_what_the_file_said():
    task = Task("t", (GOOD, SHORT), padding="left", extra={"source": "me"})
    for part in (task.take(1), *task.split(0.5)):
        assert (part.name, part.padding, part.extra) == ("t", "left", {"source": "me"})


def test_the_hash_is_that_of_the_tokens_in_their_order():
    task = Task("t", (GOOD, SHORT))
    renamed = Task("u", (GOOD, SHORT), padding="left", extra={"a": 1})
    assert task.hash == renamed.hash
    assert task.hash != Task("t", (SHORT, GOOD)).hash
    for changed in (
        Prompt((1, 5, 5), GOOD.corrupt, GOOD.answers, GOOD.wrong_answers),
        Prompt(GOOD.clean, (1, 5, 8), GOOD.answers, GOOD.wrong_answers),
        Prompt(GOOD.clean, GOOD.corrupt, (8,), GOOD.wrong_answers),
        Prompt(GOOD.clean, GOOD.corrupt, GOOD.answers, ()),
        Prompt(GOOD.clean, GOOD.corrupt, (6, 7), ()),
    ):
        assert task.hash != Task("t", (changed, SHORT)).hash
    assert task.hash == "d36790c0073e70ff", "files written earlier must still agree"


def test_the_longest_prompt_and_the_largest_id_are_over_all_rows():
    task = Task("t", (GOOD, Prompt((1, 2, 3, 4), (1, 2, 3, 4), (5,), (90,))))
    assert (task.max_length, task.max_id) == (4, 90)


# Batches.


def test_a_batch_padded_right_by_hand():
    (batch,) = Task("t", (GOOD, SHORT)).batches(2)
    assert batch.clean.tolist() == [[1, 5, 6], [1, 8, 0]]
    assert batch.corrupt.tolist() == [[1, 5, 7], [2, 8, 0]]
    assert batch.is_token.tolist() == [[True, True, True], [True, True, False]]
    assert batch.answer_pos.tolist() == [2, 1]
    assert batch.answers.tolist() == [[6, 0], [6, 9]]
    assert batch.is_answer.tolist() == [[True, False], [True, True]]
    assert batch.wrong_answers.tolist() == [[7], [0]]
    assert batch.is_wrong_answer.tolist() == [[True], [False]]
    assert batch.can_differ.tolist() == [[False, False, True], [True, True, False]]
    assert not batch.left_padded
    assert batch.clean_logits is None
    assert len(batch) == 2


def test_a_batch_padded_left_by_hand():
    (batch,) = Task("t", (GOOD, SHORT), padding="left").batches(2)
    assert batch.clean.tolist() == [[1, 5, 6], [0, 1, 8]]
    assert batch.corrupt.tolist() == [[1, 5, 7], [0, 2, 8]]
    assert batch.is_token.tolist() == [[True, True, True], [False, True, True]]
    assert batch.answer_pos.tolist() == [2, 2]
    assert batch.answers.tolist() == [[6, 0], [6, 9]]
    assert batch.can_differ.tolist() == [[False, False, True], [False, True, True]]
    assert batch.left_padded


def test_rows_of_one_length_need_no_padding_whatever_the_side():
    (batch,) = Task("t", (GOOD, GOOD), padding="left").batches(2)
    assert not batch.left_padded
    assert batch.is_token.all()


def test_a_pair_that_does_not_differ_can_differ_nowhere():
    (batch,) = Task("t", (Prompt((1, 2), (1, 2), (3,)),)).batches(1)
    assert not batch.can_differ.any()


def test_everything_after_the_first_difference_can_differ():
    (batch,) = Task("t", (Prompt((1, 2, 3, 4), (1, 9, 3, 4), (3,)),)).batches(1)
    assert batch.can_differ.tolist() == [[False, True, True, True]]


def test_batches_hold_every_prompt_once_in_order():
    batches = list(many(5).batches(2))
    assert [len(batch) for batch in batches] == [2, 2, 1]
    assert torch.cat([batch.clean[:, 0] for batch in batches]).tolist() == [0, 1, 2, 3, 4]


# Text.


def test_a_prompt_gets_one_bos_where_the_tokenizer_adds_one():
    assert encode_prompt(tokenizer(), "a b") == ids("<s>", "a", " b")
    assert encode_prompt(tokenizer(added=None), "a b") == ids("a", " b")


def test_a_bos_that_the_text_spells_out_is_not_doubled():
    assert encode_prompt(tokenizer(), "<s>a b") == ids("<s>", "a", " b")
    assert encode_prompt(tokenizer(added=None), "<s>a b") == ids("<s>", "a", " b")


def test_a_closing_token_is_left_away():
    assert tokenizer("<s> $A </s>").encode("a") == list(ids("<s>", "a", "</s>"))
    assert encode_prompt(tokenizer("<s> $A </s>"), "a b") == ids("<s>", "a", " b")
    assert encode_prompt(tokenizer("$A </s>"), "a b") == ids("a", " b")


def test_an_empty_prompt_is_the_bos_alone():
    assert encode_prompt(tokenizer(), "") == ids("<s>")


@pytest.mark.parametrize("added", ["<s> $A", None, "<s> $A </s>"])
def test_an_answer_is_the_token_that_continues_its_prompt(added):
    assert encode_answer(tokenizer(added), "a b", " c") == ids(" c")[0]
    assert encode_answer(tokenizer(added), "<s>a b", " c") == ids(" c")[0]


def test_an_answer_keeps_all_its_tokens_unless_told_otherwise():
    assert encode_answer(tokenizer(), "a b", " c d") == ids(" c", " d")
    assert encode_answer(tokenizer(), "a b", " c d", first_token=True) == ids(" c")[0]


def test_an_answer_that_merges_with_its_prompt_is_refused():
    with pytest.raises(ValueError, match=r"'b' merges with the end of its prompt \.\.\.'d a'"):
        encode_answer(tokenizer(), "d a", "b")
    with pytest.raises(ValueError, match="move the space .* from the prompt to the answer"):
        encode_answer(tokenizer(), "a ", "b", first_token=True)


def test_an_answer_that_adds_nothing_is_refused():
    with pytest.raises(ValueError, match="the answer '' adds no token to its prompt"):
        encode_answer(tokenizer(), "a b", "")


def test_a_pair_of_texts_becomes_ids_and_keeps_its_texts():
    prompt = to_prompt(tokenizer(), TextPrompt("a b", "a c", (" b", " d"), (" c",)))
    assert prompt == Prompt(
        ids("<s>", "a", " b"), ids("<s>", "a", " c"), ids(" b", " d"), ids(" c")
    )
    assert prompt.extra == {"clean_text": "a b", "corrupt_text": "a c"}
    several = TextPrompt("a b", "a c", (" b d",), (" c",))
    assert to_prompt(tokenizer(), several).answers == (ids(" b", " d"),)
    assert to_prompt(tokenizer(), several, first_token=True).answers == ids(" b")


# JSON.


def test_ids_in_a_file_are_taken_as_they_are(tmp_path):
    rows = [{"clean": [5, 6], "corrupt": [5, 7], "answers": 4, "wrong_answers": [3, 2]}]
    for some in (None, tokenizer()):
        task = from_json(json_file(tmp_path, {"prompts": rows}), some)
        assert task.prompts == (Prompt((5, 6), (5, 7), (4,), (3, 2)),)
        assert task.name == "rows"


def test_text_in_a_file_is_encoded(tmp_path):
    rows = [{"clean": "a b", "corrupt": "a c", "answers": [" b", 12], "wrong_answers": " c"}]
    task = from_json(json_file(tmp_path, {"name": "letters", "prompts": rows}), tokenizer())
    assert task.prompts == (
        Prompt(ids("<s>", "a", " b"), ids("<s>", "a", " c"), (*ids(" b"), 12), ids(" c")),
    )
    assert task.name == "letters"


def test_wrong_answers_may_be_absent(tmp_path):
    rows = [{"clean": [5], "corrupt": [6], "answers": [4]}]
    assert from_json(json_file(tmp_path, {"prompts": rows})).prompts[0].wrong_answers == ()


def test_answers_of_several_tokens_are_cut_only_if_asked(tmp_path):
    path = json_file(tmp_path, {"prompts": [{"clean": "a", "corrupt": "b", "answers": [" c d"]}]})
    assert from_json(path, tokenizer()).prompts[0].answers == (ids(" c", " d"),)
    assert from_json(path, tokenizer(), first_token=True).prompts[0].answers == ids(" c")


def test_what_a_file_says_beyond_the_form_survives_the_trip(tmp_path):
    content = {
        "name": "kept",
        "seq_labels": ["x", "y"],
        "prompts": [
            {"clean": [1, 2], "corrupt": [1, 3], "answers": [4], "wrong_answers": [], "who": "é"},
            {"clean": [1, 5], "corrupt": [1, 6], "answers": [4, 5], "wrong_answers": [7]},
        ],
    }
    task = from_json(json_file(tmp_path, content))
    assert task.extra == {"seq_labels": ["x", "y"]}
    assert task.prompts[0].extra == {"who": "é"}
    again = tmp_path / "again.json"
    to_json(task, again)
    assert json.loads(again.read_text(encoding="utf-8")) == content
    assert from_json(again) == task
    assert from_json(again).hash == task.hash


def test_generated_texts_are_written_beside_their_ids(tmp_path):
    prompt = to_prompt(tokenizer(), TextPrompt("a b", "a c", (" b",), (" c",)))
    to_json(Task("t", (prompt,)), tmp_path / "t.json")
    again = from_json(tmp_path / "t.json").prompts[0]
    assert again == prompt
    assert again.extra == {"clean_text": "a b", "corrupt_text": "a c"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "rows.json is not a whole JSON file: .* line 1"),
        ("[]", 'rows.json lacks the list "prompts"'),
        ('{"prompts": {}}', 'lacks the list "prompts"'),
        ({"prompts": []}, "task 'rows' has no prompts"),
    ],
)
def test_a_file_of_another_form_is_refused(content, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        from_json(json_file(tmp_path, content))


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("a b", "is not an object with keys clean, corrupt, answers, wrong_answers"),
        ({"clean": [1], "wrong_answers": []}, "lacks corrupt, answers"),
        ({"clean": [1.5], "corrupt": [1], "answers": [2]}, r"text or a list of .* ids, got \[1.5"),
        ({"clean": [True], "corrupt": [1], "answers": [2]}, r"list of token ids, got \[True\]"),
        ({"clean": 7, "corrupt": [1], "answers": [2]}, "a prompt is text or a list .* got 7"),
        ({"clean": [1], "corrupt": ["a"], "answers": [2]}, r"a prompt is text .* got \['a'\]"),
        (
            {"clean": [1], "corrupt": [1], "answers": [None]},
            "text, a token id or a list of them, got None",
        ),
        (
            {"clean": [1], "corrupt": [1], "answers": [False]},
            "text, a token id or a list of them, got False",
        ),
        ({"clean": [1], "corrupt": [1], "answers": [" a"]}, "' a' is text, its prompt token ids"),
        ({"clean": "a", "corrupt": "b", "answers": [""]}, "adds no token"),
        ({"clean": "d a", "corrupt": "d b", "answers": ["b"]}, "merges with the end"),
    ],
)
def test_a_malformed_row_is_refused_and_named(row, message, tmp_path):
    good = {"clean": [1], "corrupt": [2], "answers": [3]}
    path = json_file(tmp_path, {"prompts": [good, row]})
    with pytest.raises(ValueError, match=f"rows.json: row 1:? .*{message}"):
        from_json(path, tokenizer())


def test_a_row_that_breaks_a_rule_of_tasks_is_named(tmp_path):
    good, bad = ([1], [2]), ([1, 2], [3])
    rows = [{"clean": a, "corrupt": b, "answers": [3]} for a, b in (good, bad)]
    with pytest.raises(ValueError, match=r"'rows' has clean .* row 1 \(row 1: 2 and 1 tokens\)"):
        from_json(json_file(tmp_path, {"prompts": rows}))


def test_text_without_a_tokenizer_is_refused(tmp_path):
    path = json_file(tmp_path, {"prompts": [{"clean": "a", "corrupt": "b", "answers": [3]}]})
    with pytest.raises(ValueError, match="row 0: the file holds text, and the model has no token"):
        from_json(path)


# CSV.

HEADER = "clean,corrupted,correct_idx,incorrect_idx"


def test_a_csv_by_hand(tmp_path):
    text = f'{HEADER},country\n"a b",a c,3,"[4, 5]",x\na,b,[3],,\n'
    task = from_csv(csv_file(tmp_path, text), tokenizer())
    assert task.name == "rows"
    assert task.prompts == (
        Prompt(ids("<s>", "a", " b"), ids("<s>", "a", " c"), (3,), (4, 5)),
        Prompt(ids("<s>", "a"), ids("<s>", "b"), (3,), ()),
    )
    assert [prompt.extra for prompt in task.prompts] == [{"country": "x"}, {"country": ""}]


def test_a_csv_that_a_spreadsheet_marked_is_read(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text(f"{HEADER}\na,b,3,4\n", encoding="utf-8-sig")
    assert from_csv(path, tokenizer()).prompts[0].answers == (3,)


def test_columns_kept_from_a_csv_are_written_to_json(tmp_path):
    task = from_csv(csv_file(tmp_path, f"{HEADER},who\na,b,3,4,me\n"), tokenizer())
    to_json(task, tmp_path / "rows.json")
    assert from_json(tmp_path / "rows.json").prompts[0].extra == {"who": "me"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("clean,corrupted\na,b\n", "lacks the column correct_idx, incorrect_idx; needed: "),
        ("", "lacks the column clean, corrupted"),
        (f"{HEADER}\n", "task 'rows' has no prompts"),
        (f"{HEADER}\na,b,3,4\na,b,3.5,4\n", "row 1: '3.5' is not a token id or a list of them"),
        (f"{HEADER}\na,b,3,[4;5]\n", r"row 0: '\[4;5\]' is not a token id"),
        (f"{HEADER}\na,b,3,4\na,b\n", "row 1 has more or fewer cells than the header"),
        (f"{HEADER}\na,b,3,4,5\n", "row 0 has more or fewer cells than the header"),
        (f"{HEADER}\na,b,,4\n", "task 'rows' has no answers in row 0"),
        (f"{HEADER}\na,a b,3,4\n", "'rows' has .* unequal token length in row 0"),
    ],
)
def test_a_malformed_csv_is_refused(text, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        from_csv(csv_file(tmp_path, text), tokenizer())


def test_prompts_of_one_length_are_those_of_the_commonest_or_the_one_asked_for():
    prompts = [Prompt((1,) * n, (2,) * n, (3,)) for n in (4, 2, 3, 2, 3)]
    task = Task("ragged", tuple(prompts))
    assert [len(p.clean) for p in task.of_length().prompts] == [2, 2]  # seen before 3
    assert len(task.of_length(4)) == 1
    with pytest.raises(ValueError, match="'ragged' has no prompts of 5 tokens, but of 2, 3, 4"):
        task.of_length(5)
