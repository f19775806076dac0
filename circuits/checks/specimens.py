"""Small models to try extensions on: random weights, in three formats, in float64."""

from dataclasses import dataclass, replace

import torch
import transformers as hf

from patching.metrics import Metric, logit_diff, logprob_diff
from patching.model import Model
from patching.modes import without_gradients
from patching.tasks.random_tokens import random_tokens
from patching.tasks.task import Task

VOCAB = 97


@dataclass(frozen=True)
class Specimen:
    """A model, a task of random tokens with its metric, and the relative error of its rounding."""

    model: Model
    task: Task
    rounding: float
    metric: Metric = logit_diff


def specimen(model: Model) -> Specimen:
    """A model as a specimen; many families norm in float32 whatever the type of their weights."""
    config = model.bridge.cfg
    task = random_tokens(int(config.d_vocab), min(int(config.n_ctx), 9))
    true_float64 = model.dtype == torch.float64 and config.normalization_type == "LN"
    rounding = 1e-10 if true_float64 else 2e-6 if model.dtype == torch.float64 else 1e-4
    return Specimen(model, task, rounding)


def specimens() -> tuple[Specimen, ...]:
    """A GPT-2, a Llama with shared keys and values, and a Gemma 2 with post-norms and soft caps.

    The Llama's answers have one token or several, of different lengths in a row.
    """
    gpt2, llama, gemma = (specimen(Model.load(_random(config))) for config in _configs())
    return gpt2, _of_two_lengths(llama), gemma


def _of_two_lengths(one: Specimen) -> Specimen:
    """The same with answers of several tokens in every other row."""
    prompts = list(one.task.prompts)
    for i, prompt in list(enumerate(prompts))[::2]:
        (right,), (wrong,) = prompt.answers, prompt.wrong_answers
        assert isinstance(right, int) and isinstance(wrong, int), "random answers are single"
        longer = {"answers": ((right, 5, 6),), "wrong_answers": ((wrong, 7),)}
        prompts[i] = replace(prompt, **longer)
    return replace(one, task=replace(one.task, prompts=tuple(prompts)), metric=logprob_diff)


def _configs() -> tuple[hf.PretrainedConfig, ...]:
    gpt2 = hf.GPT2Config(
        vocab_size=VOCAB,
        n_positions=16,
        n_embd=16,
        n_layer=2,
        n_head=4,
        bos_token_id=1,
        eos_token_id=2,
    )
    grouped = {
        "vocab_size": VOCAB,
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 16,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    windowed = {"head_dim": 4, "sliding_window": 4, "query_pre_attn_scalar": 4}
    llama = hf.AutoConfig.for_model("llama", **grouped)
    return gpt2, llama, hf.AutoConfig.for_model("gemma2", **grouped, **windowed)


@without_gradients
def _random(config: hf.PretrainedConfig) -> hf.PreTrainedModel:
    """Weights large enough that nothing is nearly linear; the same at every call."""
    generator = torch.Generator().manual_seed(0)
    module = hf.AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    module = module.to(torch.float64).eval()
    for parameter in module.parameters():
        noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        parameter.copy_(parameter + 0.3 * noise if parameter.ndim == 1 else 0.35 * noise)
    return module
