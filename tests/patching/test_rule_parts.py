"""Each part of a backward rule: on paper, and as written into a plain Hugging Face model."""

import families
import pytest
import torch
from rule_twins import assert_same, contrast, rooted, rules_written_into

from patching.model import Model
from patching.rules import RULES, graft, scale_gradient
from patching.rules.parts import cap_correction, follow_the_ratio, soften, with_constant_sigma
from patching.rules.sites import stream_norms


@pytest.fixture(scope="module")
def batch():
    (made,) = families.task().batches(3)
    return made


def floor(family: str) -> float:
    """Relative rounding floor: elsewhere Hugging Face's norms and rotations run in float32."""
    return 1e-12 if family == "gpt2" else 2e-6


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
@pytest.mark.parametrize("family", ["gpt2", "llama", "qwen3", "olmo2"])
def test_gradients_are_those_of_a_model_with_the_rules_written_into_it(family, rule, batch):
    model = Model.load(families.module(family, torch.float64))
    started = rule.start(model)
    embedding, logits = rooted(model, batch, started.hooks)
    (found,) = torch.autograd.grad(contrast(logits), embedding)
    parts = {site.part for site in started.sites}
    with rules_written_into(families.module(family, torch.float64), parts) as twin:
        embed = twin.get_input_embeddings()(batch.clean).detach().requires_grad_()
        logits = twin(inputs_embeds=embed).logits[:, -1]
        (expected,) = torch.autograd.grad(contrast(logits), embed)
    assert_same(found, expected, floor(family))


def test_a_graft_has_one_tensors_value_and_the_others_gradient():
    x = torch.tensor([1.0, -2.0], dtype=torch.float64, requires_grad=True)
    y = graft(torch.exp(x), x * torch.tensor([3.0, torch.inf], dtype=torch.float64))
    assert torch.equal(y, torch.exp(x))
    (g,) = torch.autograd.grad(y[0], x)
    assert g[0] == 3


def test_a_scaled_gradient_leaves_the_value():
    x = torch.tensor([0.1, torch.inf], requires_grad=True)
    y = scale_gradient(x, 0.25)
    assert torch.equal(y, x)
    assert torch.equal(torch.autograd.grad(y.sum(), x)[0], torch.tensor([0.25, 0.25]))


def test_a_frozen_norm_is_a_matrix_divided_by_sigma():
    gpt2 = Model.load(families.module("gpt2", torch.float64))
    norm = next(stream_norms(gpt2)).norm
    x = torch.arange(32, dtype=torch.float64).sin().requires_grad_()
    centring = torch.eye(32, dtype=torch.float64) - 1 / 32
    matrix = norm.gamma[:, None] * centring / norm.sigma(x.detach())
    found = torch.autograd.functional.jacobian(lambda x: with_constant_sigma(norm, x), x)
    torch.testing.assert_close(found, matrix, atol=1e-14, rtol=0)  # a few roundings of numbers < 1


def test_the_ratio_at_zero_is_zero():
    x = torch.tensor([0.0, 2.0, -3.0], requires_grad=True)
    y = follow_the_ratio(x, torch.relu(x).detach())
    assert torch.autograd.grad(y.sum(), x)[0].tolist() == [0, 1, 0]


def test_a_softened_softmax_has_the_jacobian_of_half_the_scores_without_the_half():
    x = torch.tensor([1.0, -2.0, 0.5, -torch.inf], dtype=torch.float64, requires_grad=True)
    s = torch.softmax(x.detach() / 2, dim=-1)
    found = torch.autograd.functional.jacobian(lambda x: soften(x, 2.0), x)
    torch.testing.assert_close(found, torch.diag(s) - torch.outer(s, s), atol=1e-15, rtol=0)


def test_the_caps_correction_turns_its_slope_into_the_ratio():
    x = torch.tensor([-70.0, -1.0, 0.0, 1e-9, 3.0, 50.0], dtype=torch.float64, requires_grad=True)
    y = 30 * torch.tanh(x / 30)
    (slope,) = torch.autograd.grad(y.sum(), x)
    ratio = torch.where(x == 0, 1, y / x).detach()
    torch.testing.assert_close(cap_correction(x.detach(), 30.0) * slope, ratio, rtol=1e-12, atol=0)


def test_a_logit_far_beyond_the_cap_has_gradient_zero():
    assert cap_correction(torch.tensor([1e4, -1e4]), 30.0).tolist() == [0, 0]
