"""Labels and examples of features: files that come back as they were, contexts against a loop."""

import pytest
import torch

from patching.dictionaries import (
    Dictionaries,
    Dictionary,
    Labels,
    feature_examples,
    load_examples,
    load_labels,
    own_text,
    text_rows,
)

LABELS = Labels({("m3", 17): 'names, of "people"', ("r0.post", 2): "é\u202e<b>"})


@pytest.fixture(scope="module")
def dictionary(toy):
    random = torch.Generator().manual_seed(0)
    width = toy.blocks[0].w_o.shape[2]
    w_enc, w_dec = torch.randn(2, width, 7, generator=random)
    zero = torch.zeros(7)
    return Dictionary(
        "random", "r1.post", "r1.post", w_enc, zero - 3, w_dec.T, torch.zeros(width), zero
    )


@pytest.mark.parametrize("suffix", ["json", "csv"])
def test_labels_come_back_as_they_were(tmp_path, suffix):
    LABELS.save(tmp_path / f"labels.{suffix}")
    assert load_labels(tmp_path / f"labels.{suffix}") == LABELS


def test_labels_can_be_changed_and_taken_away():
    found = LABELS.replaced({("m3", 17): "", ("m3", 18): "more"})
    assert dict(found) == {("r0.post", 2): "é\u202e<b>", ("m3", 18): "more"}


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.txt", "", "labels are kept in .json or .csv files, got '.txt'"),
        ("a.json", "{}", "it lacks format, labels"),
        ("a.json", '{"format": "x", "labels": {}}', "no labels of the kind 'feature labels 1'"),
        ("a.csv", "place,label\nm3,x\n", "its columns are .*; place, feature, label are needed"),
        ("a.csv", "place,feature,label\nm3,x,y\n", "a feature is a number from 0 on, got 'x'"),
        ("a.csv", "place,feature,label\nm3,1,y\nm3,1,z\n", "feature 1 of m3 has two labels"),
        ("a.csv", f"place,feature,label\nm3,1,{'y' * 2001}\n", "at most 2,000 letters"),
    ],
)
def test_files_that_are_no_labels_are_refused(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=message):
        load_labels(tmp_path / name)


def test_examples_are_where_a_feature_is_largest(toy, dictionary, tmp_path):
    prompts = own_text(toy, n=6, length=9, seed=2)
    several = Dictionaries("one", (dictionary,))
    found = feature_examples(toy, several, prompts, {"r1.post": [0, 3, 6]}, k=2, batch_size=4)
    rows = [
        dictionary.encode(toy.run(row, cache=["r1.post"])["r1.post"])[0] for row in prompts.rows
    ]
    for feature in (0, 3, 6):
        one = found["r1.post", feature]
        late = torch.stack([f[1:, feature] for f in rows])
        assert one.frequency == pytest.approx(float((late > 0).float().mean()))
        assert one.largest == pytest.approx(float(late.max()), rel=1e-5)
        best = late.amax(dim=1).sort(descending=True).values[: len(one.contexts)]
        peaks = [context.values[context.at] for context in one.contexts]
        torch.testing.assert_close(torch.tensor(peaks), best, atol=1e-5, rtol=1e-5)
    assert len(found["r1.post", 0].contexts) == len(found["r1.post", 0].promoted) == 2
    found.save(tmp_path / "examples.json")
    again = load_examples(tmp_path / "examples.json")
    assert again.found == found.found and again.facts["model"] == "toy"


def test_promoted_tokens_are_those_whose_logits_a_write_raises_most(toy, dictionary):
    """Written out for the toy's LayerNorm: centred, times gamma, times the unembedding."""
    write = dictionary.w_dec[2]
    gamma = toy.bridge.ln_final.original_component.weight
    logits = toy.bridge.unembed.original_component.weight @ (gamma * (write - write.mean()))
    several = Dictionaries("one", (dictionary,))
    one = feature_examples(toy, several, [[1, 2, 3]], {"r1.post": [2]}, k=1)["r1.post", 2]
    assert one.promoted == (toy.tokenizer.decode([int(logits.argmax())]),)
    assert one.suppressed == (toy.tokenizer.decode([int(logits.argmin())]),)


def test_features_that_there_are_not_are_named(toy, dictionary, tmp_path):
    several = Dictionaries("one", (dictionary,))
    with pytest.raises(ValueError, match="has 7 features, 0 to 6; there is no feature 9"):
        feature_examples(toy, several, [[1, 2]], {"r1.post": [9]})
    with pytest.raises(ValueError, match="no dictionary for 'm0', only for r1.post"):
        feature_examples(toy, several, [[1, 2]], {"m0": [1]})
    (tmp_path / "a.json").write_text('{"format": "x", "facts": {}, "features": []}')
    with pytest.raises(ValueError, match="a.json: it holds no examples of the kind"):
        load_examples(tmp_path / "a.json")


def test_a_models_own_text_follows_from_the_seed(toy):
    first = own_text(toy, n=3, length=6, seed=4)
    assert first == own_text(toy, n=3, length=6, seed=4)
    assert first.rows != own_text(toy, n=3, length=6, seed=5).rows
    assert {len(row) for row in first.rows} == {6}
    assert {row[0] for row in first.rows} == {toy.tokenizer.bos_token_id}
    with pytest.raises(
        ValueError, match="at least 1 of 2 to .* tokens, which toy reads; got 1 of 1"
    ):
        own_text(toy, n=1, length=1)


def test_a_text_file_is_cut_into_rows(toy, tmp_path):
    (tmp_path / "text.txt").write_text("The capital of France is Paris . " * 9)
    rows = text_rows(toy, tmp_path / "text.txt", n=3, length=5).rows
    assert [len(row) for row in rows] == [5, 5, 5]
    whole = toy.tokenizer.encode("The capital of France is Paris . " * 9)
    start = whole[:1] if whole[0] == toy.tokenizer.bos_token_id else []
    body = whole[len(start) :]
    assert [i for row in rows for i in row[len(start) :]] == body[: 3 * (5 - len(start))]
    (tmp_path / "empty.txt").write_text("")
    with pytest.raises(ValueError, match="holds no two tokens; give a longer text"):
        text_rows(toy, tmp_path / "empty.txt")
