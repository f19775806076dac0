"""Checkpoints that lack something, or ask for too much, are refused before a number is made up."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import families
import pytest
import torch
import transformers as hf
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from patching.model import Model

pytestmark = pytest.mark.usefixtures("own_cache")

Tensors = dict[str, Tensor]
DOWN = "model.layers.1.mlp.down_proj.weight"


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("models")
    for family in ("llama", "gpt2"):
        families.module(family, torch.float32).save_pretrained(path / family)
    return path


def changed(made: Path, to: Path, change: Callable[[Tensors], Tensors], family: str) -> Path:
    folder = shutil.copytree(made / family, to / family)
    tensors = change(load_file(folder / "model.safetensors"))
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    return folder


def without(name: str) -> Callable[[Tensors], Tensors]:
    return lambda tensors: {key: value for key, value in tensors.items() if key != name}


def under(prefix: str) -> Callable[[Tensors], Tensors]:
    return lambda tensors: {prefix + key: value for key, value in tensors.items()}


def with_one(name: str, tensor: Tensor) -> Callable[[Tensors], Tensors]:
    return lambda tensors: {**tensors, name: tensor}


@pytest.mark.parametrize(
    ("family", "change", "message"),
    [
        ("llama", without(DOWN), f"lacks 1 weights, .* drawn at random: {DOWN}$"),
        ("llama", without("lm_head.weight"), r"lacks 1 weights, .*: lm_head.weight$"),
        ("llama", under("module."), "lacks 21 weights.* begins with 'module.', .*DataParallel"),
        ("llama", under("base_model.model."), "begins with 'base_model.model.', as peft writes"),
        ("llama", under("net."), "lacks 21 weights.* instead it holds 21 tensors of other names"),
        ("gpt2", under("_orig_mod."), r"'_orig_mod.', as torch.compile .*removeprefix\('_orig_mod"),
        ("gpt2", under("model."), "begins with 'model.', as a wrapper"),
        (
            "llama",
            with_one(DOWN, torch.zeros(3, 5)),
            rf"1 of its weights .* first {DOWN}: \[3, 5\] stored, \[32, 48\] asked for",
        ),
    ],
)
def test_an_incomplete_checkpoint_is_refused_by_name(made, tmp_path, family, change, message):
    with pytest.raises(ValueError, match=message):
        Model.load(changed(made, tmp_path, change, family))


def test_tensors_without_use_are_named(made, tmp_path):
    bias = with_one("model.layers.0.self_attn.q_proj.bias", torch.ones(32))
    with pytest.warns(UserWarning, match="1 tensors that the model has no use for.*q_proj.bias"):
        Model.load(changed(made, tmp_path, bias, "llama"))


@pytest.mark.parametrize(
    ("family", "change"),
    [
        ("llama", with_one("model.layers.0.self_attn.rotary_emb.inv_freq", torch.zeros(4))),
        ("gpt2", with_one("transformer.h.0.attn.bias", torch.ones(1, 1, 64, 64))),
        ("gpt2", lambda t: {key.removeprefix("transformer."): t[key] for key in t}),
        ("gpt2", lambda t: {**t, "lm_head.weight": t["transformer.wte.weight"].clone()}),
    ],
    ids=["rotary buffers", "attention masks", "saved without its head", "tied and stored twice"],
)
def test_what_is_known_to_be_harmless_is_the_same_model(made, tmp_path, family, change):
    loaded = Model.load(changed(made, tmp_path, change, family))
    plain = Model.load(made / family)
    assert torch.equal(loaded.run([4, 5, 6]).logits, plain.run([4, 5, 6]).logits)
    if "rotary" not in str(change) and family == "gpt2":
        assert loaded.identity.config == plain.identity.config


def test_a_module_without_values_is_refused():
    with torch.device("meta"):
        module = hf.LlamaForCausalLM(families.config("llama"))
    with pytest.raises(ValueError, match="its model.embed_tokens.weight has no values"):
        Model.load(module)
    module = families.module("llama", torch.float32)
    module.model.layers[0].mlp.up_proj = nn.LazyLinear(48)
    with pytest.raises(ValueError, match="up_proj.weight has no values"):
        Model.load(module)


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"num_hidden_layers": 10**9}, "num_hidden_layers is 1,000,000,000; the weight files"),
        ({"vocab_size": 10**12}, "vocab_size is 1,000,000,000,000"),
        ({"hidden_size": -32}, "hidden_size is -32; .* allow for 0 to"),
        ({"num_attention_heads": 10**9}, "num_attention_heads is"),
        ({"max_position_embeddings": 10**15}, "max_position_embeddings is"),
        ({"dtype": "os"}, "dtype is 'os', which is no type of torch's"),
        ({"torch_dtype": ["float32"]}, "torch_dtype is "),
        ({"text_config": {"num_hidden_layers": 10**9}}, "num_hidden_layers is"),
    ],
)
def test_a_configuration_that_asks_for_too_much_is_refused(made, tmp_path, said, message):
    folder = shutil.copytree(made / "llama", tmp_path / "llama")
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **said}))
    with pytest.raises(ValueError, match=rf"config.json says that {message}"):
        Model.load(folder)


@pytest.mark.parametrize("text", ["[]", "{", "null"])
def test_what_is_no_configuration_is_refused_with_its_name(made, tmp_path, text):
    folder = shutil.copytree(made / "llama", tmp_path / "llama")
    (folder / "config.json").write_text(text)
    with pytest.raises(ValueError, match="config.json (holds no|is not)"):
        Model.load(folder)


def test_a_tokenizer_larger_than_any_is_refused(made, tmp_path):
    folder = shutil.copytree(made / "llama", tmp_path / "llama")
    with (folder / "tokenizer.json").open("wb") as file:
        file.truncate(2**28 + 1)  # takes no room
    with pytest.raises(ValueError, match="tokenizer.json has 268,435,457 bytes, and no tokenizer"):
        Model.load(folder)


def test_loading_draws_nothing_from_the_callers_random_numbers(made):
    for source in ("toy", "truth/copy", made / "llama"):
        torch.manual_seed(3)
        expected = torch.rand(4)
        torch.manual_seed(3)
        Model.load(source)
        assert torch.equal(torch.rand(4), expected)
