"""The models that ship with the package: trained ones, and wired ones whose circuit is known.

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
    "WITH_TRANSCODERS",
    "HandWired",
    "Known",
    "context_folder",
    "embedded",
    "embedded_names",
    "induction",
    "known",
    "llama_folder",
    "toy_folder",
    "trained_folder",
    "transcoders_folder",
]

_TRAINED = {
    "toy": Path(__file__).parent / "toy",
    "toy-llama": Path(__file__).parent / "toy_llama",
    "toy-context": Path(__file__).parent / "toy_context",
}

WITH_TRANSCODERS = ("toy", "toy-llama")
"""The trained models that transcoders of their MLPs ship with."""


def embedded(
    name: str, *, dtype: torch.dtype = torch.float32
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase] | None:
    """A fresh embedded model with its tokenizer, or None if no such model is embedded.

    Names in `truth/` are of known circuits and of nothing else, on no hub either.

    >>> model, tokenizer = embedded("toy")
    >>> tokenizer.decode(tokenizer.encode("The capital of France is"))
    '<bos> The capital of France is'

    Raises:
        ValueError: if there is no known circuit of a name in `truth/`.
    """
    if name in _TRAINED:
        folder = _TRAINED[name]
        model = AutoModelForCausalLM.from_pretrained(
            folder, dtype=dtype, attn_implementation="eager"
        )
        return model, AutoTokenizer.from_pretrained(folder)
    if name.startswith(library.PREFIX):
        made = library.compiled(name, dtype=dtype)
        return made.model, made.tokenizer
    return None


def embedded_names() -> tuple[str, ...]:
    """The names that `embedded` knows."""
    return (*_TRAINED, *library.names(), *library.relu_names())


def trained_folder(name: str) -> Path | None:
    """Where a trained model lies, by its name; None for any other."""
    return _TRAINED.get(name)


def transcoders_folder(name: str) -> Path | None:
    """Where the transcoders of a trained model lie, by its name; None where it has none."""
    return _TRAINED[name] / "transcoders" if name in WITH_TRANSCODERS else None


def toy_folder() -> Path:
    """Where the toy model lies: a folder in Hugging Face format, with its `training.json`."""
    return _TRAINED["toy"]


def llama_folder() -> Path:
    """Where the Llama lies that learned what the toy model did, likewise."""
    return _TRAINED["toy-llama"]


def context_folder() -> Path:
    """Where the model lies that reads its context through neurons, likewise."""
    return _TRAINED["toy-context"]
