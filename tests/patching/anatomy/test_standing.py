"""Whatever is changed in memory is noticed, and what is put back is the same model again."""

import families
import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM

from patching.anatomy.identity import COMPUTES
from patching.model import Model

pytestmark = pytest.mark.usefixtures("own_cache")


def norm(model: Model) -> nn.Module:
    return model.bridge.blocks[0].ln1.original_component


def in_place(model: Model) -> None:
    with torch.no_grad():
        model.bridge.blocks[0].mlp.out.weight[0, 0] += 1


def behind_counters(model: Model) -> None:
    model.bridge.blocks[0].mlp.out.weight.data.mul_(2)


def another_tensor(model: Model) -> None:
    weight = model.bridge.blocks[0].mlp.out.weight
    weight.data = weight.data.clone()[torch.arange(len(weight) - 1, -1, -1)]


def another_buffer(model: Model) -> None:
    model.bridge.rotary_emb.original_component.inv_freq.mul_(0.5)


def an_attribute(model: Model) -> None:
    norm(model).variance_epsilon = 1e-2


def a_scaling(model: Model) -> None:
    model.bridge.rotary_emb.original_component.attention_scaling = 1.5


def a_configuration(model: Model) -> None:
    model.bridge.original_model.config.rms_norm_eps = 1e-2


def a_hook(model: Model) -> None:
    norm(model).register_forward_hook(lambda module, args, out: out * 2)


def a_hook_before(model: Model) -> None:
    norm(model).register_forward_pre_hook(lambda module, args: (args[0] * 2,))


def another_forward(model: Model) -> None:
    norm(model).forward = lambda x: x * 2


def an_adapter(model: Model) -> None:
    linear = model.bridge.blocks[0].mlp.out.original_component

    class Adapted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.base, self.low = linear, nn.Linear(linear.in_features, 1)

    model.bridge.blocks[0].mlp.out.set_original_component(Adapted())


def another_activation(model: Model) -> None:
    model.bridge.blocks[0].mlp.original_component.act_fn = nn.ReLU()


def training(model: Model) -> None:
    model.bridge.original_model.train()


IN_MEMORY = [
    *(in_place, behind_counters, another_tensor, another_buffer, an_attribute, a_scaling),
    *(a_configuration, a_hook, a_hook_before, another_forward, an_adapter, another_activation),
    training,
]


@pytest.mark.parametrize("change", IN_MEMORY, ids=[change.__name__ for change in IN_MEMORY])
@pytest.mark.parametrize("kept_in", ["a folder", "memory"])
def test_whatever_is_changed_in_memory_changes_what_the_model_is(llama, change, kept_in):
    source = llama if kept_in == "a folder" else AutoModelForCausalLM.from_pretrained(llama)
    model = Model.load(source)
    before = model.identity
    assert model.confirmed() == before == model.identity
    assert (before.inside is None) == (kept_in == "a folder")
    change(model)
    try:
        assert model.identity.differences(before.facts, COMPUTES)
    except (TypeError, AttributeError, NotImplementedError):  # it no longer runs at all
        assert change is an_adapter


def test_a_number_that_no_sample_sees_is_seen_where_results_are_reused(llama):
    model = Model.load(llama)
    before = model.confirmed()
    weight = model.bridge.blocks[1].mlp.out.weight
    weight.data[1, 2] += 1e-3
    assert model.identity == before, "this number is one that is not sampled"
    differ = model.confirmed().differences(before.facts, COMPUTES)
    assert "weights" in differ
    weight.data[1, 2] -= 1e-3


def test_a_row_of_an_embedding_that_the_probe_does_not_read_is_seen():
    model = Model.load(families.module("gpt2", torch.float32))
    absent = next(i for i in range(4, 90) if i not in model.opened.probe.tokens)
    for table, row in ((model.bridge.embed, absent), (model.bridge.pos_embed, 9)):
        before = model.confirmed()
        table.weight.data[row, 3] += 1e-3
        assert "weights" in model.confirmed().differences(before.facts, COMPUTES)


def test_what_is_put_back_is_the_same_model_again(llama):
    model = Model.load(llama)
    before, weight = model.identity, model.bridge.blocks[0].mlp.out.weight
    kept = weight.detach().clone()
    weight.data.zero_()
    assert model.identity != before
    weight.data.copy_(kept)
    assert model.identity == model.confirmed() == before
    with torch.no_grad():
        weight.copy_(kept)  # the counter has gone on
    assert model.weights == before.weights
