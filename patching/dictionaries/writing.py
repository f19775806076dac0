"""Dictionaries written as SAELens stores them, so that they can be used there, and read here again.

SAELens has no TopK transcoders: they are written as its transcoders with an `activation_fn`, which
is read here. It has no cross-layer transcoders at all.
"""

import json
from pathlib import Path

import torch
from torch import Tensor

from patching.dictionaries.dictionary import Dictionary
from patching.dictionaries.published import hook_of
from patching.dictionaries.reading.saelens import FILES
from patching.dictionaries.several import Dictionaries
from patching.files.tensors import write_tensor_file
from patching.files.whole import inside, write_text

_VERSION = "6.0.0"  # the first whose settings look like this
_TOLD = ("model_name", "prepend_bos", "l0", "weights", "text", "recipe", "quality")


def save_dictionaries(
    several: Dictionaries, folder: str | Path, *, dtype: torch.dtype = torch.float32
) -> tuple[Path, ...]:
    """Write `cfg.json` and `sae_weights.safetensors` of each, in a folder named after its place.

    Args:
        several: what to write.
        folder: where to.
        dtype: what tensors are stored in; float16 halves the files, and features that are almost
            equally large may change places.

    Returns:
        The folders, in the dictionaries' order.

    Raises:
        ValueError: if features write across layers, or no hook name is published for a place.
    """
    for one in several:
        if one.later:
            raise ValueError(
                f"{one.name!r} writes at {len(one.decoders)} places, and SAELens has nothing to "
                "hold a cross-layer transcoder"
            )
    settings = [_settings(one, several, dtype) for one in several]
    folders = tuple(inside(folder, one.writes) for one in several)
    for one, said, to in zip(several, settings, folders, strict=True):
        write_tensor_file(to / FILES[1], _tensors(one, dtype), {})
        write_text(to / FILES[0], json.dumps(said, indent=2, sort_keys=True) + "\n")
    return folders


def _tensors(one: Dictionary, dtype: torch.dtype) -> dict[str, Tensor]:
    found = {"W_enc": one.w_enc, "b_enc": one.b_enc, "W_dec": one.w_dec, "b_dec": one.b_dec}
    if "jumprelu" in _kind(one):
        found["threshold"] = one.threshold.clamp(min=0)
    if one.skip is not None:
        found["W_skip"] = one.skip.T
    return {name: tensor.detach().cpu().to(dtype).contiguous() for name, tensor in found.items()}


def _kind(one: Dictionary) -> str:
    """SAELens' name for what it is."""
    crosses = one.reads != one.writes or one.skip is not None
    jumps = bool((one.threshold > 0).any())
    if not crosses:
        return "topk" if one.k is not None else "jumprelu" if jumps else "standard"
    skips = "skip_" if one.skip is not None else ""
    return f"{'jumprelu_' if jumps else ''}{skips}transcoder"


def _settings(one: Dictionary, several: Dictionaries, dtype: torch.dtype) -> dict[str, object]:
    """What stands in `cfg.json`.

    Raises:
        ValueError: if no hook name is published for a place.
    """
    if one.k is not None and (one.threshold > 0).any():
        raise ValueError(
            f"{one.name!r} has thresholds and keeps the k largest: SAELens has no such"
        )
    kind, known = _kind(one), {**several.facts, **one.facts}
    about = {"hook_name": hook_of(one.reads), "sae_lens_version": _VERSION}
    about |= {name: known[name] for name in _TOLD if name in known}
    said: dict[str, object] = {
        "architecture": kind,
        "d_in": one.w_enc.shape[0],
        "d_sae": one.n_features,
        "dtype": str(dtype).removeprefix("torch."),
        "device": "cpu",
        "apply_b_dec_to_input": False,
        "normalize_activations": "none",
        "reshape_activations": "hook_z" if one.reads.endswith(".z") else "none",
    }
    if "transcoder" in kind:
        about["hook_name_out"] = hook_of(one.writes)
        said["d_out"] = len(one.b_dec)
        if one.k is not None:
            said |= {"activation_fn": "topk", "activation_fn_kwargs": {"k": one.k}}
    elif one.k is not None:
        said["k"] = one.k
    return said | {"metadata": about}
