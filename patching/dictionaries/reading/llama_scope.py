"""Llama Scope: `hyperparams.json` and `checkpoints/final.safetensors`.

He et al. 2024, arXiv:2410.20526. Trained on inputs and outputs whose mean norms were made sqrt(d),
with one threshold for all features in the units of the unscaled input; where
`sparsity_include_decoder_norm`, it is held against values times the norm of the decoder's row.
"""

import math
from collections.abc import Mapping
from pathlib import Path

from jaxtyping import Float
from torch import Tensor

from patching.dictionaries.dictionary import Dictionary
from patching.dictionaries.published import place_of
from patching.dictionaries.reading.folding import Places, Weights
from patching.dictionaries.reading.stored import need, settings, whole_number
from patching.files.parsing import number, shown
from patching.files.tensors import read_tensor_file

CONFIG, FILE = "hyperparams.json", "checkpoints/final.safetensors"


def recognises(folder: Path) -> bool:
    """Whether a folder holds these files."""
    return (folder / CONFIG).exists() and (folder / FILE).exists()


def read(folder: Path, places: Places | None) -> list[Dictionary]:
    """The dictionary of a folder.

    Raises:
        ValueError: if it is damaged, of another kind, or says nothing of a place that is known.
    """
    said = settings(folder / CONFIG)
    if said.get("act_fn") not in ("jumprelu", "relu", "topk"):
        raise ValueError(f"its act_fn is {shown(said.get('act_fn'))}; jumprelu can be read")
    tensors, _ = read_tensor_file(folder / FILE)
    w_enc, b_enc, w_dec, b_dec = need(
        tensors, "encoder.weight", "encoder.bias", "decoder.weight", "decoder.bias"
    )
    scales = _scale(said, "in", w_enc.shape[1]), _scale(said, "out", len(b_dec))
    weights = Weights(
        w_enc.T,
        b_enc,
        w_dec.T,
        b_dec,
        threshold=_threshold(said, scales[0], w_dec.T) if said["act_fn"] == "jumprelu" else None,
        k=whole_number("top_k", said.get("top_k")) if said["act_fn"] == "topk" else None,
        subtracts=bool(said.get("apply_decoder_bias_to_pre_encoder", False)),
        scale_in=scales[0],
        scale_out=scales[1],
    )
    facts = {"format": "Llama Scope", "kind": said["act_fn"], "l0": said.get("top_k")}
    return [weights.folded(folder.name, places or _places(said), facts)]


def _scale(said: Mapping[str, object], side: str, width: int) -> float:
    """What the dictionary's inputs or outputs are multiplied by.

    Raises:
        ValueError: if that hangs on the token.
    """
    if said.get("norm_activation", "dataset-wise") != "dataset-wise":
        if said["norm_activation"] in ("none", "inference"):
            return 1.0
        raise ValueError(
            f"its inputs are normalised anew at every token ({shown(said['norm_activation'])}), "
            "which no weights can hold"
        )
    norms = said.get("dataset_average_activation_norm")
    norm = number(norms.get(side) if isinstance(norms, dict) else None)
    if norm <= 0:
        raise ValueError(f"its mean norm {side} is {norm}; more than 0 would be right")
    return math.sqrt(width) / norm


def _threshold(
    said: Mapping[str, object], scale: float, w_dec: Float[Tensor, "feature d_out"]
) -> Float[Tensor, " feature"]:
    theta = number(said.get("jump_relu_threshold")) * scale
    norms = w_dec.float().norm(dim=1)
    if not said.get("sparsity_include_decoder_norm", False):
        norms = norms.new_ones(len(norms))
    return theta / norms.clamp(min=1e-30)


def _places(said: Mapping[str, object]) -> Places:
    return Places(
        place_of(str(said.get("hook_point_in"))), place_of(str(said.get("hook_point_out")))
    )
