"""Transcoders as circuit-tracer reads them: a file for each layer, or a cross-layer transcoder.

`config.yaml` with `layer_N.safetensors`: W_enc [f, d], W_dec [f, d], b_enc, b_dec, maybe
`activation_function.threshold` and W_skip [d_out, d_in]. A cross-layer transcoder is
`W_enc_N.safetensors` (W_enc_N [f, d], b_enc_N, b_dec_N, maybe threshold_N and W_skip_N
[d_in, d_out]) and `W_dec_N.safetensors` (W_dec_N [f, L - N, d]), with or without `config.yaml`.

Where `config.yaml` lists `transcoders`, they are files of the folder or addresses on the hub, one
for each layer from 0 on; Gemma Scope's are read in their own format.
"""

import re
from collections.abc import Callable, Mapping
from pathlib import Path

from patching.dictionaries.dictionary import Dictionary
from patching.dictionaries.published import place_of
from patching.dictionaries.reading import gemma_scope, gemma_scope_2
from patching.dictionaries.reading.folding import Places, Weights
from patching.dictionaries.reading.hub import download_file
from patching.dictionaries.reading.stored import have, need, whole_number, yaml_settings
from patching.files.parsing import naming, shown
from patching.files.tensors import read_tensor_file

CONFIG = "config.yaml"
_PLAIN = re.compile(r"layer_(\d+)\.safetensors")
_CROSSING = re.compile(r"W_enc_(\d+)\.safetensors")
_FACTS = ("model_name", "scan")


def recognises(folder: Path) -> bool:
    """Whether a folder holds these files."""
    if _files(folder, _CROSSING) or _files(folder, _PLAIN):
        return True
    return (folder / CONFIG).exists() and "transcoders" in yaml_settings(folder / CONFIG)


def read(folder: Path, places: Places | None) -> list[Dictionary]:
    """The dictionaries of a folder, one a layer.

    Raises:
        ValueError: if they are damaged, of another kind, or nothing says where they belong.
    """
    said = yaml_settings(folder / CONFIG) if (folder / CONFIG).exists() else {}
    k, crosses = _k(said), _files(folder, _CROSSING)
    places = places or _places(said, crosses=bool(crosses))
    files = crosses or _listed(folder, said) or _files(folder, _PLAIN)
    kind = "cross-layer transcoder" if crosses else "transcoder"
    facts: dict[str, object] = {"format": "circuit-tracer", "kind": kind}
    facts |= {key: said[key] for key in _FACTS if key in said}
    if crosses and [*files] != [*range(len(files))]:
        raise ValueError(f"it holds the layers {[*files]}; all from 0 on would be right")
    read_layer: Callable[[int], Weights] = (
        (lambda layer: _crossing(folder, layer, [places.at(to).writes for to in files][layer:], k))
        if crosses
        else (lambda layer: _plain(files[layer], k))
    )
    found: list[Dictionary] = []
    for layer, path in files.items():
        with naming(path):
            name = f"{folder.name} {layer}"
            found.append(read_layer(layer).folded(name, places.at(layer), facts))
    return found


def _files(folder: Path, pattern: re.Pattern[str]) -> dict[int, Path]:
    """Files by layer, in order."""
    found = {int(m[1]): path for path in folder.iterdir() if (m := pattern.fullmatch(path.name))}
    return dict(sorted(found.items()))


def _listed(folder: Path, said: Mapping[str, object]) -> dict[int, Path]:
    """The files that `config.yaml` lists, by layer.

    Raises:
        ValueError: if it lists something else, or what is not there.
    """
    names = said.get("transcoders", [])
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"its transcoders are {shown(names)}; a list of files would be right")
    return {i: _place_of_file(folder, name) for i, name in enumerate(names)}


def _place_of_file(folder: Path, name: str) -> Path:
    if name.startswith("hf://"):
        return download_file(name)
    if re.fullmatch(r"[\w.-]+", name) is None or not (folder / name).is_file():
        raise ValueError(f"it lists the file {name[:100]!r}, which {folder} does not hold")
    return folder / name


def _plain(path: Path, k: int | None) -> Weights:
    if path.suffix == ".npz":
        return gemma_scope.read_weights(path)
    tensors, _ = read_tensor_file(path)
    if "w_enc" in tensors:
        return gemma_scope_2.weights_of(tensors)
    w_enc, b_enc, w_dec, b_dec = need(tensors, "W_enc", "b_enc", "W_dec", "b_dec")
    skip, threshold = have(tensors, "W_skip"), have(tensors, "activation_function.threshold")
    return Weights(
        w_enc.T, b_enc, w_dec, b_dec, threshold, k, skip=None if skip is None else skip.T
    )


def _crossing(folder: Path, layer: int, writes: list[str], k: int | None) -> Weights:
    """One layer of a cross-layer transcoder, with the places it writes at, its own first.

    Raises:
        ValueError: if its decoder is of other layers.
    """
    tensors, _ = read_tensor_file(folder / f"W_enc_{layer}.safetensors")
    decoders, _ = read_tensor_file(folder / f"W_dec_{layer}.safetensors")
    w_enc, b_enc, b_dec = need(tensors, f"W_enc_{layer}", f"b_enc_{layer}", f"b_dec_{layer}")
    (w_dec,) = need(decoders, f"W_dec_{layer}")
    if w_dec.ndim != 3 or w_dec.shape[1] != len(writes):
        raise ValueError(
            f"its decoder has shape {[*w_dec.shape]}; that of layer {layer} should be "
            f"[features, {len(writes)}, d_model]"
        )
    return Weights(
        w_enc.T,
        b_enc,
        w_dec[:, 0],
        b_dec,
        have(tensors, f"threshold_{layer}"),
        k,
        skip=have(tensors, f"W_skip_{layer}"),
        later={place: w_dec[:, i] for i, place in enumerate(writes) if i},
    )


def _k(said: Mapping[str, object]) -> int | None:
    """How many features of a token stay, where it is TopK.

    Raises:
        ValueError: for an activation function that is not known.
    """
    kind = said.get("activation", "relu")
    options = kind if isinstance(kind, dict) else {}
    kind = options.get("type", options.get("name", "relu")) if options else kind
    if kind == "topk":
        return whole_number("k", options.get("k", said.get("k")))
    if kind not in ("relu", "jump_relu", "jumprelu"):
        raise ValueError(f"its activation is {shown(kind)}; relu, jump_relu and topk can be read")
    return None


def _places(said: Mapping[str, object], *, crosses: bool) -> Places:
    """Of all layers; circuit-tracer's own defaults where a CLT has no `config.yaml`."""
    default = "hook_resid_mid" if crosses else None
    reads = said.get("feature_input_hook", default)
    writes = said.get("feature_output_hook", "hook_mlp_out" if crosses else None)
    return Places(
        *(re.sub(r"\d+", "{}", place_of(f"blocks.0.{h}"), count=1) for h in (reads, writes))
    )
