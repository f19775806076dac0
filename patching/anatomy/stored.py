"""From the files of a model, or a name on the hub, to Hugging Face's module and its tokenizer."""

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import torch
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoTokenizer,
    PreTrainedModel,
)

from patching.anatomy.adapters import (
    adapted_hash,
    adapter_facts,
    base_of,
    is_adapter,
    merged,
)
from patching.anatomy.checkpoint import folder_facts, refuse_hostile, refuse_huge, weight_files
from patching.anatomy.complete import refuse_incomplete
from patching.anatomy.hub import fetch_config, fetch_model, fetch_those
from patching.anatomy.quantised import dequantising
from patching.anatomy.refusing import first_line
from patching.anatomy.spread import Spread
from patching.anatomy.weights import Names, hash_files
from patching.files.meant import meant
from patching.models import embedded_names
from patching.tasks.tokens import Tokenizer

_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "spiece.model")
_BESIDE_THEM = (
    *("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "merges.txt"),
    *("vocab.txt", "sentencepiece.bpe.model", "chat_template.jinja"),
)


@dataclass(frozen=True)
class Wishes:
    """How a model is to be loaded; a module or bridge in memory is taken as it is.

    `ungrouped`: with keys and values for every query head.
    """

    dtype: torch.dtype | None
    device: str | None
    revision: str | None
    trust_remote_code: bool
    spread: Spread | None = None
    ungrouped: bool = False


def read_folder(folder: Path, wishes: Wishes) -> tuple[PreTrainedModel, str]:
    """A module and the hash of the files it was read from.

    Raises:
        ValueError: if it cannot be read, or was written to meanwhile.
    """
    if not (folder / "config.json").is_file():
        raise ValueError(f"{folder} is not a model folder: it holds no config.json")
    before = folder_facts(folder)
    refuse_hostile(folder)
    module = _from_pretrained(str(folder), wishes)
    weights = _hash_stored(folder, module)
    if folder_facts(folder) != before:
        raise ValueError(f"{folder} was written to while it was loaded; load it again")
    return module, weights


def read_hub(name: str, wishes: Wishes) -> tuple[PreTrainedModel, str, str]:
    """The same of a model of the hub, and its commit.

    Raises:
        ValueError: if there is none of that name, or it cannot be read.
    """
    with _said_in_words(name):
        folder = fetch_model(name, wishes.revision)
    refuse_hostile(folder)
    module = _from_pretrained(name, replace(wishes, revision=folder.name))
    return module, _hash_stored(folder, module), folder.name


def read_adapted(folder: Path, wishes: Wishes) -> tuple[PreTrainedModel, str]:
    """The model that an adapter was trained on, with the adapter merged into it.

    Raises:
        ValueError: as `read_folder`, and if the adapter cannot be merged.
    """
    base, before = base_of(folder), adapter_facts(folder)
    where = replace(wishes, revision=None)
    read = read_folder(Path(base), where) if Path(base).is_dir() else read_hub(base, where)
    module, weights = merged(folder, read[0]), adapted_hash(folder, read[1])
    if adapter_facts(folder) != before:
        raise ValueError(f"{folder} was written to while it was loaded; load it again")
    return module, weights


def _hash_stored(folder: Path, module: PreTrainedModel) -> str:
    names = Names.of(module)
    return hash_files(weight_files(folder), tied=names.tied, prefix=names.prefix)


def tokenizer_of(source: str | Path, wishes: Wishes) -> Tokenizer | None:
    """The tokenizer of a folder or a name on the hub, without the weights; None where it has none.

    An adapter's is the one beside it, or that of the model that it was trained on.

    Raises:
        ValueError: as `tokenizer_in`.
    """
    folder = Path(source)
    if not folder.is_dir():
        return tokenizer_on_hub(str(source), wishes)
    found = tokenizer_in(folder, wishes)
    if found is None and is_adapter(folder):
        base, where = base_of(folder), replace(wishes, revision=None)
        here = Path(base).is_dir()
        return tokenizer_in(Path(base), where) if here else tokenizer_on_hub(base, where)
    return found


def tokenizer_in(folder: Path, wishes: Wishes) -> Tokenizer | None:
    """The tokenizer beside a model; None where there is none.

    Raises:
        ValueError: if it cannot be read, or is larger than any.
    """
    has_one = any((folder / name).is_file() for name in _TOKENIZER_FILES)
    refuse_huge(folder, (*_TOKENIZER_FILES, *_BESIDE_THEM))
    return _read_tokenizer(str(folder), wishes) if has_one else None


def tokenizer_on_hub(name: str, wishes: Wishes) -> Tokenizer | None:
    """The tokenizer of a model of the hub, all of one commit; None where there is none.

    Raises:
        ValueError: as `tokenizer_in`, and if there is no such model.
    """
    with _said_in_words(name):
        folder = fetch_config(name, wishes.revision)
        found = fetch_those(name, (*_TOKENIZER_FILES, *_BESIDE_THEM), folder.name)
    if not any(file in _TOKENIZER_FILES for file in found):
        return None
    refuse_huge(folder, found)
    return _read_tokenizer(name, replace(wishes, revision=folder.name))


def _read_tokenizer(name: str, wishes: Wishes) -> Tokenizer:
    try:
        return AutoTokenizer.from_pretrained(
            name, revision=wishes.revision, trust_remote_code=wishes.trust_remote_code
        )
    except Exception as error:  # many kinds, by library and format
        raise ValueError(
            f"the tokenizer of {name} cannot be read ({first_line(error)}); give one (tokenizer=)"
        ) from error


def _from_pretrained(name: str, wishes: Wishes) -> PreTrainedModel:
    """The model; of one that sees pictures as well all of it, whose text part is then wrapped.

    Raises:
        ValueError: if it cannot be read, or not as what was asked for.
    """
    spread = {} if wishes.spread is None else wishes.spread.options()
    where = {"revision": wishes.revision, "trust_remote_code": wishes.trust_remote_code}
    with _said_in_words(name):
        config = AutoConfig.from_pretrained(name, **where)
    plain = dequantising(name, config)
    shows = type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING
    shows = shows and type(config) in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING
    kind = AutoModelForImageTextToText if shows else AutoModelForCausalLM
    dtype = wishes.dtype or torch.float32
    with _said_in_words(name):
        loaded: object = kind.from_pretrained(
            name,
            dtype=dtype,
            attn_implementation="eager",
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # refused below, by name
            **where,
            **spread,
            **plain,
        )
    module, report = cast(tuple[PreTrainedModel, Mapping[str, Collection[object]]], loaded)
    refuse_incomplete(name, report)
    _refuse_other_dtype(name, module, dtype)
    return module


@contextmanager
def _said_in_words(name: str) -> Iterator[None]:
    """Whatever goes wrong inside, of many kinds by library and format, is said in one line.

    Raises:
        ValueError: naming the model.
    """
    try:
        yield
    except Exception as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        if Path(name).is_dir():
            raise ValueError(f"the model in {name} cannot be read: {reason}") from error
        raise ValueError(
            f"no model {name!r}{meant(name, embedded_names())}: it is no folder, not embedded "
            f"({', '.join(embedded_names())}), and the hub did not give it: {reason}"
        ) from error


def _refuse_other_dtype(name: str, module: PreTrainedModel, asked: torch.dtype) -> None:
    """Refuse what was rounded to another type than was asked for, which Hugging Face only logs.

    What it keeps in a wider one is brought into the type asked for when the model is wrapped.

    Raises:
        ValueError: naming the first such weight.
    """
    for key, weight in module.named_parameters():
        if weight.is_floating_point() and weight.element_size() < asked.itemsize:
            raise ValueError(
                f"{name} is refused: {key} was loaded as {weight.dtype}, and {asked} was asked "
                f"for; ask for that (dtype={weight.dtype})"
            )
