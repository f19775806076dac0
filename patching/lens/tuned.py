"""Tuned lens: one affine map a layer, from its residual stream to the last one.

`h + A_l h + b_l`, then the model's own final norm and unembedding. `training` makes one.
Belrose et al. 2023, arXiv:2303.08112.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_safetensors
from torch import Tensor

from patching.blocks import widen
from patching.files import write_bytes
from patching.model import Model

_FORMAT = "tuned lens 1"


@dataclass(frozen=True, eq=False)
class TunedLens:
    """Maps of the streams that enter the layers, in float32; the last stream needs none.

    `provenance["weights"]` is the hash of the weights it was trained for.
    """

    maps: Float[Tensor, "layer d_model d_model"]
    offsets: Float[Tensor, "layer d_model"]
    provenance: Mapping[str, object]

    def __call__(
        self, stream: Float[Tensor, "*rows d_model"], layer: int
    ) -> Float[Tensor, "*rows d_model"]:
        """What the stream entering `layer` is on its way to, in float32 or wider."""
        stream = widen(stream)
        shift = self.maps[layer].to(stream), self.offsets[layer].to(stream)
        return stream + stream @ shift[0].T + shift[1]

    def check(self, model: Model) -> None:
        """Refuse another model than the one it was trained for.

        Raises:
            ValueError: naming both.
        """
        if self.provenance["weights"] != model.weights:
            raise ValueError(
                f"this tuned lens was trained for {self.provenance['model']} (weights "
                f"{self.provenance['weights']}), and {model.name} has weights {model.weights}; "
                "train one for it with `train_tuned_lens`"
            )

    def save(self, path: str | Path) -> None:
        """Write a safetensors file that `load_tuned_lens` reads."""
        tensors = {"maps": self.maps, "offsets": self.offsets}
        write_tensors(path, tensors, _FORMAT, self.provenance)


def load_tuned_lens(path: str | Path, model: Model) -> TunedLens:
    """Read what `TunedLens.save` wrote.

    Raises:
        ValueError: if the file is no tuned lens, or was trained for another model.
    """
    tensors, provenance = read_tensors(path, _FORMAT)
    device = model.device
    lens = TunedLens(tensors["maps"].to(device), tensors["offsets"].to(device), provenance)
    lens.check(model)
    return lens


def write_tensors(
    path: str | Path, tensors: Mapping[str, Tensor], kind: str, facts: Mapping[str, object]
) -> None:
    """Tensors with plain facts beside them, as one safetensors file, written atomically."""
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    metadata = {"format": kind, "facts": json.dumps(facts, sort_keys=True)}
    write_bytes(path, to_safetensors(plain, metadata))


def read_tensors(path: str | Path, kind: str) -> tuple[dict[str, Tensor], dict[str, object]]:
    """What `write_tensors` wrote.

    Raises:
        ValueError: if the file is damaged or of another kind.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"{path} is no whole safetensors file: {error}") from None
    if metadata.get("format") != kind:
        raise ValueError(f"{path} is no {kind.rsplit(' ', 1)[0]} of a kind that this program reads")
    return tensors, json.loads(metadata["facts"])


def stream_layer(kind: str, layer: int, n_layers: int) -> int | None:
    """Which layer a state of the stream enters; None for the last stream.

    Raises:
        ValueError: if the state enters none: it lies inside a layer or is a write.
    """
    entered = {"resid_pre": layer, "resid_post": layer + 1}.get(kind)
    if entered is None:
        raise ValueError(
            "a tuned lens reads the streams between layers: r0.pre, ... or r0.post, ... "
            "(nodes='resid_pre' or 'resid_post'); for other nodes leave `tuned` out"
        )
    return None if entered == n_layers else entered


def zero_lens(model: Model, facts: Mapping[str, object]) -> TunedLens:
    """The lens before training: the logit lens."""
    n, d_model = len(model.blocks), model.blocks[0].w_o.shape[2]
    maps = torch.zeros(n, d_model, d_model, device=model.device)
    return TunedLens(maps, torch.zeros(n, d_model, device=model.device), facts)
