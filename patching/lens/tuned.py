"""Tuned lens: one affine map a layer, from its residual stream to the last one.

`h + A_l h + b_l`, then the model's own final norm and unembedding. `training` makes one.
Belrose et al. 2023, arXiv:2303.08112.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from patching.anatomy.blocks import widen
from patching.anatomy.identity import COMPUTES
from patching.files.brief import briefly
from patching.files.parsing import naming
from patching.files.tensors import in_words, read_tensors, write_tensors
from patching.model import Model

_FORMAT = "tuned lens 1"


@briefly
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
        said = {"weights": None, **self.provenance}
        differ = model.identity.differences(said, COMPUTES)
        if differ:
            raise ValueError(
                f"this tuned lens was trained for {said.get('model')} (weights {said['weights']}), "
                f"and {model.name} (weights {model.weights}) is another in its "
                f"{' and '.join(differ)}; train one for it with `train_tuned_lens`"
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
    with naming(path):
        TunedLens(torch.empty(0, 0, 0), torch.empty(0, 0), provenance).check(model)
    expected, device = zero_lens(model, provenance), model.device
    for name, like in (("maps", expected.maps), ("offsets", expected.offsets)):
        found = tensors.get(name)
        if found is None or in_words(found) != in_words(like) or not found.isfinite().all():
            raise ValueError(f"{path}: {name} should be finite {in_words(like)} for {model.name}")
    return TunedLens(tensors["maps"].to(device), tensors["offsets"].to(device), provenance)


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
