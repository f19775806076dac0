"""Autoencoders and transcoders as EleutherAI's `sparsify` writes them, a folder for each place.

`layers.3.mlp/cfg.json` and `sae.safetensors`: encoder.weight [f, d], encoder.bias, W_dec [f, d],
b_dec, maybe W_skip [d_out, d_in]. TopK per token. Of transcoders from before February 2025, `b_dec`
was subtracted from the input; nothing in the files tells them from later ones.
"""

from pathlib import Path

from patching.dictionaries.dictionary import Dictionary
from patching.dictionaries.published import place_of
from patching.dictionaries.reading.folding import Places, Weights
from patching.dictionaries.reading.stored import have, need, settings, whole_number
from patching.files.parsing import shown
from patching.files.tensors import read_tensor_file

FILES = ("cfg.json", "sae.safetensors")


def recognises(folder: Path) -> bool:
    """Whether a folder holds these files."""
    return all((folder / name).exists() for name in FILES)


def read(folder: Path, places: Places | None) -> list[Dictionary]:
    """The dictionary of a folder.

    Raises:
        ValueError: if it is damaged, of another kind, or its folder is named after no place.
    """
    said = settings(folder / FILES[0])
    kind = said.get("activation", "topk")
    if kind != "topk":
        raise ValueError(
            f"its activation is {shown(kind)}, where one feature of each group stays; topk, the "
            "largest of all, can be read"
        )
    tensors, _ = read_tensor_file(folder / FILES[1])
    w_enc, b_enc, w_dec, b_dec = need(tensors, "encoder.weight", "encoder.bias", "W_dec", "b_dec")
    skip, crosses = have(tensors, "W_skip"), bool(said.get("transcode"))
    weights = Weights(
        w_enc.T,
        b_enc,
        w_dec,
        b_dec,
        k=whole_number("k", said.get("k")),
        skip=None if skip is None else skip.T,
        subtracts=not crosses,
    )
    facts = {"format": "sparsify", "kind": "transcoder" if crosses else "autoencoder"}
    return [weights.folded(folder.name, places or _places(folder.name, crosses=crosses), facts)]


def _places(name: str, *, crosses: bool) -> Places:
    if crosses and name.endswith(".mlp"):
        return Places(place_of(f"{name}.input"), place_of(f"{name}.output"))
    return Places(place_of(name), place_of(name))
