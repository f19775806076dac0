"""What all readers of published dictionaries share: settings, tensors by name, numbers."""

from collections.abc import Mapping
from pathlib import Path

import torch
import yaml
from torch import Tensor

from patching.files.parsing import read_json, shown
from patching.files.whole import read_text

LARGEST = 2**36
"""Bytes of a file that is read whole: `.npz` and `.pt` cannot be mapped into memory."""

_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def settings(path: Path) -> dict[str, object]:
    """The JSON object in a file.

    Raises:
        ValueError: if it holds something else.
    """
    found = read_json(path)
    if not isinstance(found, dict):
        raise ValueError(f"{path} holds {shown(found)}; a JSON object would be right")
    return found


def yaml_settings(path: Path) -> dict[str, object]:
    """The plain values in a YAML file; nothing in it is executed.

    Raises:
        ValueError: if it holds something else.
    """
    try:
        found = yaml.safe_load(read_text(path))
    except (yaml.YAMLError, RecursionError) as error:
        raise ValueError(f"{path} is no YAML of plain values: {str(error)[:200]}") from None
    if not isinstance(found, dict):
        raise ValueError(f"{path} holds {shown(found)}; names with values would be right")
    return found


def need(tensors: Mapping[str, Tensor], *names: str) -> list[Tensor]:
    """Tensors of floats by name.

    Raises:
        ValueError: naming one that is not there, or of another type.
    """
    found = {name: have(tensors, name) for name in names}
    for name, tensor in found.items():
        if tensor is None:
            raise ValueError(f"it lacks the tensor {name!r}; it holds {', '.join(tensors)}"[:300])
    return [tensor for tensor in found.values() if tensor is not None]


def have(tensors: Mapping[str, Tensor], name: str) -> Tensor | None:
    """A tensor of floats by name; None where there is none.

    Raises:
        ValueError: if it is of another type.
    """
    found = tensors.get(name)
    if found is not None and found.dtype not in _FLOATS:
        raise ValueError(
            f"its tensor {name!r} is stored in {str(found.dtype).removeprefix('torch.')}; floats "
            "of 16, 32 or 64 bits would be right"
        )
    return found


def whole_number(what: str, value: object) -> int:
    """A count.

    Raises:
        ValueError: if it is none.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"its {what} is {shown(value)}; a whole number from 1 on would be right")
    return value
