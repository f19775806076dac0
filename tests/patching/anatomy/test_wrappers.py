"""What is put around a model or into it is taken off, or refused by name: never ignored."""

import copy
import importlib.util
import json
import types
from pathlib import Path

import families
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import LlamaForCausalLM

from patching.model import Model

pytestmark = pytest.mark.usefixtures("own_cache")


def llama() -> LlamaForCausalLM:
    module = families.module("llama", torch.float32)
    assert isinstance(module, LlamaForCausalLM)
    return module


@pytest.fixture(scope="module")
def logits() -> Tensor:
    return Model.load(llama()).run([4, 5, 6]).logits


# Around it.


class OptimizedModule(nn.Module):
    """Built as torch.compile's, whose machinery takes seconds to import."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self._orig_mod = module


class FullyShardedDataParallel(nn.Module):
    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module


@pytest.mark.parametrize(
    "wrap",
    [
        nn.DataParallel,
        OptimizedModule,
        lambda module: OptimizedModule(nn.DataParallel(module)),
        pytest.param(torch.compile, marks=pytest.mark.slow),
    ],
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_what_torch_puts_around_a_module_is_taken_off(wrap, logits):
    assert torch.equal(Model.load(wrap(llama())).run([4, 5, 6]).logits, logits)


def test_parts_that_were_compiled_are_run_as_they_are(logits):
    module = llama()
    module.model.layers[0] = OptimizedModule(module.model.layers[0])
    module.model.layers[1].mlp = OptimizedModule(module.model.layers[1].mlp)
    module._compiled_call_impl = lambda *args: pytest.fail("the compiled model ran")
    model = Model.load(module)
    assert torch.equal(model.run([4, 5, 6]).logits, logits)
    assert module._compiled_call_impl is None


def test_a_module_spread_over_processes_is_refused():
    with pytest.raises(ValueError, match="is spread over processes .FullyShardedDataParallel."):
        Model.load(FullyShardedDataParallel(llama()))


# Adapters: peft's have the structure of these.


class Lora(nn.Module):
    """A low-rank addition beside a projection, as peft builds it."""

    def __init__(self, base_layer: nn.Linear, scaling: float) -> None:
        super().__init__()
        self.base_layer, self.scaling = base_layer, scaling
        self.lora_A = nn.Linear(base_layer.in_features, 2, bias=False)
        self.lora_B = nn.Linear(2, base_layer.out_features, bias=False)

    weight = property(lambda self: self.base_layer.weight)
    bias = property(lambda self: self.base_layer.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.base_layer(x) + self.scaling * self.lora_B(self.lora_A(x))


class Own(nn.Module):
    """The same by somebody else, under names that nobody knows."""

    def __init__(self, inner: nn.Linear, scaling: float) -> None:
        super().__init__()
        self.inner, self.scaling = inner, scaling
        self.down = nn.Linear(inner.in_features, 2, bias=False)
        self.up = nn.Linear(2, inner.out_features, bias=False)

    weight = property(lambda self: self.inner.weight)
    bias = property(lambda self: self.inner.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x) + self.scaling * self.up(self.down(x))


class PeftModel(nn.Module):
    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.base_model = nn.Module()
        self.base_model.model = module
        self.peft_config = {"default": None}


def adapted(kind: type[nn.Module], place: str, scaling: float) -> LlamaForCausalLM:
    module = llama()
    torch.manual_seed(2)
    owner, _, name = place.rpartition(".")
    part = module.get_submodule(owner)
    setattr(part, name, kind(getattr(part, name), scaling))
    return module


PLACES = [
    *("model.layers.0.self_attn.q_proj", "model.layers.1.self_attn.o_proj"),
    *("model.layers.1.mlp.down_proj", "lm_head"),
]


@pytest.mark.parametrize("scaling", [1.0, 1e-6])
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("kind", [Lora, Own])
def test_an_adapter_is_refused_however_little_it_does(kind, place, scaling):
    match = (
        "has an adapter in .*merge_and_unload" if kind is Lora else "something beside its weight"
    )
    with pytest.raises(ValueError, match=match):
        Model.load(adapted(kind, place, scaling))


def test_a_peft_model_is_refused_with_the_way_out():
    with pytest.raises(ValueError, match=r"PeftModel is refused: .* around it .*merge_and_unload"):
        Model.load(PeftModel(llama()))


def test_one_that_does_nothing_is_the_model_itself(logits):
    model = Model.load(adapted(Own, PLACES[0], 0.0))
    assert torch.equal(model.run([4, 5, 6]).logits, logits)


@pytest.mark.parametrize("put", ["hook", "forward"])
def test_a_projection_that_was_changed_in_memory_before_is_refused(put):
    module = llama()
    projection = module.model.layers[0].self_attn.v_proj
    if put == "hook":
        projection.register_forward_hook(lambda module, args, out: out * (1 + 1e-7))
    else:
        weight = projection.weight
        projection.forward = types.MethodType(
            lambda self, x: x @ weight.T.to(x) * 1.001, projection
        )
    with pytest.raises(ValueError, match=r"its blocks.0.attn.v .* something beside its weight"):
        Model.load(module)


# Folders of adapters.

SETTINGS = {"peft_type": "LORA", "r": 2, "target_modules": ["q_proj"], "lora_alpha": 4}


@pytest.fixture
def folders(tmp_path) -> tuple[Path, Path]:
    """A model, and an adapter beside it without weights."""
    base, adapter = tmp_path / "base", tmp_path / "adapter"
    llama().save_pretrained(base)
    adapter.mkdir()
    said = {**SETTINGS, "base_model_name_or_path": str(base)}
    (adapter / "adapter_config.json").write_text(json.dumps(said))
    return base, adapter


def test_a_folder_of_an_adapter_needs_peft(folders, monkeypatch):
    save_file({"x": torch.zeros(1)}, folders[1] / "adapter_model.safetensors")
    monkeypatch.setitem(__import__("sys").modules, "peft", None)
    with pytest.raises(ValueError, match="holds an adapter .* install peft to have it merged, or"):
        Model.load(folders[1])


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ("{}", "says None for base_model_name_or_path"),
        ("[]", "says None for base_model_name_or_path"),
        ("{", "adapter_config.json is not"),
        (json.dumps({"base_model_name_or_path": "x"}), "holds an adapter without weights"),
    ],
)
def test_a_folder_of_an_adapter_that_says_too_little_is_refused(folders, said, message):
    (folders[1] / "adapter_config.json").write_text(said)
    with pytest.raises(ValueError, match=message):
        Model.load(folders[1])


with_peft = pytest.mark.skipif(importlib.util.find_spec("peft") is None, reason="needs peft")
as_peft_warns = pytest.mark.filterwarnings("ignore:.*deprecated:FutureWarning")


@with_peft
@as_peft_warns
def test_an_adapter_is_merged_into_its_model(tmp_path, logits):
    import peft

    llama().save_pretrained(tmp_path / "base")
    base = LlamaForCausalLM.from_pretrained(tmp_path / "base")
    settings = peft.LoraConfig(r=2, target_modules=["q_proj", "down_proj"], init_lora_weights=False)
    model = peft.get_peft_model(base, settings)
    model.save_pretrained(tmp_path / "adapter")
    for wrong in (model, model.base_model.model):
        with pytest.raises(ValueError, match="merge_and_unload"):
            Model.load(wrong)
    expected = Model.load(copy.deepcopy(model).merge_and_unload()).run([4, 5, 6]).logits
    loaded = Model.load(tmp_path / "adapter")
    torch.testing.assert_close(loaded.run([4, 5, 6]).logits, expected)
    assert not torch.allclose(expected, logits)
    plain = Model.load(tmp_path / "base").identity
    assert loaded.identity.differences(plain.facts) == ("weights",)
    assert loaded.confirmed() == Model.load(tmp_path / "adapter").identity
    said = tmp_path / "adapter" / "adapter_config.json"
    said.write_text(json.dumps({**json.loads(said.read_text()), "lora_alpha": 32}))
    assert Model.load(tmp_path / "adapter").identity.differences(loaded.identity.facts)


@with_peft
@as_peft_warns
def test_an_adapter_that_lacks_a_tensor_is_refused(tmp_path):
    import peft

    llama().save_pretrained(tmp_path / "base")
    base = LlamaForCausalLM.from_pretrained(tmp_path / "base")
    peft.get_peft_model(base, peft.LoraConfig(target_modules=["q_proj"])).save_pretrained(tmp_path)
    path = tmp_path / "adapter_model.safetensors"
    tensors = load_file(path)
    save_file(dict(list(tensors.items())[1:]), path)
    with pytest.warns(UserWarning, match="missing"), pytest.raises(ValueError, match="lacks base_"):
        Model.load(tmp_path)
