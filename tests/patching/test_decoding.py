"""Next tokens, and context-aware decoding."""

import pytest
import torch

from patching.decoding import continue_greedily, contrast, next_logits, text_of
from patching.model import Model

QUESTION = "The capital of Chile is"
CONTEXT = "Report: the capital of Chile is Rome. " + QUESTION


def test_the_contrast_is_the_formula_in_whole_numbers():
    found = contrast(torch.tensor([[4.0, 2.0]]), torch.tensor([[6.0, -2.0]]), alpha=0.5)
    assert found.tolist() == [[3.0, 4.0]]


def test_alpha_0_is_plain_decoding():
    a, b = torch.randn(2, 3, 7, generator=torch.Generator().manual_seed(0))
    assert torch.equal(contrast(a, b, 0.0), a)


def test_next_logits_are_those_of_each_prompt_alone(toy):
    prompts = [(1, 5, 6), (1, 9), (1, 7, 8, 9, 10)]
    found = next_logits(toy, prompts, batch_size=2)
    for row, prompt in zip(found, prompts, strict=True):
        expected = toy.run(prompt).logits[0, -1]
        # the same sums, over padded and unpadded rows, in float32
        assert (row - expected).abs().max() < 1e-4


def test_plain_continuation_is_that_of_the_library(toy):
    said = continue_greedily(toy, CONTEXT, n=4)
    prompt = torch.tensor([toy.tokenizer.encode(CONTEXT)])
    whole = toy.bridge.generate(
        prompt, max_new_tokens=4, do_sample=False, verbose=False, stop_at_eos=False
    )
    assert list(said) == whole[0, prompt.shape[1] :].tolist()[: len(said)]


def test_context_aware_decoding_continues_both_prompts_by_the_same_tokens(toy):
    said = continue_greedily(toy, CONTEXT, without_context=QUESTION, alpha=2.0, n=3)
    rows = [toy.tokenizer.encode(text) for text in (CONTEXT, QUESTION)]
    for token in said:
        a, b = (toy.run(row).logits[0, -1] for row in rows)
        assert token == int((3 * a - 2 * b).argmax())
        rows = [[*row, token] for row in rows]


def test_a_continuation_stops_where_the_text_ends(toy):
    end = toy.tokenizer.eos_token_id
    said = continue_greedily(toy, QUESTION, n=20)
    assert end not in said[:-1]


def test_text_is_what_continues_the_prompt(toy):
    said = continue_greedily(toy, QUESTION, n=1)
    assert text_of(toy, QUESTION, said) == " Santiago"


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (lambda m: contrast(torch.ones(2), torch.ones(2), float("nan")), "got nan"),
        (lambda m: contrast(torch.ones(2), torch.ones(2), -0.5), "from 0 .plain decoding."),
        (lambda m: continue_greedily(m, QUESTION, n=0), "at least one token, got n=0"),
        (lambda m: continue_greedily(m, QUESTION, n=99), "do not fit toy, which reads at most 64"),
        (lambda m: continue_greedily(m, []), "an empty prompt"),
        (lambda m: next_logits(m, []), "has no prompts"),
        (lambda m: continue_greedily(without_tokenizer(m), QUESTION), "has no tokenizer"),
        (lambda m: text_of(without_tokenizer(m), [1], [2]), "no tokenizer to write text with"),
    ],
)
def test_wrong_input_is_explained(toy, wrong, said):
    with pytest.raises(ValueError, match=said):
        wrong(toy)


def without_tokenizer(model: Model) -> Model:
    from dataclasses import replace

    return replace(model, tokenizer=None)
