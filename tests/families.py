"""Tiny random models of every supported family, with biases and norm scales that matter."""

from collections.abc import Iterable

import pytest
import torch
import transformers as hf

from patching.ablations import Ablation, mean, positional_mean, resample, zero
from patching.model import Model
from patching.tasks import Prompt, Task
from patching.tasks.task import PaddingSide

VOCAB = 97
FLOAT32_ONLY = ("mixtral", "qwen3_moe", "olmoe")  # torch's grouped product refuses float64
TRUE_FLOAT64 = ("gpt2", "neox", "neox_sequential", "phi")  # nothing runs in float32
WITHOUT_SPLIT_INPUTS = ("gptj", "opt", "gptneo")  # TransformerLens has no per-head inputs there


def config(family: str) -> hf.PretrainedConfig:
    return _configs()[family]


def names() -> list[str]:
    return list(_configs())


def slow_but(usual: Iterable[str], without: Iterable[str] = ()) -> list[object]:
    """All families as parameters of a fixture: the usual ones always, others with slow tests."""
    return [
        pytest.param(name, marks=[] if name in usual else pytest.mark.slow)
        for name in names()
        if name not in without
    ]


def ablations() -> dict[str, Ablation]:
    """Each kind, of the prompts of `task()`."""
    seen = task()
    return {
        "resample": resample,
        "zero": zero,
        "mean": mean(seen),
        "positional mean": positional_mean(seen),
    }


def module(family: str, dtype: torch.dtype, seed: int = 0) -> hf.PreTrainedModel:
    """A fresh model with weights scaled up so that scores are not degenerate."""
    torch.manual_seed(seed)
    model = hf.AutoModelForCausalLM.from_config(config(family), attn_implementation="eager")
    model = model.to(dtype).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.3 * torch.randn_like(parameter))
            else:
                parameter.normal_(0, 0.25 if parameter.shape[-1] >= 16 else 0.5)
    return model


def load(family: str, dtype: torch.dtype | None = None) -> Model:
    """The model of `module`, in the best type if none is asked for."""
    return Model.load(module(family, dtype or best_dtype(family)))


def loud(family: str, dtype: torch.dtype) -> Model:
    """A tiny model whose embedding is as loud as large models' streams are."""
    model = module(family, best_dtype(family))
    with torch.no_grad():
        model.get_input_embeddings().weight.mul_(1000)
    return Model.load(model.to(dtype))


def best_dtype(family: str) -> torch.dtype:
    return torch.float32 if family in FLOAT32_ONLY else torch.float64


def task(n: int = 3, length: int = 9, seed: int = 3) -> Task:
    """Random tokens; two positions differ between clean and corrupt."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randint(4, VOCAB - 1, shape, generator=generator)

    prompts = []
    for row in draw(n, length).tolist():
        corrupt = list(row)
        for position in (2, 5):
            corrupt[position] = row[position] % (VOCAB - 5) + 5
        answer, wrong = draw(2).tolist()
        prompts.append(Prompt(tuple(row), tuple(corrupt), (answer,), (wrong % (VOCAB - 5) + 5,)))
    prompts = [p for p in prompts if p.answers != p.wrong_answers]
    return Task("random", tuple(prompts))


def ragged_task(lengths: tuple[int, ...] = (9, 6, 7), padding: PaddingSide = "right") -> Task:
    """Prompts of `task`, one of each length."""
    parts = [task(1, length, seed=length).prompts for length in lengths]
    return Task("ragged", tuple(prompt for part in parts for prompt in part), padding)


def shaken_gpt2(n_layer: int = 2, n_head: int = 2) -> hf.GPT2LMHeadModel:
    """A small GPT-2 in float64, with weights so large that nothing is nearly linear."""
    sizes = _gpt_like(n_positions=16, n_embd=8 * n_head, n_layer=n_layer, n_head=n_head)
    torch.manual_seed(0)
    model = hf.GPT2LMHeadModel(hf.GPT2Config(**sizes)).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model


def _llama_like(**changes: object) -> dict[str, object]:
    values = {
        "vocab_size": VOCAB,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 64,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "tie_word_embeddings": False,
    }
    return {**values, **changes}


def _gpt_like(**changes: object) -> dict[str, object]:
    values = {
        "vocab_size": VOCAB,
        "n_positions": 64,
        "n_embd": 32,
        "n_layer": 2,
        "n_head": 4,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    return {**values, **changes}


def _neox(parallel: bool) -> hf.PretrainedConfig:
    return hf.GPTNeoXConfig(
        vocab_size=VOCAB,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=64,
        use_parallel_residual=parallel,
        bos_token_id=1,
        eos_token_id=2,
    )


def _configs() -> dict[str, hf.PretrainedConfig]:
    windowed = {"head_dim": 8, "sliding_window": 4, "query_pre_attn_scalar": 8}
    experts = {"num_experts": 4, "num_experts_per_tok": 2}
    return {
        "gpt2": hf.GPT2Config(**_gpt_like()),
        "llama": hf.LlamaConfig(**_llama_like()),
        "qwen2": hf.Qwen2Config(**_llama_like()),
        "qwen3": hf.Qwen3Config(**_llama_like(head_dim=8)),
        "neox": _neox(parallel=True),
        "neox_sequential": _neox(parallel=False),
        "gemma": hf.GemmaConfig(**_llama_like(head_dim=8, tie_word_embeddings=True)),
        "gemma2": hf.Gemma2Config(**_llama_like(tie_word_embeddings=True, **windowed)),
        "gemma3": hf.Gemma3TextConfig(**_llama_like(tie_word_embeddings=True, **windowed)),
        "mistral": hf.MistralConfig(**_llama_like(sliding_window=4)),
        "mixtral": hf.MixtralConfig(**_llama_like(num_local_experts=4, num_experts_per_tok=2)),
        "qwen3_moe": hf.Qwen3MoeConfig(
            **_llama_like(head_dim=8, moe_intermediate_size=24, **experts)
        ),
        "olmoe": hf.OlmoeConfig(**_llama_like(**experts)),
        "phi3": hf.Phi3Config(**_llama_like(rope_scaling=None)),
        "phi": hf.PhiConfig(**_llama_like(num_key_value_heads=4)),
        "gptj": hf.GPTJConfig(**_gpt_like(rotary_dim=4, tie_word_embeddings=False)),
        "olmo2": hf.Olmo2Config(**_llama_like()),
        "opt": hf.OPTConfig(
            vocab_size=VOCAB,
            hidden_size=32,
            ffn_dim=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=64,
            word_embed_proj_dim=32,
        ),
        "gptneo": hf.GPTNeoConfig(
            vocab_size=VOCAB,
            hidden_size=32,
            num_layers=2,
            num_heads=4,
            attention_types=[[["global", "local"], 1]],
            window_size=4,
            max_position_embeddings=64,
            intermediate_size=64,
            bos_token_id=1,
            eos_token_id=2,
        ),
        "granite": hf.GraniteConfig(**_llama_like(residual_multiplier=0.3)),
    }
