"""Quantised models are dequantised where transformers can without a card, else refused in words."""

import json
from pathlib import Path

import pytest
import torch
import transformers as hf
from packaging.version import Version
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from patching.anatomy import stored
from patching.model import Model

pytestmark = pytest.mark.usefixtures("own_cache")

SIZES = {
    **{"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 2, "vocab_size": 97},
    **{"num_attention_heads": 4, "num_key_value_heads": 4, "head_dim": 16},
    **{"max_position_embeddings": 64, "pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 2},
}
LLAMA = hf.LlamaConfig(**SIZES)


def save(folder: Path, tensors: dict[str, Tensor], method: dict[str, object]) -> Path:
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "quantization_config": method}))
    return folder


def made(folder: Path, module: hf.PreTrainedModel) -> dict[str, Tensor]:
    module.save_pretrained(folder)
    return load_file(folder / "model.safetensors")


def test_eight_bits_are_dequantised_to_the_numbers_they_stand_for(tmp_path):
    tensors, expected = made(tmp_path, hf.LlamaForCausalLM(LLAMA)), {}
    for name in [name for name in tensors if "proj.weight" in name]:
        scale = tensors[name].abs().max() / 448
        tensors[name] = (tensors[name] / scale).to(torch.float8_e4m3fn)
        tensors[name + "_scale_inv"] = scale.reshape(1, 1)
        expected[name] = tensors[name].float() * scale
    said = {"quant_method": "fp8", "weight_block_size": [64, 64], "activation_scheme": "dynamic"}
    model = Model.load(save(tmp_path, tensors, said))
    assert (model.dtype, model.identity.inside) == (torch.float32, None)
    for i, block in enumerate(model.bridge.blocks):
        assert torch.equal(block.mlp.out.weight, expected[f"model.layers.{i}.mlp.down_proj.weight"])


@pytest.mark.skipif(
    Version(torch.__version__) < Version("2.7"), reason="transformers asks such torch for a GPU"
)
def test_four_bits_are_dequantised_to_the_numbers_they_stand_for(tmp_path):
    config = hf.GptOssConfig(**SIZES, num_local_experts=2, num_experts_per_tok=1)
    tensors = made(tmp_path, hf.GptOssForCausalLM(config))
    torch.manual_seed(0)
    for name in [name for name in tensors if name.endswith(("gate_up_proj", "experts.down_proj"))]:
        experts, n_in, n_out = tensors.pop(name).shape
        shape = (experts, n_out, n_in // 32)
        tensors[name + "_blocks"] = torch.randint(256, (*shape, 16)).to(torch.uint8)
        tensors[name + "_scales"] = torch.full(shape, 127 - 4, dtype=torch.uint8)
    model = Model.load(save(tmp_path, tensors, {"quant_method": "mxfp4"}))
    assert model.dtype == torch.float32
    named = dict(model.bridge.original_model.named_parameters())
    found = next(weight for name, weight in named.items() if name.endswith("experts.down_proj"))
    values = {0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0}
    assert {float(value) for value in (16 * found).abs().unique()} == values


@pytest.mark.parametrize("method", ["bitsandbytes", "gptq", "awq", "torchao", "unheard-of"])
def test_other_checkpoints_are_refused_by_name(tmp_path, method):
    tensors = made(tmp_path, hf.LlamaForCausalLM(LLAMA))
    said = {"quant_method": method, "bits": 4, "load_in_8bit": True}
    with pytest.raises(ValueError, match=rf"quantised \({method}\); load the model that"):
        Model.load(save(tmp_path, tensors, said))


def of_a_quantiser(module: nn.Module) -> None:
    kind = type("Linear4bit", (nn.Linear,), {"__module__": "bitsandbytes.nn.modules"})
    module.model.layers[0].mlp.up_proj = kind(64, 64, bias=False)


def of_whole_numbers(module: nn.Module) -> None:
    weight = torch.zeros(64, 64, dtype=torch.int8)
    module.model.layers[0].mlp.up_proj.weight = nn.Parameter(weight, requires_grad=False)


def of_a_byte(module: nn.Module) -> None:
    weight = module.model.layers[0].mlp.up_proj.weight
    weight.data = weight.data.to(torch.float8_e4m3fn)


@pytest.mark.parametrize("change", [of_a_quantiser, of_whole_numbers, of_a_byte])
def test_modules_in_memory_are_refused_by_name(change):
    module = hf.LlamaForCausalLM(LLAMA)
    change(module)
    with pytest.raises(ValueError, match=r"quantised \(model.layers.0.mlp.up_proj.* dequantise it"):
        Model.load(module)


def test_a_type_narrower_than_asked_for_is_refused(tmp_path, monkeypatch):
    module = hf.LlamaForCausalLM(LLAMA).half()
    module.save_pretrained(tmp_path)
    report = dict.fromkeys(("missing_keys", "unexpected_keys", "mismatched_keys"), ())
    kind = type("Auto", (), {"from_pretrained": staticmethod(lambda *_, **__: (module, report))})
    monkeypatch.setattr(stored, "AutoModelForCausalLM", kind)
    with pytest.raises(ValueError, match=r"loaded as torch.float16, and torch.float32 was ask"):
        Model.load(tmp_path)
