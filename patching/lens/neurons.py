"""An MLP's output projection: what each neuron adds to the residual stream."""

from dataclasses import dataclass
from typing import Protocol, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from patching.anatomy.blocks import Block, widen
from patching.anatomy.insides import mlp_sum, neurons
from patching.anatomy.norms import Norm
from patching.files.brief import briefly
from patching.model import Model


class _Projection(Protocol):
    original_component: nn.Module


class _Mlp(Protocol):
    W_out: Tensor
    out: _Projection


@briefly
@dataclass(frozen=True, eq=False)
class NeuronOutput:
    """Neuron i writes `activation_i * row_i`, over the post-norm's sigma where there is one.

    `points` is where the activations pass, `total` where the MLP's output passes before that
    norm (None without one). `factor` is the post-norm's gamma times the block's scale. Weights lie
    with their layer, and what is read of them comes to `home`.
    """

    points: str
    total: str | None
    norm: Norm | None
    weight: Float[Tensor, "d_mlp d_model"]
    factor: Float[Tensor, " d_model"]
    offset: Float[Tensor, " d_model"] | None
    home: torch.device

    @property
    def hooks(self) -> tuple[str, ...]:
        """What a run has to keep."""
        return (self.points,) if self.total is None else (self.points, self.total)

    def rows(self, chosen: Int[Tensor, " n"] | None = None) -> Float[Tensor, "n d_model"]:
        """What neurons write for an activation of 1 (all of them, or those chosen)."""
        rows = self.weight if chosen is None else self.weight[chosen.to(self.weight.device)]
        return (widen(rows) * self.factor).to(self.home)

    @property
    def bias(self) -> Float[Tensor, " d_model"] | None:
        """The projection's bias as it reaches the stream, before a division by sigma."""
        return None if self.offset is None else (widen(self.offset) * self.factor).to(self.home)

    def sigma(self, total: Float[Tensor, "token d_model"] | None) -> Float[Tensor, "token 1"]:
        """The denominator of the post-norm, or 1: the same for all neurons of a token."""
        if self.norm is None:
            return self.factor.new_ones(1, 1).to(self.home)
        assert total is not None, "a post-norm needs the MLP's whole output"
        return self.norm.sigma(total)


def find_output(model: Model, block: Block) -> NeuronOutput:
    """The output projection of a layer's MLP.

    Raises:
        ValueError: if no hook point shows the neurons (mixtures of experts).
    """
    points = neurons(block)
    if points is None:
        raise ValueError(
            f"{model.name} shows no neurons in m{block.index}: no hook point reaches inside its "
            "MLPs (mixtures of experts); take whole MLPs"
        )
    norm = block.post_mlp_norm
    mlp = cast(_Mlp, block.bridge.mlp)
    weight = mlp.W_out.detach()
    factor = torch.full_like(widen(weight[0]), block.scale)
    if norm is not None and norm.gamma is not None:
        factor = factor * widen(norm.gamma).to(factor.device)
    bias = getattr(mlp.out.original_component, "bias", None)
    offset = None if bias is None else bias.detach()
    return NeuronOutput(points.post, mlp_sum(block), norm, weight, factor, offset, model.device)
