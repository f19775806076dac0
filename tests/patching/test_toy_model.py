"""The embedded models toy and toy-llama: what they can do on fresh prompts, and their tokenizer."""

import json
import random
from functools import cache

import pytest
import torch

from patching import Model
from patching.metrics import accuracy, logit_diff
from patching.models import embedded, embedded_names, llama_folder, toy_folder, toy_tasks
from patching.models.toy_tasks import TOY_GENERATORS
from patching.models.toy_tokenizer import toy_tokenizer
from patching.models.toy_training import training_batches
from patching.models.training import measure
from patching.tasks import recall
from patching.tasks.tokens import encode_answer, encode_prompt
from patching.tasks.words import CAPITALS

FAMILIES = TOY_GENERATORS
FOLDERS = {"toy": toy_folder(), "toy-llama": llama_folder()}
FRESH = 20_260


@pytest.fixture(scope="module", params=FOLDERS)
def name(request):
    return request.param


@pytest.fixture(scope="module")
def toy(name):
    found = embedded(name)
    assert found is not None
    return found


@pytest.fixture(scope="module")
def tokenizer():
    return toy_tokenizer()


@cache
def _batch(family):
    """Both models read the same prompts."""
    (batch,) = FAMILIES[family](toy_tokenizer(), 200, FRESH).batches(200)
    return batch


@torch.no_grad()
def _answers(toy, family):
    (model, _), batch = toy, _batch(family)
    logits = model(batch.clean, attention_mask=torch.ones_like(batch.clean)).logits
    return logits[torch.arange(len(batch)), batch.answer_pos], batch


@pytest.mark.parametrize("family", [family for family in FAMILIES if family != "conflict"])
def test_it_is_right_on_more_than_95_percent_of_fresh_prompts(toy, family):
    logits, batch = _answers(toy, family)
    assert accuracy(logits, batch).mean() > 0.95


def test_it_follows_the_context_against_its_memory_on_60_to_85_percent_of_fresh_prompts(toy):
    logits, batch = _answers(toy, "conflict")
    follows = (logit_diff(logits, batch) > 0).double().mean()
    assert 0.60 <= follows <= 0.85
    both = logits.softmax(-1).gather(1, torch.cat([batch.answers, batch.wrong_answers], dim=1))
    assert both.sum(1).mean() > 0.9, "context and memory share nearly all probability"
    assert both.amin(1).mean() > 0.1, "and the loser keeps its part"


def test_the_accuracies_in_its_folder_are_those_it_has(toy, name):
    report = json.loads((FOLDERS[name] / "training.json").read_text(encoding="utf-8"))
    # The folder's are of 1000 prompts: two standard errors of 100 at 0.7 are 0.09.
    assert measure(*toy, FAMILIES, n=100) == pytest.approx(report["accuracy"], abs=0.1)


def test_it_is_a_small_float16_file_loaded_in_float32(toy, name):
    model, tokenizer = toy
    assert (FOLDERS[name] / "model.safetensors").stat().st_size < 2_000_000
    assert model.dtype == torch.float32
    assert model.config._attn_implementation == "eager"
    assert model.config.vocab_size == len(tokenizer) < 1000


def test_its_folder_holds_the_tokenizer_that_the_code_builds(toy, tokenizer):
    assert toy[1].get_vocab() == tokenizer.get_vocab()
    text = "Then, Mary was at the store."
    assert toy[1].encode(text) == tokenizer.encode(text)


def test_every_load_gives_a_fresh_model(toy, name):
    again = embedded(name)
    assert again is not None
    assert again[0] is not toy[0]


def test_one_is_a_gpt2_and_one_a_llama_whose_heads_share_keys_and_values():
    gpt2, llama = (Model.load(name) for name in FOLDERS)
    assert gpt2.graph.n_kv_heads == gpt2.graph.n_heads == llama.graph.n_heads == 4
    assert llama.graph.n_kv_heads == 2
    assert gpt2.graph.n_layers == llama.graph.n_layers == 4


def test_other_names_are_not_embedded():
    assert embedded("gpt2") is None
    assert embedded_names()[:2] == tuple(FOLDERS)
    assert {"truth/induction-noise", "truth/composition-llama"} < set(embedded_names())


def test_the_tokenizer_cuts_years_in_two_and_punctuation_off(tokenizer):
    cut = tokenizer.tokenize("at the store, from the year 1732 to the year 17")
    assert cut == "at the store , from the year 17 32 to the year 17".split()


def test_text_gets_one_bos_and_unknown_words_one_unk(tokenizer):
    assert tokenizer.tokenize("Mary xylophone") == ["Mary", "<unk>"]
    assert tokenizer.encode("Mary")[0] == tokenizer.bos_token_id
    assert encode_prompt(tokenizer, "<bos> Mary") == tuple(tokenizer.encode("Mary"))


def test_an_answer_continues_the_tokens_of_its_prompt(tokenizer):
    vocabulary = tokenizer.get_vocab()
    assert encode_answer(tokenizer, "gave a drink to", " Mary") == vocabulary["Mary"]
    assert encode_answer(tokenizer, "to the year 17", "32") == vocabulary["32"]


@pytest.mark.parametrize("family", FAMILIES)
def test_decoded_prompts_encode_to_the_same_tokens(tokenizer, family):
    for prompt in FAMILIES[family](tokenizer, 20, 0).prompts:
        assert tuple(tokenizer.encode(tokenizer.decode(prompt.clean[1:]))) == prompt.clean
        assert tokenizer.unk_token_id not in prompt.clean + prompt.corrupt


def test_docstring_asks_for_the_third_argument(tokenizer):
    for prompt in TOY_GENERATORS["docstring"](tokenizer, 20, 0).prompts:
        clean, corrupt = (str(prompt.extra[key]) for key in ("clean_text", "corrupt_text"))
        arguments, replaced = (
            t[t.index("self, ") : t.index(")")].split(", ") for t in (clean, corrupt)
        )
        assert tokenizer.decode(list(prompt.answers)) == arguments[3]
        assert clean.endswith(f":param {arguments[1]}: :param {arguments[2]}: :param")
        assert clean.split('"""')[1] == corrupt.split('"""')[1]
        assert not set(arguments[1:]) & set(replaced[1:])


def test_induction_asks_for_the_word_that_followed_and_the_corrupt_list_had_another(tokenizer):
    for prompt in TOY_GENERATORS["induction"](tokenizer, 30, 0).prompts:
        for ids, (answer,) in (
            (prompt.clean, prompt.answers),
            (prompt.corrupt, prompt.wrong_answers),
        ):
            assert ids.index(answer) == ids.index(ids[-1]) + 1


def test_facts_and_conflict_answer_with_true_and_told_capitals(tokenizer):
    capital_of = dict(CAPITALS)
    pair = toy_tasks.conflict_text(random.Random(1), CAPITALS[:2])
    country = next(c for c in ("France", "Germany") if c in pair.clean)
    assert pair.wrong_answers == (f" {capital_of[country]}",)
    assert f"is{pair.answers[0]}." in pair.clean
    assert f"is{pair.wrong_answers[0]}." in pair.corrupt
    fact = recall.facts_text(random.Random(1), CAPITALS[:2])
    country = next(c for c in ("France", "Germany") if c in fact.clean)
    assert fact.answers == (f" {capital_of[country]}",)
    assert set(fact.answers + fact.wrong_answers) == {" Paris", " Berlin"}


def test_training_weighs_the_answer_fully_and_of_lists_only_what_can_be_known(tokenizer):
    (batch,) = training_batches(tokenizer, steps=1, seed=0)
    ids, weights = batch.ids, batch.weights
    assert not weights[:, 0].any()
    last = (ids != tokenizer.pad_token_id).sum(1) - 1
    at_answer = weights[torch.arange(len(ids)), last]
    # Rows 44 to 61 are lists of random words, written twice after "List:".
    assert torch.equal(at_answer.unique(), torch.tensor([0.4, 1.0]))
    assert (at_answer[44:62] == 0.4).all()
    for row, weight in zip(ids[44:62].tolist(), weights[44:62], strict=True):
        for pos in weight.nonzero().flatten().tolist():
            assert row[pos - 1 : pos + 1] == row[row.index(row[pos - 1]) :][:2]
            assert row.index(row[pos]) < pos
