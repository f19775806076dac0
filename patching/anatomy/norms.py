"""LayerNorm and RMSNorm: the model's own module for values, a formula for derivatives."""

from dataclasses import dataclass
from typing import Protocol, cast, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn


@runtime_checkable
class _NormBridge(Protocol):
    original_component: nn.Module
    uses_rms_norm: bool
    uses_weight_offset: bool


@dataclass(frozen=True)
class Norm:
    """A LayerNorm or RMSNorm, `gamma * x_hat + beta` with `x_hat = x / sigma` (x centred or not).

    `module` is the model's own norm, to be used wherever a value is needed; the formula here is
    only for derivatives, and `prove` holds it against the module.
    """

    module: nn.Module
    gamma: Float[Tensor, " d_model"] | None
    beta: Float[Tensor, " d_model"] | None
    centred: bool
    eps: float

    def __call__(self, x: Float[Tensor, "*rows d_model"]) -> Float[Tensor, "*rows d_model"]:
        """The norm's output, by the model's own module, where the input lies."""
        there = x.device if self.gamma is None else self.gamma.device
        return self.module(x.to(there)).to(x.device)

    def sigma(self, x: Float[Tensor, "*rows d_model"]) -> Float[Tensor, "*rows 1"]:
        """The norm's denominator, in float32 or wider."""
        return self._sigma(self._centre(widen(x)))

    def x_hat(self, x: Float[Tensor, "*rows d_model"]) -> Float[Tensor, "*rows d_model"]:
        """The normalised input before gamma and beta, in float32 or wider."""
        return self.parts(x)[0]

    def parts(
        self, x: Float[Tensor, "*rows d_model"]
    ) -> tuple[Float[Tensor, "*rows d_model"], Float[Tensor, "*rows 1"]]:
        """`x_hat` and `sigma`, together."""
        centred = self._centre(widen(x))
        sigma = self._sigma(centred)
        return centred / sigma, sigma

    def formula(self, x: Float[Tensor, "*rows d_model"]) -> Float[Tensor, "*rows d_model"]:
        """What `module` should compute, written out."""
        out = self.x_hat(x)
        out = out if self.gamma is None else out * widen(self.gamma).to(x.device)
        return out if self.beta is None else out + widen(self.beta).to(x.device)

    def pull_back(self, g: Float[Tensor, "*rows d_model"]) -> Float[Tensor, "*rows d_model"]:
        """`centre(gamma * g)`: the norm's linear part transposed, without the division by sigma."""
        return self._centre(g if self.gamma is None else g * widen(self.gamma).to(g.device))

    def pull_back_(
        self, g: Float[Tensor, "*rows d_model"], *, centre: bool = True
    ) -> Float[Tensor, "*rows d_model"]:
        """`pull_back` in place; without `centre`, what is multiplied by it is centred instead."""
        if self.gamma is not None:
            g *= self.gamma.to(g.device)
        if self.centred and centre:
            g -= g.mean(dim=-1, keepdim=True)
        return g

    def _sigma(self, centred: Float[Tensor, "*rows d_model"]) -> Float[Tensor, "*rows 1"]:
        return (centred.pow(2).mean(dim=-1, keepdim=True) + self.eps).sqrt()

    def _centre(self, x: Float[Tensor, "*rows d_model"]) -> Float[Tensor, "*rows d_model"]:
        return x - x.mean(dim=-1, keepdim=True) if self.centred else x


def widen(x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """The same values in float32, or as they are where they are wider."""
    return x if x.dtype in (torch.float32, torch.float64) else x.float()


def has_formula(bridge: nn.Module | None) -> bool:
    """Whether the model library says which formula a norm has (not of norms for each head)."""
    return hasattr(bridge, "uses_rms_norm") and hasattr(bridge, "uses_weight_offset")


def find_norm(bridge: nn.Module | None) -> Norm | None:
    """A norm of the model library as a `Norm`; None where the family has none there.

    Raises:
        ValueError: if there is one whose formula the library does not know.
    """
    module = getattr(bridge, "original_component", None)
    if bridge is None or module is None or isinstance(module, nn.Identity):
        return None
    if not has_formula(bridge):
        raise ValueError(f"nothing says which formula its {type(module).__name__} has")
    norm = cast(_NormBridge, bridge)
    gamma, beta = getattr(module, "weight", None), getattr(module, "bias", None)
    if gamma is not None:
        gamma = 1.0 + widen(gamma.detach()) if norm.uses_weight_offset else gamma.detach()
    eps = getattr(module, "eps", getattr(module, "variance_epsilon", None))
    return Norm(
        module=module,
        gamma=gamma,
        beta=None if beta is None else beta.detach(),
        centred=not norm.uses_rms_norm,
        eps=1e-5 if eps is None else float(eps),
    )
