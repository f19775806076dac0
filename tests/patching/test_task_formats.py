"""Files of auto-circuit, EAP-IG and MIB: which is which, every label form, every refusal."""

import csv
import json
from typing import cast

import pytest
from tokenizers import Regex, pre_tokenizers

from patching.models.word_level import word_level_tokenizer
from patching.tasks import FORMATS, Prompt, Tokenizer, from_csv, from_file, from_json, words

KNOWN = (
    "Mary John Tom met gave a drink to . box is red blue Answer : A B C D sum of and the year keys "
    "key lasted from"
).split()
VERBS = [form for verb in words.VERBS for form in verb]


def _tokenizer() -> Tokenizer:
    """One token per word, digits in pairs; ids in the order of `KNOWN`, after three special."""
    pairs = pre_tokenizers.Split(Regex(r"\d\d"), behavior="isolated")
    cutter = pre_tokenizers.Sequence([pairs, pre_tokenizers.Whitespace()])
    vocabulary = [*KNOWN, *words.TWO_DIGITS, *VERBS]
    return cast(Tokenizer, word_level_tokenizer(vocabulary, cutter, max_length=64))


TOKENIZER = _tokenizer()


def ids(text: str) -> tuple[int, ...]:
    return tuple(TOKENIZER.encode(text, add_special_tokens=False))


def one(text: str) -> int:
    (token,) = ids(text)
    return token


@pytest.fixture
def write(tmp_path):
    def write(content, name="rows.json"):
        path = tmp_path / name
        text = content if isinstance(content, str) else json.dumps(content)
        path.write_text(text, encoding="utf-8")
        return path

    return write


@pytest.fixture
def table(tmp_path):
    def table(*rows):
        path = tmp_path / "rows.csv"
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows)
        return path

    return table


# auto-circuit.

PAIR = {"clean": "Mary met John", "corrupt": "Tom met John", "answers": [" Mary"]}


def test_auto_circuits_json_is_read_as_from_json_reads_it(write):
    content = {
        "seq_labels": ["A", "met", "B"],
        "word_idxs": {"A": 0, "B": 2},
        "prompts": [{**PAIR, "wrong_answers": [" Tom"]}],
    }
    task = from_file(write(content), TOKENIZER)
    assert task == from_json(write(content), TOKENIZER)
    assert task.extra == {"seq_labels": ["A", "met", "B"], "word_idxs": {"A": 0, "B": 2}}
    assert task == from_file(write(content), TOKENIZER, "auto-circuit")


def test_a_file_of_ids_needs_no_tokenizer(write):
    rows = [{"clean": [5, 6], "corrupt": [5, 7], "answers": [4]}]
    assert from_file(write({"name": "mine", "prompts": rows})).name == "mine"


def test_answers_of_several_tokens_are_cut_only_if_asked(write):
    path = write({"prompts": [{**PAIR, "answers": [" Mary gave"]}]})
    assert from_file(path, TOKENIZER).prompts[0].answers == (ids("Mary gave"),)
    assert from_file(path, TOKENIZER, first_token=True).prompts[0].answers == ids("Mary")


# EAP-IG.

TEXTS = {"clean": "Mary met John", "corrupted": "Tom met John"}


def test_eap_igs_csv_is_read_as_from_csv_reads_it(table):
    path = table({**TEXTS, "correct_idx": 3, "incorrect_idx": "[5, 4]", "country": "x"})
    task = from_file(path, TOKENIZER)
    assert task == from_csv(path, TOKENIZER)
    assert task.prompts[0].extra["country"] == "x"


@pytest.mark.parametrize(
    "columns",
    [
        ("correct_idx", "incorrect_idx"),
        ("answers_idx", "corrupted_answers_idx"),
        ("country_idx", "corrupted_country_idx"),
        ("clean_answer_idx", "corrupted_answer_idx"),
    ],
)
def test_each_pair_of_id_columns_is_a_label(table, write, columns):
    right, wrong = columns
    expected = Prompt((1, *ids(TEXTS["clean"])), (1, *ids(TEXTS["corrupted"])), (3, 4), (5,))
    path = table({**TEXTS, right: "[3, 4]", wrong: "5"})
    assert from_file(path, TOKENIZER).prompts == (expected,)
    path = write([{**TEXTS, right: [3, 4], wrong: 5}])
    assert from_file(path, TOKENIZER).prompts == (expected,)


def test_answers_right_for_both_prompts_count_for_neither(table):
    path = table({**TEXTS, "answers_idx": "[3, 4, 9]", "corrupted_answers_idx": "[9, 5]"})
    (prompt,) = from_file(path, TOKENIZER).prompts
    assert (prompt.answers, prompt.wrong_answers) == ((3, 4), (5,))


YEARS = {
    "clean": "lasted from the year 1732 to the year 17",
    "corrupted": "lasted from the year 1701 to the year 17",
}


@pytest.mark.parametrize(
    "label", [{"correct_idx": 32}, {"year": 1732}, {"correct_idx": "32.0"}, {"label": 32}]
)
def test_greater_thans_label_is_the_start_year(table, label):
    (prompt,) = from_file(table({**YEARS, **label}), TOKENIZER).prompts
    assert prompt.answers == tuple(one(f"{year}") for year in range(33, 100))
    assert prompt.wrong_answers == tuple(one(f"{year:02d}") for year in range(33))


def test_agreements_label_is_the_number_of_the_subject(table):
    texts = {"clean": "the keys", "corrupted": "the key"}
    path = table({**texts, "plural": 1}, {**texts, "plural": 0})
    first, second = from_file(path, TOKENIZER).prompts
    assert {*first.answers} == {one(plural) for _, plural in words.VERBS}
    assert {*first.wrong_answers} == {one(singular) for singular, _ in words.VERBS}
    assert (second.answers, second.wrong_answers) == (first.wrong_answers, first.answers)


def test_another_column_may_hold_the_corrupt_prompt(table):
    row = {**TEXTS, "corrupted_hard": "John met John", "correct_idx": 3, "incorrect_idx": 4}
    task = from_file(table(row), TOKENIZER, counterfactual="corrupted_hard")
    assert task.prompts[0].corrupt == (1, *ids("John met John"))
    with pytest.raises(
        ValueError, match="row 0: lacks the text corrupted_soft; it has clean, corr"
    ):
        from_file(table(row), TOKENIZER, counterfactual="corrupted_soft")


@pytest.mark.parametrize("cell", ["3.0", "[3.0, 4.00]", 3.0])
def test_ids_that_went_through_a_spreadsheet_are_ids(table, write, cell):
    expected = (3, 4) if "[" in str(cell) else (3,)
    row = {**TEXTS, "correct_idx": cell, "incorrect_idx": "5.0"}
    for read in (from_file, from_csv):
        assert read(table(row), TOKENIZER).prompts[0].answers == expected
    rows = [{"clean": [5.0, 6], "corrupt": [5, 7], "answers": [4.0]}]
    (prompt,) = from_file(write({"prompts": rows})).prompts
    assert (prompt.clean, prompt.answers) == ((5, 6), (4,))
    with pytest.raises(ValueError, match=r"row 0: '3\.5' is not a token id"):
        from_file(table({**row, "correct_idx": "3.5"}), TOKENIZER)


# feature-circuits.

MARKS = {
    "clean_prefix": "the keys",
    "patch_prefix": "the key",
    "clean_answer": " are",
    "patch_answer": " is",
    "case": "plural_singular",
}


def test_feature_circuits_json_lines_are_read(write):
    path = write(json.dumps(MARKS) + "\n" + json.dumps(MARKS) + "\n", "simple_test.json")
    prompt = from_file(path, TOKENIZER).prompts[1]
    assert prompt.clean == (1, *ids("the keys"))
    assert prompt.corrupt == (1, *ids("the key"))
    assert (prompt.answers, prompt.wrong_answers) == (ids("are"), ids("is"))
    assert prompt.extra["case"] == "plural_singular"


def test_a_row_of_feature_circuits_needs_all_four_texts(write):
    with pytest.raises(ValueError, match="row 1: lacks the text patch_prefix; it has clean_pref"):
        from_file(write([MARKS, {**MARKS, "patch_prefix": None}]), TOKENIZER)


# Ids of another tokenizer.

GAVE = {"clean": "Mary and John met . John gave a drink to", "corrupted": "Mary and Tom met . John"}
GAVE["corrupted"] += " gave a drink to"


class Shifted:
    """The same words under other ids."""

    bos_token_id = 1

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        found = TOKENIZER.encode(text, add_special_tokens=add_special_tokens)
        return [i if i < 3 else 3 + (i + 4) % 90 for i in found]


class Pieces:
    """Letters, and words with the space before them: half of all ids continue a word."""

    bos_token_id = None
    words = tuple(f" {word}" for word in KNOWN)
    letters = tuple("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.:")

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        found = []
        while text:
            piece = next((p for p in (*self.words, *self.letters) if text.startswith(p)), text[0])
            found.append((*self.letters, *self.words, " ").index(piece))
            text = text[len(piece) :]
        return found

    def decode(self, ids: list[int]) -> str:
        return "".join((*self.letters, *self.words, " ")[i] for i in ids)


def test_where_ids_and_text_disagree_the_text_is_taken_and_said(table):
    rows = [{**GAVE, "country_idx": 90, "corrupted_country_idx": 91}] * 3
    rows = [{**row, "country": "Mary", "corrupted_country": "['Tom', 'John']"} for row in rows]
    with pytest.warns(UserWarning, match="country_idx holds ids of another tokenizer in 3 of 3"):
        task = from_file(table(*rows), TOKENIZER)
    assert task.prompts[0].answers == ids("Mary")
    assert task.prompts[0].wrong_answers == (*ids("Tom"), *ids("John"))


def test_ids_that_say_what_their_text_says_stay(table):
    row = {**GAVE, "country_idx": one("Mary"), "corrupted_country_idx": one("John")}
    task = from_file(table({**row, "country": "Mary", "corrupted_country": "John"}), TOKENIZER)
    assert task.prompts[0].answers == ids("Mary")


@pytest.mark.parametrize("wrong", [("s", " John"), (" Mary", "x")])
def test_ids_that_do_not_continue_their_prompts_are_refused_with_what_they_say(table, wrong):
    tokenizer = Pieces()
    right = tokenizer.encode(" Mary") + tokenizer.encode(" John")
    others = [tokenizer.encode(word)[0] for word in wrong]
    columns = "correct_idx", "incorrect_idx"
    good, bad = ({**GAVE, **dict(zip(columns, some, strict=True))} for some in (right, others))
    assert len(from_file(table(*[good] * 5, bad), cast(Tokenizer, tokenizer))) == 6, (
        "one may be odd"
    )
    with pytest.raises(ValueError, match=r"2 of 6 rows hold token ids .* row 4: .*drink to' is"):
        from_file(table(*[good] * 4, bad, bad), cast(Tokenizer, tokenizer))


def test_ids_that_disagree_with_the_text_of_their_prompt_are_refused(write):
    text = "Mary met John"
    rows = [{"clean": [1, *ids(text)], "corrupt": [1, *ids("Tom met John")], "answers": [4]}]
    path = write({"prompts": [{**row, "clean_text": text} for row in rows * 3]})
    assert len(from_file(path, TOKENIZER)) == 3

    class Other(Shifted):
        decode = staticmethod(TOKENIZER.decode)

    with pytest.raises(ValueError, match="3 of 3 rows .* row 0: the text 'Mary met John' has o"):
        from_file(path, cast(Tokenizer, Other()))


# MIB.

IOI = {
    "prompt": "Mary and John met . John gave a drink to",
    "choices": ["Mary", "John"],
    "answerKey": 0,
    "metadata": {"indirect_object": "Mary", "subject": "John"},
    "abc_counterfactual": {
        "prompt": "Mary and John met . Tom gave a drink to",
        "choices": ["Mary", "John"],
        "answerKey": 0,
    },
    "s2_io_flip_counterfactual": {
        "prompt": "Mary and John met . Mary gave a drink to",
        "choices": ["Mary", "John"],
        "answerKey": 1,
    },
}
CHOICE = {
    "prompt": "a box is red . A red B blue Answer :",
    "choices": {"label": ["A", "B"], "text": ["red", "blue"]},
    "answerKey": 0,
    "symbol_counterfactual": {
        "prompt": "a box is red . C red D blue Answer :",
        "choices": {"label": ["C", "D"], "text": ["red", "blue"]},
        "answerKey": 0,
    },
}
SUM = {
    "prompt": "sum of 13 and 25 is ",
    "label": 38,
    "operator": "+",
    "random_counterfactual": {"prompt": "sum of 44 and 11 is ", "label": 55},
}


@pytest.mark.parametrize("name", ["rows.json", "rows.jsonl", "rows.csv"])
def test_mibs_rows_are_read_from_json_json_lines_and_csv(write, table, name):
    if name == "rows.csv":
        path = table({**IOI, "choices": json.dumps(IOI["choices"])})
        with path.open() as file:
            assert "{'prompt'" in file.read(), "records as Python prints them"
    else:
        path = write([IOI] if name == "rows.json" else json.dumps(IOI) + "\n", name)
    (prompt,) = from_file(path, TOKENIZER).prompts
    assert prompt.clean == (1, *ids(IOI["prompt"]))
    assert prompt.corrupt == (1, *ids(IOI["s2_io_flip_counterfactual"]["prompt"]))
    assert (prompt.answers, prompt.wrong_answers) == (ids("Mary"), ids("John"))
    assert prompt.extra["metadata"] == IOI["metadata"]


def test_mibs_rows_are_read_from_parquet(tmp_path, write):
    parquet = pytest.importorskip("pyarrow.parquet")
    from pyarrow import Table

    path = tmp_path / "rows.parquet"
    parquet.write_table(Table.from_pylist([IOI]), path)
    (prompt,), (same,) = (from_file(file, TOKENIZER).prompts for file in (path, write([IOI])))
    assert (prompt.clean, prompt.corrupt) == (same.clean, same.corrupt)
    assert (prompt.answers, prompt.wrong_answers) == (ids("Mary"), ids("John"))


def test_a_broken_parquet_file_is_refused(write):
    pytest.importorskip("pyarrow.parquet")
    with pytest.raises(ValueError, match=r"rows\.parquet is no whole parquet file"):
        from_file(write("PAR1 and no more", "rows.parquet"), TOKENIZER)


@pytest.mark.parametrize("name", ["abc", "abc_counterfactual"])
def test_any_counterfactual_may_be_asked_for(write, name):
    (prompt,) = from_file(write([IOI]), TOKENIZER, counterfactual=name).prompts
    assert prompt.corrupt == (1, *ids(IOI["abc_counterfactual"]["prompt"]))
    assert (prompt.answers, prompt.wrong_answers) == (ids("Mary"), ids("John"))


def test_letters_and_sums_are_wrong_as_their_counterfactual_has_them(write):
    lines = f"{json.dumps(CHOICE)}\n\n{json.dumps(SUM)}\n"
    choice, result = from_file(write(lines, "rows.jsonl"), TOKENIZER).prompts
    assert (choice.answers, choice.wrong_answers) == (ids("A"), ids("C"))
    assert (result.answers, result.wrong_answers) == (ids("38"), ids("55"))


def test_where_the_counterfactual_keeps_the_answer_the_other_choices_are_wrong(write):
    same = {**CHOICE["symbol_counterfactual"], "choices": CHOICE["choices"]}
    row = {**CHOICE, "symbol_counterfactual": {**same, "prompt": "a box is red . A red B red :"}}
    row["prompt"] = "a box is red . A red B blue :"
    (prompt,) = from_file(write([row]), TOKENIZER).prompts
    assert (prompt.answers, prompt.wrong_answers) == (ids("A"), ids("B"))


# What cannot be used.

GOOD = {**TEXTS, "correct_idx": 3, "incorrect_idx": 4}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"clean": 5}, "lacks the text clean; it has clean, corrupted, correct_idx"),
        ({"corrupted": None}, "lacks the text corrupted"),
        ({"correct_idx": "3.5"}, "'3.5' is not a token id or a list of them"),
        ({"correct_idx": [3, "x"]}, r"\[3, 'x'\] is not a token id"),
        ({"correct_idx": []}, "no answers"),
        ({"correct_idx": -3}, "negative token ids"),
        ({"corrupted": "Tom met"}, "clean and corrupt prompts of unequal token length"),
        ({"clean": "", "corrupted": ""}, None),
    ],
)
def test_bad_rows_of_eap_ig_are_named(write, row, message):
    path = write([GOOD, {**GOOD, **row}])
    if message is None:  # a prompt of nothing but the BOS is a prompt
        assert from_file(path, TOKENIZER).prompts[1].clean == (1,)
        return
    with pytest.raises(
        ValueError, match=f"rows.json: 1 of 2 rows that cannot .*: row 1: {message}"
    ):
        from_file(path, TOKENIZER)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (YEARS, "lacks a label: correct_idx, incorrect_idx; answers_idx, .* or plural"),
        ({**YEARS, "year": "soon"}, "the year 'soon' is not a number of two or four digits"),
        ({**YEARS, "year": 1799}, "no two digits above 99 are one token after '17'"),
        ({**TEXTS, "plural": 2}, "plural is 0 or 1, got 2"),
        ("Mary", "not an object with fields, but 'Mary'"),
    ],
)
def test_bad_labels_of_eap_ig_are_named(write, row, message):
    with pytest.raises(ValueError, match=f"row 1: {message}"):
        from_file(write([GOOD, row]), TOKENIZER, "eap-ig")


def test_verbs_that_are_cut_are_counted(write):
    cutter = pre_tokenizers.Whitespace()
    few = cast(Tokenizer, word_level_tokenizer(["the", "key"], cutter, max_length=8))
    path = write([{"clean": "the key", "corrupted": "key the", "plural": 0}])
    with pytest.raises(ValueError, match=r"verb pairs after \.\.\.'the key': .* offers 0 of 6"):
        from_file(path, few)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"prompt": 5}, "lacks the text prompt, or its counterfactual does"),
        ({"s2_io_flip_counterfactual": None}, "its s2_io_flip_counterfactual is empty"),
        ({"s2_io_flip_counterfactual": "{x"}, "s2_io_flip_counterfactual: '{x'"),
        ({"answerKey": 2}, "needs a label, or choices and the place of the right one; got 2"),
        ({"answerKey": None}, "needs a label, or choices and the place of .* got None"),
        ({"choices": "Mary"}, "needs a label, or choices"),
    ],
)
def test_bad_rows_of_mib_are_named(write, row, message):
    with pytest.raises(ValueError, match=f"1 of 2 rows that cannot be used: row 1: {message}"):
        from_file(write([IOI, {**IOI, **row}]), TOKENIZER)


def test_counterfactuals_that_are_not_there_are_refused_with_those_that_are(write):
    with pytest.raises(ValueError, match=r"counterfactual \('swap'\); give .* one of abc_counterf"):
        from_file(write([IOI]), TOKENIZER, counterfactual="swap")
    row = {key: value for key, value in IOI.items() if not key.startswith("s2")}
    with pytest.raises(ValueError, match=r"counterfactual \(none of its own evaluation\); give"):
        from_file(write([row]), TOKENIZER)


def test_cells_too_many_or_too_few_are_named(write):
    text = "clean,corrupted,correct_idx,incorrect_idx\nMary,Tom,3,4\nMary,Tom\nMary,Tom,3,4,5\n"
    with pytest.raises(ValueError, match="2 of 3 .* row 1, 2: more or fewer cells than the header"):
        from_file(write(text, "rows.csv"), TOKENIZER)


def test_text_needs_a_tokenizer(write):
    with pytest.raises(ValueError, match="the file holds text, and the model has no tokenizer"):
        from_file(write([GOOD]))


def test_reasons_are_shown_with_their_rows_the_commonest_first(write):
    bad = [{**GOOD, "correct_idx": []} for _ in range(7)]
    odd = [{**GOOD, "correct_idx": f"x{i}"} for i in range(6)]
    with pytest.raises(ValueError) as caught:
        from_file(write([GOOD, *odd, *bad]), TOKENIZER)
    assert (
        "13 of 14 rows that cannot be used: row 7, 8, 9, 10, 11, ...: no answers; row 1: 'x0'"
        in (str(caught.value))
    )
    assert str(caught.value).endswith("; 2 more reasons; drop=True (--drop-rows) leaves them out")


def test_bad_rows_are_left_out_if_asked_and_told(write):
    path = write([GOOD, {**GOOD, "correct_idx": []}, {**GOOD, "clean": "John met John"}])
    with pytest.warns(UserWarning, match="rows.json: left out 1 of 3 rows .* row 1: no answers"):
        task = from_file(path, TOKENIZER, drop=True)
    assert (len(task), task.extra) == (2, {"dropped": [1]})
    assert len(from_file(write([GOOD]), TOKENIZER, drop=True)) == 1
    path = write([{**GOOD, "correct_idx": []}])
    with pytest.raises(ValueError, match="1 of 1 rows that cannot be used: row 0: no answers$"):
        from_file(path, TOKENIZER, drop=True)


# Which format.


@pytest.mark.parametrize(
    ("content", "name", "message"),
    [
        ("{", "rows.json", "rows.json is not JSON: .* line 1"),
        ('{"a": 1}\n{"a"}', "rows.jsonl", "row 1 is not JSON"),
        ('{"a": 1}', "rows.json", 'lacks the list "prompts", and is no list of rows'),
        ("5", "rows.json", 'lacks the list "prompts"'),
        ("[]", "rows.json", "has no prompts; at least one is needed"),
        ('{"prompts": []}', "rows.json", "has no prompts"),
        (
            "clean,label\na,b\n",
            "rows.csv",
            r"format of .*\(its first row has clean, label\)\. auto",
        ),
        (
            "[5]",
            "rows.json",
            r"first row has no fields\). auto-circuit: .*; eap-ig: .*; mib: fields",
        ),
    ],
)
def test_files_of_no_known_form_are_refused(write, content, name, message):
    with pytest.raises(ValueError, match=message):
        from_file(write(content, name), TOKENIZER)


def test_unknown_formats_are_refused(write):
    with pytest.raises(ValueError, match="no format 'acdc'; there are auto-circuit, eap-ig, mib"):
        from_file(write([GOOD]), TOKENIZER, "acdc")
    assert set(FORMATS) == {"auto-circuit", "eap-ig", "mib", "feature-circuits"}


def test_lines_end_where_json_says_and_one_is_enough(write):
    line = json.dumps({**PAIR, "wrong_answers": [" Tom"], "note": "a\u2028b"}, ensure_ascii=False)
    for n in (1, 2):
        task = from_file(write("\n".join([line] * n), "rows.jsonl"), TOKENIZER)
        assert len(task) == n
