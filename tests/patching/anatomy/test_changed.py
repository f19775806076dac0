"""After a change in memory, results are of the changed model, or refused: nothing kept is stale."""

import copy
from collections.abc import Callable

import families
import pytest
import torch
from torch import Tensor, nn

from circuits.running import evaluate
from circuits.scoring import eap
from circuits.select import random_circuit
from patching.ablations import zero
from patching.lens import direct_logit_attribution
from patching.metrics import logit_diff
from patching.model import Model

BY_VIEWS = ("gpt2", "phi3")
BY_COPIES = ("neox", "neox_sequential")
"""Families whose joined projections the model library splits."""

EPSILON_OF_CONFIG = ("gpt2", "gptj", "gptneo")
CHANGED = (*BY_VIEWS, "llama", "gemma2", "opt", "granite")


def in_place(parameter: nn.Parameter, value: Tensor) -> None:
    with torch.no_grad():
        parameter.copy_(value)


def as_data(parameter: nn.Parameter, value: Tensor) -> None:
    parameter.data = value


def pieces(module: nn.Module) -> tuple[list[nn.Parameter], list[Tensor], list[nn.Module]]:
    """What can be changed, held as somebody would who has the module before it is loaded."""
    buffers = [b for b in module.buffers() if b.is_floating_point() and b.ndim == 1]
    return list(module.parameters()), buffers, list(module.modules())


def change(held, put: Callable[[nn.Parameter, Tensor], None], eps: float | None = 0.01) -> None:
    """Every weight, frequency and epsilon gets other values, the same each time."""
    parameters, buffers, modules = held
    torch.manual_seed(1)
    for parameter in parameters:
        put(parameter, parameter.detach() + 0.1 * torch.randn_like(parameter))
    for buffer in buffers:
        buffer.mul_(0.9)
    for part in modules if eps is not None else ():
        for name in ("eps", "variance_epsilon"):
            if isinstance(getattr(part, name, None), float):
                setattr(part, name, eps)


def products(model: Model) -> list[Tensor]:
    task = families.task()
    circuit = random_circuit(model.graph, 20, seed=0)
    return [
        eap(model, task, logit_diff).matrix,
        evaluate(model, task, [circuit], logit_diff, ablation=zero).values,
        direct_logit_attribution(model, task).values,
    ]


@pytest.mark.parametrize("family", CHANGED)
def test_results_after_a_change_are_those_of_a_model_loaded_with_it(family):
    fresh = families.module(family, families.best_dtype(family))
    used = copy.deepcopy(fresh)
    held = pieces(used)
    model = Model.load(used)
    before = products(model)
    put = in_place if family in BY_VIEWS else as_data
    eps = None if family in EPSILON_OF_CONFIG else 0.01
    change(held, put, eps)
    change(pieces(fresh), put, eps)
    for found, wanted, old in zip(
        products(model), products(Model.load(fresh)), before, strict=True
    ):
        torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-12)
        assert not torch.allclose(found, old)


@pytest.mark.parametrize("family", BY_COPIES)
def test_a_change_that_no_run_reads_is_refused(family):
    module = families.module(family, torch.float64)
    held = pieces(module)
    model = Model.load(module)
    change(held, in_place)
    message = r"was changed where no run reads it: .* into blocks.0.attn.q, .*, which are as they"
    for run in (lambda: eap(model, families.task(), logit_diff), lambda: copy.deepcopy(model)):
        with pytest.raises(ValueError, match=message):
            run()


@pytest.mark.parametrize(("family", "whole"), [("gpt2", "c_attn"), ("phi3", "gate_up_proj")])
def test_a_whole_that_gets_a_tensor_of_its_own_is_refused(family, whole):
    module = families.module(family, torch.float64)
    named = dict(module.named_parameters())
    weight = next(named[name] for name in named if whole in name)
    model = Model.load(module)
    before = model.run([4, 5]).logits
    weight.data = weight.data.clone()
    assert torch.equal(model.run([4, 5]).logits, before), "the same numbers are no change"
    weight.data = 2 * weight.data
    with pytest.raises(ValueError, match="was changed where no run reads it"):
        model.run([4, 5])


@pytest.mark.parametrize("family", ["gpt2", "neox"])
def test_parts_may_be_changed(family):
    model = Model.load(families.module(family, torch.float64))
    before = model.run([4, 5]).logits
    with torch.no_grad():
        model.bridge.blocks[0].attn.q.weight.mul_(2)
    assert not torch.equal(model.run([4, 5]).logits, before)


@pytest.mark.parametrize("family", EPSILON_OF_CONFIG)
def test_an_epsilon_that_no_run_reads_is_refused(family):
    module = families.module(family, torch.float64)
    model = Model.load(copy.deepcopy(module))
    for norm in (model.bridge.ln_final.original_component, module.transformer.ln_f):
        norm.eps = 1e-4
    for run in (lambda: model.run([4, 5]), lambda: Model.load(module)):
        with pytest.raises(
            ValueError, match="ln_final has the epsilon 0.0001, and runs take .*1e-05"
        ):
            run()
