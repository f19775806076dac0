"""Tensors of a published dictionary brought to the one form, whichever way they were published.

Folded here, once: biases and scales of the input, scales of features, gates. Nothing that lies in a
file mapped into memory is copied unless its numbers change.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Float
from torch import Tensor

from patching.dictionaries.dictionary import Dictionary

_ROWS = 4096  # rows of a tensor that are looked at at a time


@dataclass(frozen=True)
class Places:
    """Where a dictionary reads and writes; `{}` stands for the layer in a name for several."""

    reads: str
    writes: str

    def at(self, layer: int) -> "Places":
        """Those of a layer."""
        return Places(self.reads.replace("{}", str(layer)), self.writes.replace("{}", str(layer)))


@dataclass(frozen=True, eq=False)
class Weights:
    """Tensors in the form's own orientation, as they were published.

    With `subtracts`, the decoder's bias is subtracted from the input. `scale_in` and `scale_out`
    are what inputs and outputs were multiplied by in training.
    """

    w_enc: Float[Tensor, "..."]
    b_enc: Float[Tensor, "..."]
    w_dec: Float[Tensor, "..."]
    b_dec: Float[Tensor, "..."]
    threshold: Float[Tensor, "..."] | None = None
    k: int | None = None
    skip: Float[Tensor, "..."] | None = None
    subtracts: bool = False
    scale_in: float = 1.0
    scale_out: float = 1.0
    later: Mapping[str, Float[Tensor, "..."]] = field(default_factory=dict)

    def folded(self, name: str, places: Places, facts: Mapping[str, object]) -> Dictionary:
        """The dictionary.

        Raises:
            ValueError: if tensors do not fit each other, or are not finite.
        """
        one = Dictionary(
            name=name,
            reads=places.reads,
            writes=places.writes,
            w_enc=self.w_enc,
            b_enc=self.b_enc,
            w_dec=self.w_dec,
            b_dec=self.b_dec,
            threshold=torch.zeros_like(self.b_enc) if self.threshold is None else self.threshold,
            k=self.k,
            skip=self.skip,
            later=self.later,
            facts=facts,
        )
        refuse_damaged(one)
        return _scaled(self, _subtracted(one) if self.subtracts else one)


def gated(
    w_enc: Tensor, b_gate: Tensor, r_mag: Tensor, b_mag: Tensor, rest: Mapping[str, Tensor]
) -> Weights:
    """A gated autoencoder, which is one with a threshold for each feature.

    The gate `x W + b_gate > 0` and the magnitude `relu(exp(r) x W + b_mag)` are
    `z > b_mag - exp(r) b_gate` of `z = x W exp(r) + b_mag`. Rajamanoharan et al. 2024,
    arXiv:2404.16014.
    """
    scale = r_mag.exp()
    return Weights(
        w_enc=w_enc * scale,
        b_enc=b_mag,
        w_dec=rest["w_dec"],
        b_dec=rest["b_dec"],
        threshold=b_mag - scale * b_gate,
    )


def rescaled(weights: Weights, scale: Float[Tensor, " feature"]) -> Weights:
    """Features multiplied by numbers above zero after their activation function.

    Raises:
        ValueError: if one is not.
    """
    if not (scale > 0).all():
        raise ValueError("it scales features by numbers that are not above zero")
    threshold = weights.threshold
    return replace(
        weights,
        w_enc=weights.w_enc * scale,
        b_enc=weights.b_enc * scale,
        threshold=None if threshold is None else threshold * scale,
    )


def refuse_damaged(one: Dictionary) -> None:
    """Refuse a dictionary whose numbers are none.

    Raises:
        ValueError: naming the tensor.
    """
    tensors = {
        **{what: getattr(one, what) for what in ("b_enc", "b_dec", "threshold", "w_enc", "skip")},
        **{f"decoder for {place}": w for place, w in one.decoders.items()},
    }
    for what, tensor in tensors.items():
        whole = tensor is None or all(part.isfinite().all() for part in tensor.split(_ROWS))
        if not whole:
            raise ValueError(f"{what} of {one.name!r} holds NaN or infinity")


def _subtracted(one: Dictionary) -> Dictionary:
    """`(x - b_dec) W + b` as `x W + (b - b_dec W)`.

    Raises:
        ValueError: if the input is not as wide as `b_dec`.
    """
    if one.w_enc.shape[0] != len(one.b_dec):
        raise ValueError(
            f"{one.name!r} subtracts a bias of {len(one.b_dec)} numbers from inputs of "
            f"{one.w_enc.shape[0]}"
        )
    shift = one.b_dec.double() @ one.w_enc.double()
    return replace(one, b_enc=(one.b_enc.double() - shift).float())


def _scaled(weights: Weights, one: Dictionary) -> Dictionary:
    """`scale_out y_hat(scale_in x)`: activations and thresholds stay as they are."""
    s_in, s_out = weights.scale_in, weights.scale_out
    if s_in == s_out == 1.0:
        return one
    return replace(
        one,
        w_enc=one.w_enc * s_in,
        w_dec=one.w_dec / s_out,
        b_dec=one.b_dec / s_out,
        skip=None if one.skip is None else one.skip * (s_in / s_out),
        later={place: w / s_out for place, w in one.later.items()},
    )
