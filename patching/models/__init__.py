"""The models that ship with the package: a small trained one, and wired ones whose circuit is known.

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

from patching.models.induction import HandWired, induction
from patching.models.toy_tasks import TOY_GENERATORS
from patching.models.truth import library
from patching.models.truth.library import Known, known
from patching.models.truth.tasks import TRUTH_GENERATORS

__all__ = [
    "TOY_GENERATORS",
    "TRUTH_GENERATORS",
    "HandWired",
    "Known",
    "embedded",
    "embedded_names",
    "induction",
    "known",
    "toy_folder",
]


def embedded(
    name: str, *, dtype: torch.dtype = torch.float32
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase] | None:
    """A fresh embedded model with its tokenizer, or None if no such model is embedded.

    >>> model, tokenizer = embedded("toy")
    >>> tokenizer.decode(tokenizer.encode("The capital of France is"))
    '<bos> The capital of France is'
    """
    if name == "toy":
        folder = toy_folder()
        model = AutoModelForCausalLM.from_pretrained(
            folder, dtype=dtype, attn_implementation="eager"
        )
        return model, AutoTokenizer.from_pretrained(folder)
    if library.find(name) is not None:
        made = library.compiled(name, dtype=dtype)
        return made.model, made.tokenizer
    return None


def embedded_names() -> tuple[str, ...]:
    """The names that `embedded` knows."""
    return ("toy", *library.names())


def toy_folder() -> Path:
    """Where the toy model lies: a folder in Hugging Face format, with its `training.json`."""
    return Path(__file__).parent / "toy"
