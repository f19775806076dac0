"""Autoencoders as the `dictionary_learning` library writes them: `ae.pt`, maybe `config.json`.

`ae.pt` is a pickled state dict of plain tensors; nothing in it is executed. Which class it is of
can be told by the names of its tensors, where no `config.json` says it.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from patching.dictionaries.dictionary import Dictionary
from patching.dictionaries.published import place_of
from patching.dictionaries.reading.folding import Places, Weights, gated
from patching.dictionaries.reading.stored import LARGEST, need, settings, whole_number
from patching.files.parsing import shown
from patching.files.tensors import read_pt

FILE = "ae.pt"


def recognises(folder: Path) -> bool:
    """Whether a folder holds this file."""
    return (folder / FILE).exists()


def read(folder: Path, places: Places | None) -> list[Dictionary]:
    """The dictionary of a folder.

    Raises:
        ValueError: if it is damaged, of a class that is not known, or says nothing of a place.
    """
    held = read_pt(folder / FILE, most=LARGEST)
    if not isinstance(held, dict) or not all(isinstance(key, str) for key in held):
        raise ValueError(f"{folder / FILE} holds {shown(type(held).__name__)}, no tensors by name")
    tensors = {key: value for key, value in held.items() if isinstance(value, Tensor)}
    said = settings(folder / "config.json") if (folder / "config.json").exists() else {}
    trainer = said.get("trainer")
    trainer = trainer if isinstance(trainer, dict) else {}
    kind = str(trainer.get("dict_class") or _kind(tensors))
    if kind not in KINDS:
        raise ValueError(f"its class is {shown(kind)}; {', '.join(KINDS)} can be read")
    facts: dict[str, object] = {"format": "dictionary_learning", "kind": kind}
    if "lm_name" in trainer:
        facts["model_name"] = trainer["lm_name"]
    return [KINDS[kind](tensors, trainer).folded(folder.name, places or _places(trainer), facts)]


def _kind(tensors: Mapping[str, Tensor]) -> str:
    if "r_mag" in tensors:
        return "GatedAutoEncoder"
    if "encoder.weight" not in tensors:
        return "JumpReluAutoEncoder"
    if "b_dec" in tensors:
        return "AutoEncoderTopK" if "threshold" not in tensors else "BatchTopKSAE"
    return "AutoEncoder" if "bias" in tensors else "AutoEncoderNew"


def _plain(tensors: Mapping[str, Tensor], _: Mapping[str, object]) -> Weights:
    w_enc, b_enc, w_dec, bias = need(
        tensors, "encoder.weight", "encoder.bias", "decoder.weight", "bias"
    )
    return Weights(w_enc.T, b_enc, w_dec.T, bias, subtracts=True)


def _new(tensors: Mapping[str, Tensor], _: Mapping[str, object]) -> Weights:
    w_enc, b_enc, w_dec, bias = need(
        tensors, "encoder.weight", "encoder.bias", "decoder.weight", "decoder.bias"
    )
    return Weights(w_enc.T, b_enc, w_dec.T, bias)


def _gated(tensors: Mapping[str, Tensor], _: Mapping[str, object]) -> Weights:
    w_enc, b_gate, r_mag, b_mag, w_dec, bias = need(
        tensors,
        "encoder.weight",
        "gate_bias",
        "r_mag",
        "mag_bias",
        "decoder.weight",
        "decoder_bias",
    )
    found = gated(w_enc.T, b_gate, r_mag, b_mag, {"w_dec": w_dec.T, "b_dec": bias})
    return replace(found, subtracts=True)


def _top_k(tensors: Mapping[str, Tensor], trainer: Mapping[str, object]) -> Weights:
    """Without the threshold that is stored with it, and that its encoder does not use."""
    k = tensors["k"].item() if "k" in tensors else trainer.get("k")
    return replace(_centred(tensors), k=whole_number("k", k))


def _batch_top_k(tensors: Mapping[str, Tensor], _: Mapping[str, object]) -> Weights:
    found, (theta,) = _centred(tensors), need(tensors, "threshold")
    return replace(found, threshold=theta.to(found.b_enc).expand_as(found.b_enc))


def _centred(tensors: Mapping[str, Tensor]) -> Weights:
    w_enc, b_enc, w_dec, bias = need(
        tensors, "encoder.weight", "encoder.bias", "decoder.weight", "b_dec"
    )
    return Weights(w_enc.T, b_enc, w_dec.T, bias, subtracts=True)


def _jump(tensors: Mapping[str, Tensor], _: Mapping[str, object]) -> Weights:
    w_enc, b_enc, w_dec, b_dec, theta = need(
        tensors, "W_enc", "b_enc", "W_dec", "b_dec", "threshold"
    )
    flag = tensors.get("apply_b_dec_to_input")
    subtracts = flag is not None and bool(flag)
    return Weights(w_enc, b_enc, w_dec, b_dec, theta, subtracts=subtracts)


def _places(trainer: Mapping[str, object]) -> Places:
    place = place_of(str(trainer.get("submodule_name")))
    return Places(place, place)


KINDS: Mapping[str, Callable[[Mapping[str, Tensor], Mapping[str, object]], Weights]] = {
    "AutoEncoder": _plain,
    "AutoEncoderNew": _new,
    "GatedAutoEncoder": _gated,
    "AutoEncoderTopK": _top_k,
    "BatchTopKSAE": _batch_top_k,
    "MatryoshkaBatchTopKSAE": _batch_top_k,
    "JumpReluAutoEncoder": _jump,
}
