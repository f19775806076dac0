"""Attention against Hugging Face's own, hand-made patterns, and heads whose job is known."""

from dataclasses import replace

import families
import pytest
import torch

from patching import attention
from patching.attention.reading import Seen
from patching.figures import token_labels
from patching.model import Model
from patching.tasks import Task


@pytest.fixture(scope="module", params=families.names())
def pair(request):
    dtype = families.best_dtype(request.param)
    judge = families.module(request.param, dtype)
    return Model.load(families.module(request.param, dtype)), judge


@pytest.fixture(scope="module")
def wired():
    return Model.load("truth/induction")


def test_patterns_are_those_of_hugging_face_in_every_family(pair):
    model, judge = pair
    task = families.task()
    tokens = torch.tensor([prompt.clean for prompt in task.prompts])
    with torch.no_grad():
        expected = torch.stack(judge(tokens, output_attentions=True).attentions, dim=1)
    found = attention.patterns(model, task, batch_size=2)
    assert list(found.axes) == ["layer", "head", "query", "key"]
    # softmax runs in float32 in most families
    torch.testing.assert_close(found.values.double(), expected.double(), atol=2e-6, rtol=0)


@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma2", "granite"])
def test_a_weighted_pattern_is_the_length_of_what_each_value_adds_to_the_stream(family):
    model = Model.load(families.module(family, torch.float64))
    task, block = families.task(1), model.blocks[1]
    batch, kept = next(task.batches(1)), {}
    names = [block.qkv[2], block.attention_sum] if block.post_attention_norm else [block.qkv[2]]
    hooks = [(name, lambda x, name=name: kept.update({name: x})) for name in names]
    with torch.no_grad():
        model.answer_logits(batch.clean, batch, hooks)
    pattern = attention.patterns(model, task).values[0, 1].double()
    found = attention.patterns(model, task, weighted=True).values[0, 1]
    group = model.graph.n_heads // model.graph.n_kv_heads
    for head, query, key in ((0, 3, 1), (3, 8, 8), (2, 7, 0)):
        write = kept[block.qkv[2]][0, key, head // group] @ block.w_o[head] * block.scale
        norm = block.post_attention_norm
        if norm is not None:
            write = write * norm.gamma / norm.sigma(kept[block.attention_sum])[0, query]
        expected = pattern[head, query, key] * write.norm()
        # float32 inside norms and softmax
        torch.testing.assert_close(found[head, query, key].double(), expected, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("family", ["gpt2", "llama", "opt", "gptj"])
def test_padding_on_either_side_changes_no_score(family):
    model = Model.load(families.module(family, torch.float64))
    task = families.task(1, 9)
    repeated = [replace(p, clean=p.clean[:4] * 2, corrupt=p.corrupt[:4] * 2) for p in task.prompts]
    for side in ("right", "left"):
        both = Task("both", (*repeated, *families.ragged_task().prompts), side)
        together = attention.head_scores(model, both, scores=[attention.previous_token])
        alone = attention.head_scores(model, Task("one", families.ragged_task().prompts[1:2]))
        # products of other sizes add up in another order, in float32 in some families
        torch.testing.assert_close(
            together["previous token"].values[-2],
            alone["previous token"].values[0],
            atol=1e-6,
            rtol=0,
        )


def test_each_score_is_what_its_words_say_on_a_pattern_made_by_hand():
    """Tokens A B A B, plus one of padding; rows are queries."""
    rows = [
        [1.0, 0.0, 0.0, 0.0, 0.0],
        [0.2, 0.8, 0.0, 0.0, 0.0],
        [0.5, 0.3, 0.2, 0.0, 0.0],
        [0.1, 0.4, 0.3, 0.2, 0.0],
        [0.0, 0.0, 0.0, 0.0, 0.0],
    ]
    seen = Seen(
        block=Model.load("truth/induction").blocks[0],
        tokens=torch.tensor([[7, 8, 7, 8, 8]]),
        is_token=torch.tensor([[True, True, True, True, False]]),
        pattern=torch.tensor(rows, dtype=torch.float64)[None, None],
        values=torch.zeros(1, 5, 1, 2),
        sigma=None,
    )
    expected = {
        "previous token": (0.2 + 0.3 + 0.3) / 3,
        "first token": (0.2 + 0.5 + 0.1) / 3,
        "duplicate token": (0.5 + 0.4) / 2,
        "induction": (0.3 + 0.3) / 2,  # B after A at the second A, A after B at the second B
    }
    for name, value in expected.items():
        assert attention.HEAD_SCORES[name](seen).item() == pytest.approx(value)
    nats = [-sum(p * torch.tensor(p).double().log().item() for p in row if p) for row in rows[1:4]]
    assert attention.entropy(seen).item() == pytest.approx(sum(nats) / 3)


def test_the_wired_heads_are_found_by_their_scores(wired):
    found = attention.head_scores(wired, attention.repeated_tokens(wired, length=10, n=4))
    previous, induction = found["previous token"], found["induction"]
    # the wired softmaxes give all other keys e^-40
    assert previous.top(1) == [(("0", "h1"), pytest.approx(1, abs=1e-6))]
    assert induction.top(1) == [(("1", "h3"), pytest.approx(1, abs=1e-6))]
    assert previous.top(2)[1][1] < 0.2 and induction.top(2)[1][1] < 0.2
    assert found["first token"].at(layer="1", head="h3") > 0.5  # its sink


def test_the_wired_task_itself_shows_the_induction_head(wired):
    from patching.models.induction import repeated_letter

    found = attention.head_scores(wired, repeated_letter(wired.tokenizer, 6))
    assert found["induction"].top(1)[0][0] == ("1", "h3")


def test_scores_that_are_defined_nowhere_are_left_out_or_refused(wired):
    different = torch.tensor([[1, 5, 6, 7]])
    assert set(attention.head_scores(wired, different)) == {
        "previous token",
        "first token",
        "entropy",
    }
    with pytest.raises(ValueError, match="'induction' is defined at no prompt of 'the given"):
        attention.head_scores(wired, different, scores=[attention.induction])
    some = torch.tensor([[1, 5, 6, 5], [1, 5, 6, 7]])
    assert len(attention.head_scores(wired, some)["induction"].values) == 1


def test_one_prompt_has_its_tokens_as_labels_and_several_have_numbers(wired):
    one = attention.patterns(wired, "b c b")
    assert one.axes["key"] == token_labels(("<bos>", "b", "c", "b"))
    assert one.select(layer="1", head="h3").plot().axes
    several = attention.patterns(wired, torch.tensor([[1, 5], [1, 6]]))
    assert several.axes["query"] == ("0", "1")


def test_repeated_tokens_repeat_after_a_bos_and_only_in_the_clean_prompt(wired):
    task = attention.repeated_tokens(wired, length=5, n=3, seed=1)
    for prompt in task.prompts:
        assert prompt.clean[0] == wired.tokenizer.bos_token_id
        assert prompt.clean[1:5] == prompt.clean[6:] and prompt.answers == (prompt.clean[5],)
        assert prompt.corrupt[6:] == prompt.clean[6:]
        assert not set(prompt.corrupt[1:6]) & set(prompt.clean[1:6])


def test_what_cannot_be_read_is_refused(wired):
    with pytest.raises(ValueError, match="has prompts of 6 to 9 tokens, whose patterns"):
        attention.patterns(
            Model.load(families.module("gpt2", torch.float64)), families.ragged_task()
        )
    with pytest.raises(ValueError, match="got no scores; name some of previous token, induction"):
        attention.head_scores(wired, [1, 5, 5], scores=[])
    with pytest.raises(ValueError, match=r"token ids are \[pos\] or \[batch pos\], got shape"):
        attention.patterns(wired, torch.zeros(1, 2, 3, dtype=torch.long))
    with pytest.raises(ValueError, match="holds token id 999"):
        attention.patterns(wired, [1, 999])
    with pytest.raises(ValueError, match="has no prompts"):
        attention.patterns(wired, torch.zeros(0, 3, dtype=torch.long))
    with pytest.raises(ValueError, match="different tokens is not possible; .* from 2 to 12"):
        attention.repeated_tokens(wired, length=100)
    with pytest.raises(ValueError, match="has no tokenizer: give token ids"):
        attention.patterns(Model.load(families.module("gpt2", torch.float64)), "text")


def test_a_pattern_that_does_not_mix_the_values_is_refused(wired, monkeypatch):
    from patching.attention import reading

    monkeypatch.setattr(
        reading, "shown_pattern", lambda b: f"blocks.{b.index}.attn.hook_attn_scores"
    )
    with pytest.raises(ValueError, match="layer 0 is not what mixes its values"):
        attention.patterns(wired, [1, 5, 6])


def test_a_half_precision_model_is_read_in_float32():
    model = Model.load(families.module("llama", torch.float32), dtype=torch.bfloat16)
    found = attention.patterns(model, families.task())
    assert found.values.dtype == torch.float32
    # a bfloat16 has 8 bits
    torch.testing.assert_close(
        found.values.sum(dim=-1), torch.ones_like(found.values[..., 0]), atol=0.02, rtol=0
    )
