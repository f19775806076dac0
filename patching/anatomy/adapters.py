"""Folders of adapters (peft): the model they were trained on, with the adapter merged into it."""

import importlib
import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import cast

from transformers import PreTrainedModel

from patching.anatomy.checkpoint import ADAPTER, file_facts
from patching.anatomy.identity import short_hash
from patching.anatomy.refusing import refusing
from patching.anatomy.weights import hash_files
from patching.files.parsing import read_json, shown

_WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")
_SAYS_NOTHING = ("base_model_name_or_path", "revision", "inference_mode", "peft_version")


def is_adapter(folder: Path) -> bool:
    """Whether a folder holds an adapter and no model."""
    return (folder / ADAPTER).is_file() and not (folder / "config.json").is_file()


def base_of(folder: Path) -> str:
    """The folder or name of the model that an adapter was trained on.

    Raises:
        ValueError: if the adapter does not say it, or has no weights.
    """
    content = read_json(folder / ADAPTER)
    base = content.get("base_model_name_or_path") if isinstance(content, dict) else None
    if not isinstance(base, str) or not base:
        raise ValueError(
            f"{folder / ADAPTER} says {shown(base)} for base_model_name_or_path; the folder or "
            "name of the model that the adapter was trained on would be right"
        )
    _weights(folder)
    beside = folder / base
    return str(beside) if beside.is_dir() and not Path(base).is_dir() else base


def merged(folder: Path, base: PreTrainedModel) -> PreTrainedModel:
    """The base, changed in place to what it is with the adapter.

    Raises:
        ValueError: if peft is not installed, the adapter lacks weights, or it cannot be merged.
    """
    peft = _peft(folder)
    with refusing(str(folder), "its adapter cannot be merged into its model", own=True):
        model = peft.PeftModel.from_pretrained(base, str(folder))
        stored = peft.utils.load_peft_weights(str(folder), device="cpu")
        needed = peft.get_peft_model_state_dict(model)
        differ = sorted({*stored} ^ {*needed})
        if differ:
            what = "lacks" if differ[0] in needed else "holds, beside what is used,"
            raise ValueError(f"{_weights(folder)} {what} {differ[0]}: {len(differ)} such tensors")
        merge = cast(Callable[..., PreTrainedModel], model.merge_and_unload)
        return merge(safe_merge=True)


def adapted_hash(folder: Path, base: str) -> str:
    """A short hash of an adapter's weights and settings with that of its base."""
    content = cast(dict[str, object], read_json(folder / ADAPTER))
    settings = {key: content[key] for key in content if key not in _SAYS_NOTHING}
    parts = [base, hash_files([_weights(folder)]), settings]
    return short_hash(json.dumps(parts, sort_keys=True))


def adapter_facts(folder: Path) -> object:
    """What the file system says of an adapter's files."""
    return file_facts(folder / ADAPTER), file_facts(_weights(folder))


def _weights(folder: Path) -> Path:
    for name in _WEIGHTS:
        if (folder / name).is_file():
            return folder / name
    raise ValueError(f"{folder} holds an adapter without weights: none of {', '.join(_WEIGHTS)}")


def _peft(folder: Path) -> ModuleType:
    try:
        return importlib.import_module("peft")
    except ImportError:
        raise ValueError(
            f"{folder} holds an adapter ({ADAPTER}), which is no whole model: install peft to have "
            "it merged, or merge it where that is (merge_and_unload, save_pretrained) and load "
            "that folder"
        ) from None
