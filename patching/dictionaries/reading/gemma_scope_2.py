"""Gemma Scope 2: `config.json` and `params.safetensors`, or a file for each layer of a CLT.

w_enc [d, f], w_dec [f, d] (of a cross-layer transcoder [f, L, d], of which the layers below its own
mean nothing), b_enc, b_dec, threshold [f], maybe affine_skip_connection [d_in, d_out]. Places are
Hugging Face's module names.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor

from patching.dictionaries.dictionary import Dictionary
from patching.dictionaries.published import place_of
from patching.dictionaries.reading.folding import Places, Weights
from patching.dictionaries.reading.stored import have, need, settings
from patching.files.parsing import shown
from patching.files.tensors import read_tensor_file

CONFIG, FILE = "config.json", "params.safetensors"
_LAYER = re.compile(r"params_layer_(\d+)\.safetensors")


def recognises(folder: Path) -> bool:
    """Whether a folder holds these files."""
    return (folder / CONFIG).exists() and ((folder / FILE).exists() or bool(_layers(folder)))


def read(folder: Path, places: Places | None) -> list[Dictionary]:
    """The dictionary of a folder, or those of all layers.

    Raises:
        ValueError: if it is damaged, of another kind, or says nothing of a place that is known.
    """
    said = settings(folder / CONFIG)
    kind = said.get("architecture", "jump_relu")
    if kind not in ("jump_relu", "jumprelu"):
        raise ValueError(f"its architecture is {shown(kind)}; jump_relu can be read")
    facts = {"format": "Gemma Scope 2", **{k: said[k] for k in ("model_name", "l0") if k in said}}
    places, files = places or _places(said), _layers(folder)
    if (folder / FILE).exists():
        weights = weights_of(read_tensor_file(folder / FILE)[0])
        return [weights.folded(folder.name, places, facts)]
    places = Places(_for_any_layer(places.reads), _for_any_layer(places.writes))
    if [*files] != [*range(len(files))]:
        raise ValueError(f"it holds the layers {[*files]}; all from 0 on would be right")
    later = [places.at(layer).writes for layer in files]
    return [
        weights_of(read_tensor_file(path)[0], later[layer:]).folded(
            f"{folder.name} {layer}", places.at(layer), facts
        )
        for layer, path in files.items()
    ]


def _layers(folder: Path) -> dict[int, Path]:
    found = {int(m[1]): path for path in folder.iterdir() if (m := _LAYER.fullmatch(path.name))}
    return dict(sorted(found.items()))


def weights_of(tensors: Mapping[str, Tensor], writes: Sequence[str] = ()) -> Weights:
    """The tensors of a file; of a CLT, with the places it `writes` at, its own first.

    Raises:
        ValueError: if one is not there, or the decoder is of fewer layers.
    """
    w_enc, b_enc, w_dec, b_dec, threshold = need(
        tensors, "w_enc", "b_enc", "w_dec", "b_dec", "threshold"
    )
    skip, later = have(tensors, "affine_skip_connection"), {}
    if writes:
        if w_dec.ndim != 3 or w_dec.shape[1] < len(writes):
            raise ValueError(f"a decoder of shape {[*w_dec.shape]} is not of so many layers")
        first = w_dec.shape[1] - len(writes)
        later = {place: w_dec[:, first + i] for i, place in enumerate(writes) if i}
        w_dec = w_dec[:, first]
    return Weights(w_enc, b_enc, w_dec, b_dec, threshold, skip=skip, later=later)


def _places(said: dict[str, object]) -> Places:
    reads = place_of(str(said.get("hf_hook_point_in")))
    out = said.get("hf_hook_point_out")
    return Places(reads, place_of(str(out)) if out else reads)


def _for_any_layer(place: str) -> str:
    return re.sub(r"\d+", "{}", place, count=1)
