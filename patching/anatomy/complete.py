"""Whether a checkpoint has all that its model needs: what Hugging Face only logs, refused in words.

What a checkpoint lacks, Hugging Face draws at random.
"""

import warnings
from collections.abc import Collection, Mapping, Sequence
from typing import cast

from torch import nn
from torch.nn.parameter import is_lazy

_SHOWN = 3
WRAPPERS = {
    "module.": "torch's DataParallel",
    "_orig_mod.": "torch.compile",
    "base_model.model.": "peft",
    "model.": "a wrapper (Lightning, for one)",
}
"""What comes before every name in a checkpoint that was saved from within something, and whose."""


def refuse_incomplete(name: str, report: Mapping[str, Collection[object]]) -> None:
    """Refuse a model some of whose weights were not in its checkpoint, or had other shapes.

    `report` is Hugging Face's of the loading. What the checkpoint holds beyond the model's weights
    is named in a warning: it takes no part.

    Raises:
        ValueError: naming what is missing, and the way out where it is known.
    """
    missing = cast(list[str], sorted(map(str, report["missing_keys"])))
    unused = cast(list[str], sorted(map(str, report["unexpected_keys"])))
    mismatched = cast("list[tuple[str, Sequence[int], Sequence[int]]]", report["mismatched_keys"])
    if mismatched:
        key, stored, wanted = sorted(mismatched)[0]
        raise ValueError(
            f"{name} is refused: {len(mismatched)} of its weights do not have the shape that its "
            f"config.json asks for, first {key}: {list(stored)} stored, {list(wanted)} asked for"
        )
    if missing:
        raise ValueError(
            f"{name} is refused: its checkpoint lacks {len(missing)} weights, which would be drawn "
            f"at random: {_some(missing)}{_way_out(missing, unused)}"
        )
    if unused:
        warnings.warn(
            f"{name}: its checkpoint holds {len(unused)} tensors that the model has no use for, "
            f"and that take no part: {_some(unused)}",
            stacklevel=2,
        )


def refuse_empty(name: str, module: nn.Module) -> None:
    """Refuse a module some of whose weights have no values, or no gradients.

    Raises:
        ValueError: naming the first.
    """
    for key, tensor in (*module.named_parameters(), *module.named_buffers()):
        if is_lazy(tensor) or tensor.is_meta:
            raise ValueError(
                f"{name} is refused: its {key} has no values (it was never initialised, or is on "
                "the meta device); load the weights first"
            )
        if tensor.is_inference():
            raise ValueError(
                f"{name} is refused: it was made in torch.inference_mode, where no gradient can "
                "pass its weights; make it outside"
            )


def _way_out(missing: Sequence[str], unused: Sequence[str]) -> str:
    """What to do where all names have something before them."""
    for prefix, whose in WRAPPERS.items():
        bare = {key.removeprefix(prefix) for key in unused if key.startswith(prefix)}
        if unused and len(bare) == len(unused) and bare & set(missing):
            return (
                f"; every name begins with {prefix!r}, as {whose} writes them: save the model "
                f"inside it, or its state under {{key.removeprefix({prefix!r}): value}}"
            )
    if unused:
        return f"; instead it holds {len(unused)} tensors of other names: {_some(unused)}"
    return ""


def _some(keys: Sequence[str]) -> str:
    more = len(keys) - _SHOWN
    return ", ".join(keys[:_SHOWN]) + (f" and {more} more" if more > 0 else "")
