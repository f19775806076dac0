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
    only for derivatives, and `prove` holds it against the module. Its numbers are read at each use,
    as weights may be changed in memory. `from_one` says that its weight is gamma less 1.
    """

    module: nn.Module
    centred: bool
    from_one: bool

    @property
    def gamma(self) -> Float[Tensor, " d_model"] | None:
        """What the normalised input is multiplied by, where there is something."""
        weight = self._weight
        return 1.0 + widen(weight) if weight is not None and self.from_one else weight

    @property
    def beta(self) -> Float[Tensor, " d_model"] | None:
        """What is added last, where there is something."""
        bias = getattr(self.module, "bias", None)
        return None if bias is None else bias.detach()

    @property
    def eps(self) -> float:
        """What is added to the variance."""
        eps = getattr(self.module, "eps", getattr(self.module, "variance_epsilon", None))
        return 1e-5 if eps is None else float(eps)

    def __call__(self, x: Float[Tensor, "*rows d_model"]) -> Float[Tensor, "*rows d_model"]:
        """The norm's output, by the model's own module, where the input lies."""
        there = x.device if self._weight is None else self._weight.device
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
        out, gamma, beta = self.x_hat(x), self.gamma, self.beta
        out = out if gamma is None else out * widen(gamma).to(x.device)
        return out if beta is None else out + widen(beta).to(x.device)

    def at(
        self, x: Float[Tensor, "*rows d_model"], sigma: Float[Tensor, "*#rows 1"]
    ) -> Float[Tensor, "*rows d_model"]:
        """The output less beta where the denominator is given: linear in the input."""
        out, gamma = self._centre(widen(x)) / sigma, self.gamma
        return out if gamma is None else out * widen(gamma).to(out.device)

    def pull_back(self, g: Float[Tensor, "*rows d_model"]) -> Float[Tensor, "*rows d_model"]:
        """`centre(gamma * g)`: the norm's linear part transposed, without the division by sigma."""
        gamma = self.gamma
        return self._centre(g if gamma is None else g * widen(gamma).to(g.device))

    def pull_back_(
        self, g: Float[Tensor, "*rows d_model"], *, centre: bool = True
    ) -> Float[Tensor, "*rows d_model"]:
        """`pull_back` in place; without `centre`, what is multiplied by it is centred instead."""
        gamma = self.gamma
        if gamma is not None:
            g *= gamma.to(g.device)
        if self.centred and centre:
            g -= g.mean(dim=-1, keepdim=True)
        return g

    @property
    def _weight(self) -> Float[Tensor, " d_model"] | None:
        weight = getattr(self.module, "weight", None)
        return None if weight is None else weight.detach()

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
    return Norm(module, centred=not norm.uses_rms_norm, from_one=norm.uses_weight_offset)


def offset(
    w: Float[Tensor, "head d_model d_head"],
    b: Float[Tensor, "head d_head"] | None,
    beta: Float[Tensor, " d_model"] | None,
) -> Float[Tensor, "head d_head"]:
    """What projections of a normed stream do not have of the stream: `W beta + b`."""
    bias = widen(w.new_zeros(w.shape[0], w.shape[2]) if b is None else b.detach())
    if beta is None:
        return bias
    row = widen(beta).to(w.device).expand(len(w), 1, -1)
    return torch.baddbmm(bias[:, None], row, widen(w))[:, 0]
