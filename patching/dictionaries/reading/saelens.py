"""Autoencoders and transcoders as SAELens writes them, before its version 6 and since.

`cfg.json` and `sae_weights.safetensors`: W_enc [d, f], W_dec [f, d], b_enc, b_dec, and `threshold`
(older: `log_threshold`), gates, or `W_skip` [d_out, d_in].
"""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

from torch import Tensor

from patching.dictionaries.dictionary import Dictionary
from patching.dictionaries.published import place_of
from patching.dictionaries.reading.folding import Places, Weights, gated, rescaled
from patching.dictionaries.reading.stored import have, need, settings, whole_number
from patching.files.parsing import shown
from patching.files.tensors import read_tensor_file

FILES = ("cfg.json", "sae_weights.safetensors")
KINDS = (
    *("standard", "gated", "topk", "jumprelu", "batchtopk", "matryoshka_batchtopk"),
    *("transcoder", "skip_transcoder", "jumprelu_transcoder", "jumprelu_skip_transcoder"),
)
_FACTS = (
    *("model_name", "prepend_bos", "context_size", "model_from_pretrained_kwargs", "l0"),
    *("weights", "text", "recipe", "quality"),  # of those that were trained here
)
_PER_TOKEN = ("layer_norm", "constant_norm_rescale")


def recognises(folder: Path) -> bool:
    """Whether a folder holds these files."""
    return all((folder / name).exists() for name in FILES)


def read(folder: Path, places: Places | None) -> list[Dictionary]:
    """The dictionary of a folder.

    Raises:
        ValueError: if it is damaged, of a kind that is not of the one form, or says nothing of a
            place that is known.
    """
    said = settings(folder / FILES[0])
    about = said.get("metadata")
    about = about if isinstance(about, dict) else said
    kind = _kind(said)
    tensors, _ = read_tensor_file(folder / FILES[1])
    weights = _weights(kind, said, tensors)
    facts = {"format": "SAELens", "kind": kind, **{k: about[k] for k in _FACTS if k in about}}
    return [weights.folded(folder.name, places or _places(about), facts)]


def _kind(said: Mapping[str, object]) -> str:
    """Which architecture it is.

    Raises:
        ValueError: if it cannot be brought to the one form.
    """
    kind = said.get("architecture", "standard")
    if said.get("normalize_activations") in _PER_TOKEN:
        raise ValueError(
            f"its inputs are normalised anew at every token ({said['normalize_activations']}), "
            "which no weights can hold; train one with normalize_activations 'none'"
        )
    if kind not in KINDS:
        raise ValueError(f"its architecture is {shown(kind)}; {', '.join(KINDS)} can be read")
    if said.get("hook_head_index", said.get("hook_point_head_index")) is not None:
        raise ValueError("it reads one head; of heads, those on all of a layer (hook_z) can be")
    function = said.get("activation_fn", said.get("activation_fn_str", "relu"))
    if function not in ("relu", "topk"):
        raise ValueError(f"its activation function is {shown(function)}; relu or topk can be read")
    return "topk" if function == "topk" else str(kind)


def _weights(kind: str, said: Mapping[str, object], tensors: Mapping[str, Tensor]) -> Weights:
    if kind == "gated":
        w_enc, b_gate, r_mag, b_mag, *rest = need(
            tensors, "W_enc", "b_gate", "r_mag", "b_mag", "W_dec", "b_dec"
        )
        found = gated(w_enc, b_gate, r_mag, b_mag, dict(zip(("w_dec", "b_dec"), rest, strict=True)))
    else:
        w_enc, b_enc, w_dec, b_dec = need(tensors, "W_enc", "b_enc", "W_dec", "b_dec")
        log, skip = have(tensors, "log_threshold"), have(tensors, "W_skip")
        found = Weights(
            w_enc,
            b_enc,
            w_dec,
            b_dec,
            threshold=have(tensors, "threshold") if log is None else log.exp(),
            k=_k(said) if kind == "topk" else None,
            skip=None if skip is None else skip.T,
        )
        if "jumprelu" in kind and log is None:
            need(tensors, "threshold")
    for scale in map(partial(have, tensors), ("finetuning_scaling_factor", "scaling_factor")):
        found = found if scale is None else rescaled(found, scale)
    subtracts = bool(said.get("apply_b_dec_to_input", "transcoder" not in kind))
    return replace(found, subtracts=subtracts)


def _k(said: Mapping[str, object]) -> int:
    options = said.get("activation_fn_kwargs")
    return whole_number(
        "k", said.get("k") or (options if isinstance(options, dict) else {}).get("k")
    )


def _places(about: Mapping[str, object]) -> Places:
    named = about.get("hook_name", about.get("hook_point"))
    reads = place_of(str(about.get("hf_hook_name") or named))
    out = about.get("hf_hook_name_out") or about.get("hook_name_out")
    return Places(reads, place_of(str(out)) if out else reads)
