"""Models that read more than their graph's readers, or whose rows read each other, are refused."""

from functools import partial

import families
import pytest
import torch
import zoo
from torch import Tensor, nn

from patching.model import Model

Kept = dict[str, Tensor]


def keep_first(kept: Kept, module: nn.Module, args: tuple[Tensor, ...]) -> None:
    kept["seen"] = args[0]


def gate_by_stream(kept: Kept, module: nn.Module, args: tuple[Tensor, ...], out: Tensor) -> Tensor:
    return out * (1 + kept["seen"].mean(dim=-1, keepdim=True).tanh())


def route_by_tokens(kept: Kept, module: nn.Module, args: tuple[Tensor, ...], out: Tensor) -> Tensor:
    return out * (1 + kept["seen"] % 2)[..., None]


def centre_rows(module: nn.Module, args: tuple[Tensor, ...], out: Tensor) -> Tensor:
    return out - out.mean(dim=0, keepdim=True)


def look_ahead(module: nn.Module, args: tuple[Tensor, ...], out: Tensor) -> Tensor:
    return out + out.roll(-1, dims=1)


def gpt2() -> nn.Module:
    return families.module("gpt2", torch.float64)


@pytest.mark.parametrize("name", ["AfmoeForCausalLM", "LagunaForCausalLM"])
def test_a_family_whose_gates_nobody_knows_to_be_readers_is_refused(name, monkeypatch):
    monkeypatch.setattr("patching.anatomy.blocks.shows_gates", lambda block: False)
    with pytest.raises(ValueError, match=f"{name} is refused: layer 0's attention reads the str"):
        Model.load(zoo.build(name))


def test_an_mlp_that_is_gated_by_the_stream_is_refused():
    module, kept = gpt2(), {}
    block = module.get_submodule("transformer.h.1")
    block.register_forward_pre_hook(partial(keep_first, kept))
    block.get_submodule("mlp").register_forward_hook(partial(gate_by_stream, kept))
    with pytest.raises(ValueError, match="layer 1's MLP reads the stream or the tokens beside"):
        Model.load(module)


def test_an_mlp_that_is_chosen_by_the_tokens_is_refused():
    module, kept = gpt2(), {}
    module.get_submodule("transformer.wte").register_forward_pre_hook(partial(keep_first, kept))
    mlp = module.get_submodule("transformer.h.1.mlp")
    mlp.register_forward_hook(partial(route_by_tokens, kept))
    with pytest.raises(ValueError, match="layer 1's MLP reads the stream or the tokens beside"):
        Model.load(module)


@pytest.mark.parametrize("part", [centre_rows, look_ahead])
def test_rows_that_depend_on_other_rows_or_on_later_tokens_are_refused(part):
    module = gpt2()
    module.get_submodule("transformer.h.0.mlp").register_forward_hook(part)
    with pytest.raises(ValueError, match="what a row gives alone is not what it is beside other"):
        Model.load(module)


def test_the_proof_needs_no_more_than_three_runs_of_the_wrapped_model():
    """One as it is, one with its readers held, and half a one."""
    module, n_tokens = gpt2(), []
    module.register_forward_pre_hook(partial(_count, n_tokens), with_kwargs=True)
    Model.load(module)
    assert n_tokens[:1] == [14]  # the plain module
    assert sum(n_tokens[1:]) <= 3 * 14


def _count(n_tokens: list[int], module: nn.Module, args: tuple, kwargs: dict) -> None:
    tokens = args[0] if args else kwargs["input_ids"]
    n_tokens.append(tokens.numel())
