"""The models that ship with the package: a small trained one, and hand-wired ones.

Everything here loads without a network.
"""

from pathlib import Path

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from patching.models.induction import TRUTH_GENERATORS, HandWired, induction
from patching.models.toy_tasks import TOY_GENERATORS

__all__ = [
    "TOY_GENERATORS",
    "TRUTH_GENERATORS",
    "HandWired",
    "embedded",
    "embedded_names",
    "induction",
    "toy_folder",
]

_HAND_WIRED = {"truth/induction": "clean", "truth/induction-noise": "noise"}


def embedded(name: str) -> tuple[PreTrainedModel, PreTrainedTokenizerBase] | None:
    """A fresh embedded model in float32 with its tokenizer, or None if no such model is embedded.

    >>> model, tokenizer = embedded("toy")
    >>> tokenizer.decode(tokenizer.encode("The capital of France is"))
    '<bos> The capital of France is'
    """
    if name == "toy":
        folder = toy_folder()
        model = AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float32, attn_implementation="eager"
        )
        return model, AutoTokenizer.from_pretrained(folder)
    if name in _HAND_WIRED:
        wired = induction(_HAND_WIRED[name], n=1)
        return wired.model, wired.tokenizer
    return None


def embedded_names() -> tuple[str, ...]:
    """The names that `embedded` knows."""
    return ("toy", *_HAND_WIRED)


def toy_folder() -> Path:
    """Where the toy model lies: a folder in Hugging Face format, with its `training.json`."""
    return Path(__file__).parent / "toy"
