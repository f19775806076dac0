"""Backward rules: no forward value moves, and gradients are those of plainly written twins."""

from collections.abc import Iterator
from contextlib import contextmanager

import families
import pytest
import torch
from rule_twins import assert_same, contrast, rooted
from torch import Tensor, nn

from patching.model import Hook, Model
from patching.rules import (
    RULES,
    Rule,
    Site,
    Unruled,
    applied,
    half_rule,
    identity_rule,
    norm_rule,
    plain,
    relp,
    relp_ah,
)
from patching.rules.sites import NormPoints, head_norms, neurons, stream_norms

MOE = ("mixtral", "qwen3_moe", "olmoe")
DELEGATED = ("opt", "gptj", "gptneo")
WITH_HEAD_NORMS = ("qwen3", "gemma3", "qwen3_moe", "olmoe", "olmo2")
UNGATED = ("gpt2", "neox", "neox_sequential", "phi", "gptj", "opt", "gptneo")
NORMS = {"gemma2": 9, "gemma3": 9, "phi": 3, "gptj": 3}  # two layers and the final norm: else 5


@pytest.fixture(scope="module", params=families.names())
def family(request):
    return request.param


@pytest.fixture(scope="module")
def model(family) -> Model:
    return families.load(family)


@pytest.fixture(scope="module")
def batch():
    (made,) = families.task().batches(3)
    return made


def gradient(model: Model, batch, rule: Rule) -> Tensor:
    started = rule.start(model)
    embedding, logits = rooted(model, batch, started.hooks)
    started.check()
    return torch.autograd.grad(contrast(logits), embedding)[0]


# Every rule on every family.


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_no_rule_moves_a_forward_value(rule, family, model, batch):
    if rule.name.startswith("gim") and family in DELEGATED:
        with pytest.raises(ValueError, match="no hook reaches the softmax of layer 0's attention"):
            rule.start(model)
        return
    expected = model.answer_logits(batch.clean, batch)
    started = rule.start(model)
    _, found = rooted(model, batch, started.hooks)
    started.check()
    assert torch.equal(found, expected)
    with applied(model, rule), torch.no_grad():
        assert torch.equal(model.answer_logits(batch.clean, batch), expected)


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_no_rule_moves_a_forward_value_in_half_precision(rule, half, batch):
    model = Model.load(families.module("gemma3", half))
    expected = model.answer_logits(batch.clean, batch)
    embedding, found = rooted(model, batch, rule.start(model).hooks)
    assert torch.equal(found, expected)
    (g,) = torch.autograd.grad(contrast(found), embedding)
    assert g.dtype == half
    assert g.isfinite().all()


def test_a_rule_fires_at_every_place_that_the_family_has(family, model, batch):
    started = relp_ah.start(model)
    rooted(model, batch, started.hooks)
    expected = {"norm": NORMS.get(family, 5)}
    if family in WITH_HEAD_NORMS:
        expected["head norm"] = 4
    if family not in UNGATED + MOE:
        expected["half"] = 4
    if family not in MOE:
        expected["identity"] = 2
    if family == "gemma2":
        expected["softcap"] = 1
    expected["attention"] = 4
    assert started.fired == expected == started.expected


def test_what_cannot_be_ruled_is_said(family, model):
    places = [(unruled.part, unruled.place) for unruled in relp.start(model).unruled]
    experts = [(part, f"m{layer}") for part in ("half", "identity") for layer in range(2)]
    assert places == (experts if family in MOE else [])


def test_an_unruled_place_says_why():
    said = str(Unruled("half", "m1", "its experts are out of reach"))
    assert said == "half at m1: its experts are out of reach"


def test_every_ruled_norm_is_what_its_formula_says(family, model):
    for points in [*stream_norms(model), *head_norms(model)]:
        x = torch.arange(5 * width(points)).sin().reshape(5, -1).to(model.dtype)
        assert_same(points.norm.formula(x), points.norm(x), 1e-5)  # the module may run in float32


def width(points: NormPoints) -> int:
    assert points.norm.gamma is not None
    return len(points.norm.gamma)


# Laws.


CONSERVING = dict.fromkeys(("gpt2", "neox", "gptj", "opt"), 1e-12) | dict.fromkeys(
    ("llama", "qwen3", "mistral", "gemma2", "gemma3", "phi3", "olmo2", "granite"),
    1e-6,  # their norms run in float32, and the frozen norm in float64
)


@pytest.mark.parametrize("family", CONSERVING)
def test_relp_ah_conserves_relevance_where_there_are_no_biases(family, batch):
    model = Model.load(unbiased(family))
    embedding, logits = rooted(model, batch, relp_ah.start(model).hooks)
    (g,) = torch.autograd.grad(contrast(logits), embedding)
    metric = contrast(logits).detach()
    assert abs((embedding.detach() * g).sum() - metric) / metric < CONSERVING[family]


def test_what_biases_take_is_all_that_relp_ah_loses(gpt2, batch):
    lives: list[list[Tensor]] = [[] for _ in stream_norms(gpt2)]
    norms = list(zip(stream_norms(gpt2), lives, strict=True))
    biases = [p for name, p in gpt2.bridge.named_parameters() if is_linear_bias(name)]
    hooks = [*relp_ah.start(gpt2).hooks, *((at.after, keep_live(live)) for at, live in norms)]
    with requiring_gradients(biases):
        embedding, logits = rooted(gpt2, batch, hooks)
        shifted = [live[0] for live in lives]
        gradients = torch.autograd.grad(
            contrast(logits),
            [embedding, *shifted, *biases],
            allow_unused=True,  # those of queries and keys
            materialize_grads=True,
        )
    inputs = [embedding, *(at.norm.beta for at, _ in norms), *biases]
    parts = [(x * g).sum().detach() for x, g in zip(inputs, gradients, strict=True)]
    assert abs(sum(parts) / contrast(logits).detach() - 1) < 1e-12  # float64 throughout
    assert abs(parts[0] / contrast(logits).detach() - 1) > 1e-2


def unbiased(family: str) -> nn.Module:
    module = families.module(family, torch.float64)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if name.endswith("bias"):
                parameter.zero_()
    return module


@contextmanager
def requiring_gradients(parameters: list[nn.Parameter]) -> Iterator[None]:
    try:
        for parameter in parameters:
            parameter.requires_grad_(True)
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(False)


def is_linear_bias(name: str) -> bool:
    return name.endswith("bias") and "ln" not in name


def keep_live(into: list[Tensor]) -> Hook:
    def hook(tensor: Tensor) -> Tensor:
        into.append(tensor.view_as(tensor))
        return into[0]

    return hook


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_neurons_keep_their_gradient_under_the_rules_of_their_own_mlp(family, batch):
    model = Model.load(families.module(family, torch.float64))
    points = neurons(model.blocks[-1])
    assert points is not None
    found = []
    for parts in ((), (half_rule, identity_rule)):
        live: list[Tensor] = []
        hooks = Rule("mlp", parts, freezes_norms=False).start(model).hooks
        _, logits = rooted(model, batch, [(points.post, keep_live(live)), *hooks])
        found.append(torch.autograd.grad(contrast(logits), live[0])[0])
    assert torch.equal(*found)  # after them come the down-projection and the final norm alone


# What stays behind: nothing.


def hooks_on(model: Model) -> int:
    return sum(len(point.fwd_hooks) for point in model.bridge.hook_dict.values())


def test_after_the_context_gradients_are_the_plain_ones_again(gpt2, batch):
    def ask() -> Tensor:
        embedding, logits = rooted(gpt2, batch, [])
        return torch.autograd.grad(contrast(logits), embedding)[0]

    before = ask()
    with applied(gpt2, relp):
        inside = ask()
    assert not torch.equal(inside, before)
    assert torch.equal(inside, gradient(gpt2, batch, relp))
    assert torch.equal(ask(), before)
    assert hooks_on(gpt2) == 0


def test_an_error_inside_the_context_leaves_nothing_behind(gpt2):
    with pytest.raises(RuntimeError, match="mine"), applied(gpt2, relp):
        assert hooks_on(gpt2) > 0
        raise RuntimeError("mine")
    assert hooks_on(gpt2) == 0
    assert not any(p.requires_grad for p in gpt2.bridge.parameters())


def test_the_plain_rule_has_no_hooks(gpt2):
    assert plain.start(gpt2).hooks == []


# Fewer sites than expected.


def test_a_silent_site_is_an_error(gpt2, batch):
    started = relp.start(gpt2)
    rooted(gpt2, batch, [(n, h) for n, h in started.hooks if "blocks.1.ln2." not in n])
    assert (started.fired["norm"], started.expected["norm"]) == (4, 5)
    message = "rule 'relp': its part 'norm' fired at 4 of 5 sites of GPT2LMHeadModel, not at blocks"
    with pytest.raises(ValueError, match=message):
        started.check()


def test_a_hook_point_that_never_fires_is_an_error_of_the_context(batch):
    neox = Model.load(families.module("neox", torch.float64))

    def dead(model: Model) -> list[Site | Unruled]:
        return [Site("rotation", "a0", (("blocks.0.attn.hook_rot_q", torch.Tensor.detach),))]

    rule = Rule("mine", (norm_rule, dead), freezes_norms=True)
    with (
        pytest.raises(ValueError, match="'rotation' fired at 0 of 1 sites"),
        applied(neox, rule),
    ):
        neox.answer_logits(batch.clean, batch)
    assert hooks_on(neox) == 0
