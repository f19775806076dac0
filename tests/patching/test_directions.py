"""Steering along directions: what tokens contribute, directions by ablation, and applying them."""

import families
import pytest
import torch
import toys

from patching.directions import (
    Ablating,
    first_component,
    mean_difference,
    steering,
    steering_vectors,
    token_contributions,
)
from patching.metrics import accuracy
from patching.model import Model
from patching.neurons.conflicts import toy_conflicts
from patching.tasks import Prompt, Task
from patching.token_attribution import integrated_gradients

TOKENS = torch.tensor([[5, 9, 11, 30, 7, 8], [4, 4, 60, 61, 62, 63]])
THREE = Ablating(by=3)
TOO_LARGE = Task("x", (Prompt((99,), (99,), (1,), (2,)),))
FAMILIES = ["gpt2", "llama", "gemma2", "olmo2", "phi", "opt", "granite", "qwen3_moe"]


def directions(model: Model) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    shape = (len(model.blocks), model.blocks[0].w_o.shape[2])
    return torch.randn(shape, generator=generator).to(model.dtype)


def seen_after(model: Model, layer: int) -> torch.Tensor:
    return model.run(TOKENS, cache=[f"r{layer}.post"])[f"r{layer}.post"]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_push_keeps_the_length_over_the_hidden_axis(family):
    model = families.load(family)
    vectors, before = directions(model), seen_after(model, 0)
    with steering(model, vectors, 3.0, layers=[0]):
        after = seen_after(model, 0)
    expected = before + 3.0 * vectors[0]
    expected = expected * (before.norm(dim=-1) / expected.norm(dim=-1))[..., None]
    torch.testing.assert_close(after, expected)  # the formula, in another order of products
    torch.testing.assert_close(after.norm(dim=-1), before.norm(dim=-1))


def test_steering_is_undone_exactly_even_after_an_error(gpt2):
    before = gpt2.run(TOKENS).logits
    with pytest.raises(RuntimeError, match="on purpose"), steering(gpt2, directions(gpt2), 2.0):
        assert not torch.equal(gpt2.run(TOKENS).logits, before)
        raise RuntimeError("on purpose")
    assert torch.equal(gpt2.run(TOKENS).logits, before)


def test_alpha_0_changes_nothing(gpt2):
    before = gpt2.run(TOKENS).logits
    with steering(gpt2, directions(gpt2), 0.0):
        assert torch.equal(gpt2.run(TOKENS).logits, before)


def test_contributions_are_whole_numbers_on_the_linear_toy():
    """Clean `A .` is worth 8; with both tokens `.`, whose embedding is 0, the metric is 0.

    All 8 hang on A: through its value in head 0, and the MLP that reads that.
    """
    model = toys.linear_model()
    ablating = Ablating(by=toys.STOP, method=integrated_gradients(2))
    found = token_contributions(model, toys.task(2), ablating=ablating)
    assert found.values.tolist() == [[pytest.approx(8, abs=1e-12), pytest.approx(0, abs=1e-12)]] * 2


@pytest.mark.parametrize("padding", ["right", "left"])
def test_contributions_add_up_to_what_all_tokens_do(gpt2, padding):
    parts = [families.task(2, length, seed=3).prompts[:1] for length in (6, 9)]
    task = Task("ragged", (*parts[0], *parts[1]), padding)
    ablating = Ablating(by=3, method=integrated_gradients(80))
    found = token_contributions(gpt2, task, ablating=ablating).values
    assert (found[0, 6:] == 0).all()
    for row, prompt in zip(found, task.prompts, strict=True):
        values = []
        for ids in (prompt.clean, (3,) * len(prompt.clean)):
            logits = gpt2.run(ids).logits[0, -1]
            values.append(logits[prompt.answers[0]] - logits[prompt.wrong_answers[0]])
        # a sharp random model; the error of midpoints falls as 1 / steps^2
        assert float(row.sum()) == pytest.approx(float(values[0] - values[1]), rel=0.01, abs=0.01)


def test_vectors_are_those_of_a_plain_loop(toy):
    """Ablate the k best of each sign by hand, and take the states one prompt at a time."""
    task = toy_conflicts(toy.tokenizer, n=6, seed=0).with_context
    ablating = Ablating(k=2, method=integrated_gradients(5))
    scores = token_contributions(toy, task, ablating=ablating).values
    pad, differences = toy.tokenizer.pad_token_id, []
    for prompt, row in zip(task.prompts, scores, strict=True):
        states = []
        for sign in (-1, 1):
            ids = list(prompt.clean)
            free = [i for i in range(1, len(ids) - 1) if sign * row[i] > 0]
            for i in sorted(free, key=lambda i, sign=sign: -sign * float(row[i]))[:2]:
                ids[i] = pad
            names = [f"r{layer}.post" for layer in range(4)]
            run = toy.run(ids, cache=names)
            states.append(torch.stack([run[name][0, -1] for name in names]))
        differences.append(states[0] - states[1])
    expected = torch.stack(differences).mean(dim=0)
    found = steering_vectors(toy, task, ablating=ablating)
    assert (found - expected).abs().max() < 1e-4 * expected.abs().max()  # float32 runs, padded


def test_directions_are_whole_numbers_on_the_linear_toy():
    """Without A both head 0, (0, 0, 2, -2), and the MLP, (10, -10, 0, 0), write nothing.

    No token speaks against the answer, so the prompt itself is the other side.
    """
    ablating = Ablating(by=toys.STOP, method=integrated_gradients(1))
    found = steering_vectors(toys.linear_model(), toys.task(2), ablating=ablating)
    assert (found - torch.tensor([10, -10, 2, -2])).abs().max() < 1e-12


def test_the_first_component_is_the_direction_of_differences_that_share_one():
    direction = torch.tensor([3.0, 4.0])
    differences = torch.tensor([1.0, 2.0, 6.0])[:, None, None] * direction
    expected = 3 * direction[None]
    torch.testing.assert_close(first_component(differences), expected)
    torch.testing.assert_close(first_component(-differences), -expected)
    torch.testing.assert_close(mean_difference(differences), expected)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (lambda m: steering(m, torch.zeros(1, 32), 1.0).__enter__(), r"\[2, 32\]; got \[1, 32\]"),
        (lambda m: steering(m, directions(m), float("nan")).__enter__(), "alpha=nan"),
        (lambda m: steering(m, directions(m), 1.0, layers=[2]).__enter__(), "no layer 2"),
        (lambda m: steering_vectors(m, families.task()), "give one: Ablating.by=...."),
        (lambda m: steering_vectors(m, families.task(), ablating=Ablating(by=97)), "token 97"),
        (lambda m: steering_vectors(m, families.task(), ablating=Ablating(k=0)), "got k=0"),
        (lambda m: token_contributions(m, families.task(), accuracy, ablating=THREE), "accuracy"),
        (lambda m: token_contributions(m, TOO_LARGE, ablating=THREE), "token id 99"),
    ],
)
def test_wrong_input_is_explained(gpt2, wrong, said):
    with pytest.raises(ValueError, match=said):
        wrong(gpt2)
