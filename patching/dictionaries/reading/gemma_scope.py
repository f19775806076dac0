"""Gemma Scope: `params.npz` with W_enc [d, f], W_dec [f, d], b_enc, b_dec, threshold [f].

Lieberum et al. 2024, arXiv:2408.05147. Nothing in the file says where it belongs: names of folders
do, such as `gemma-scope-2b-pt-res/layer_20/width_16k/average_l0_71`.
"""

import re
from pathlib import Path

from patching.dictionaries.dictionary import Dictionary
from patching.dictionaries.reading.folding import Places, Weights
from patching.dictionaries.reading.stored import LARGEST, need
from patching.files.tensors import read_npz

FILE = "params.npz"
_SITES = {
    "res": Places("r{}.post", "r{}.post"),
    "mlp": Places("m{}", "m{}"),
    "att": Places("a{}.z", "a{}.z"),
    "transcoders": Places("m{}.x_hat", "m{}"),
}
_SITE = re.compile(r"gemma-scope-\w+-(?:pt|it)-(res|mlp|att|transcoders)")


def recognises(folder: Path) -> bool:
    """Whether a folder holds this file."""
    return (folder / FILE).exists()


def read(folder: Path, places: Places | None) -> list[Dictionary]:
    """The dictionary of a folder.

    Raises:
        ValueError: if it is damaged, or no name says where it belongs.
    """
    path = folder.absolute().as_posix()
    weights = read_weights(folder / FILE, is_embedding="embedding" in path)
    return [weights.folded(folder.name, places or _places(path), {"format": "Gemma Scope"})]


def read_weights(path: Path, *, is_embedding: bool = False) -> Weights:
    """The tensors of a file.

    Raises:
        ValueError: if it is damaged, or lacks one.
    """
    arrays = read_npz(path, most=LARGEST)
    tensors = {_spelled(name): tensor for name, tensor in arrays.items()}
    w_enc, b_enc, w_dec, b_dec, threshold = need(
        tensors, "W_enc", "b_enc", "W_dec", "b_dec", "threshold"
    )
    scale = len(b_dec) ** -0.5 if is_embedding else 1.0  # the embedding before Gemma's sqrt(d)
    return Weights(w_enc, b_enc, w_dec, b_dec, threshold, scale_in=scale, scale_out=scale)


def _spelled(name: str) -> str:
    return f"W_{name[2:]}" if name.startswith("w_") else name


def _places(path: str) -> Places:
    layer, site = re.search(r"layer_(\d+)", path), _SITE.search(path)
    if site and site[1] == "res" and "embedding" in path:
        return Places("embed", "embed")
    if layer is None or site is None:
        raise ValueError(
            "a Gemma Scope file does not say where it belongs, and no folder above is named like "
            "gemma-scope-2b-pt-res/layer_20: give reads= and writes=, such as 'r20.post' twice, or "
            "'m20.x_hat' and 'm20' of a transcoder"
        )
    return _SITES[site[1]].at(int(layer[1]))
