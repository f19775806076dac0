"""The hand-wired induction model: it does what its docstring says, by the edges it names."""

from typing import cast

import pytest
import torch
from torch.testing import assert_close

from patching.graph import Graph
from patching.metrics import accuracy, logit_diff
from patching.models import embedded, induction
from patching.models.induction import NOISE, TRUTH_GENERATORS, letter_tokenizer, repeated_letter
from patching.models.toy_tokenizer import toy_tokenizer
from patching.tasks.tokens import Tokenizer

VARIANTS = sorted(NOISE)


def _batch(wired):
    (batch,) = wired.task.batches(len(wired.task))
    return batch


@torch.no_grad()
def _answer_logits(wired, ids, batch):
    return wired.model(ids).logits[torch.arange(len(batch)), batch.answer_pos]


@pytest.mark.parametrize("variant", VARIANTS)
def test_it_is_always_right_on_clean_and_never_on_corrupt_prompts(variant):
    wired = induction(variant)
    batch = _batch(wired)
    clean, corrupt = (_answer_logits(wired, ids, batch) for ids in (batch.clean, batch.corrupt))
    assert accuracy(clean, batch).mean() == 1.0
    assert accuracy(corrupt, batch).mean() == 0.0
    # Ten logits by construction; the noise heads move it by a few hundredths.
    ten = torch.full((len(batch),), 10.0)
    tolerance = 1e-3 if variant == "clean" else 0.5
    assert_close(logit_diff(clean, batch), ten, atol=tolerance, rtol=0)
    assert_close(logit_diff(corrupt, batch), -ten, atol=tolerance, rtol=0)


def test_a_known_prompt_is_answered_with_the_letter_after_the_first_mention():
    wired = induction()
    ids = torch.tensor([wired.tokenizer.encode("b d a c d")])
    with torch.no_grad():
        best = wired.model(ids).logits[0, -1].argmax()
    assert wired.tokenizer.decode([int(best)]) == "a"


def test_every_norm_sees_mean_zero_and_the_same_squared_length_at_every_position():
    wired = induction()
    batch = _batch(wired)
    seen = []
    names = ("transformer.h.0.ln_1", "transformer.h.1.ln_1", "transformer.ln_f")
    norms = [wired.model.get_submodule(name) for name in names]
    hooks = [n.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0])) for n in norms]
    with torch.no_grad():
        wired.model(batch.clean)
    for hook in hooks:
        hook.remove()
    for stream, slots_in_use in zip(seen, (2.0, 3.0, 4.0), strict=True):
        # float32 sums of 128 numbers of size 0.1, and softmax tails of e-20.
        assert_close(stream.mean(-1), torch.zeros(stream.shape[:2]), atol=1e-6, rtol=0)
        squares = stream.pow(2).sum(-1)
        assert_close(squares, torch.full_like(squares, slots_in_use), atol=1e-4, rtol=0)


def test_the_two_heads_attend_where_they_should():
    wired = induction()
    batch = _batch(wired)
    with torch.no_grad():
        layers = wired.model(batch.clean, output_attentions=True).attentions
    previous, matching = layers[0][:, 1], layers[1][:, 3]
    n_pos = batch.clean.shape[1]
    assert torch.equal(previous.argmax(-1)[0], torch.tensor([0, *range(n_pos - 1)]))
    repeated = batch.clean[:, -1:]
    after_first_mention = (batch.clean[:, :-1] == repeated).int().argmax(dim=1) + 1
    assert torch.equal(matching[:, -1].argmax(-1), after_first_mention)
    assert matching[:, -1].amax(-1).min() > 0.999


def test_all_other_heads_and_the_mlps_are_silent():
    weights = dict(induction().model.named_parameters())
    for layer, head in ((0, 1), (1, 3)):
        by_head = weights[f"transformer.h.{layer}.attn.c_proj.weight"].unflatten(0, (4, 32))
        loud = by_head.abs().amax(dim=(1, 2)) > 0
        assert loud.tolist() == [h == head for h in range(4)]
        assert not weights[f"transformer.h.{layer}.mlp.c_proj.weight"].any()


def test_the_named_edges_exist_and_the_active_ones_are_among_the_structural():
    wired, graph = induction(), Graph(n_layers=2, n_heads=4, n_kv_heads=4)
    for edge in wired.structural_edges:
        source, dest = edge.split("->")
        assert graph.exists[graph.source_index(source), graph.dest_index(dest)]
    assert wired.active_edges < wired.structural_edges
    assert len(wired.active_edges) == 5
    assert len(wired.structural_edges) == 8


def test_the_three_corruptions_replace_the_mention_the_answer_and_the_question():
    wired = induction(n=30)
    for i, prompt in enumerate(wired.task.prompts):
        (place,) = (
            p for p, (a, b) in enumerate(zip(prompt.clean, prompt.corrupt, strict=True)) if a != b
        )
        mention = prompt.clean.index(prompt.clean[-1])
        assert place == (mention, mention + 1, len(prompt.clean) - 1)[i % 3]
        assert prompt.answers == (prompt.clean[mention + 1],)
        if i % 3 == 0:
            assert prompt.wrong_answers == (wired.tokenizer.bos_token_id,)


def test_equal_seeds_give_equal_tasks_and_weights_and_no_global_seed_is_touched():
    state = torch.random.get_rng_state()
    one, two = induction("noise", n=12, seed=1), induction("noise", n=12, seed=2)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert one.task.hash == induction(n=12, seed=1).task.hash != two.task.hash
    weights = dict(two.model.named_parameters())
    for name, weight in one.model.named_parameters():
        assert torch.equal(weight, weights[name])


def test_its_task_is_listed_like_every_other():
    generate = TRUTH_GENERATORS["repeated-letter"]
    task = generate(cast(Tokenizer, letter_tokenizer()), 6, 0)
    assert (task.name, task.hash) == ("repeated-letter", induction(n=6, seed=0).task.hash)


def test_a_tokenizer_without_the_letters_is_refused():
    with pytest.raises(ValueError, match=r"letters for the task 'repeated-letter'.*at least 10"):
        repeated_letter(cast(Tokenizer, toy_tokenizer()), 6, 0)


@pytest.mark.parametrize("name", ["truth/induction", "truth/induction-noise"])
def test_it_is_embedded_under_a_name(name):
    found = embedded(name)
    assert found is not None
    model, tokenizer = found
    assert model.config.vocab_size == len(tokenizer)
    assert model.config._attn_implementation == "eager"


def test_an_unknown_variant_is_refused():
    with pytest.raises(
        ValueError, match="no variant 'loud' of the induction model; there is clean"
    ):
        induction("loud")


def test_a_task_of_no_prompts_is_refused():
    with pytest.raises(ValueError, match="at least one prompt, got n=0"):
        induction(n=0)
