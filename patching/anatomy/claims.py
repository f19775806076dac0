"""Claims about a model's structure, each two tensors that must be equal, and the prompt to try."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from patching.anatomy.norms import widen

Seen = dict[str, Tensor]
"""Tensors of one run, by hook point."""

_RELATIVE = {torch.float64: 1e-5, torch.float32: 1e-4}  # float64: many families norm in float32
_RELATIVE_HALF = 5e-2


@dataclass(frozen=True)
class Claim:
    """Two tensors that must be equal if the graph describes the model.

    `layer` is the one the claim is about; None for what lies behind all layers. `fault` says, after
    `what`, what is wrong where they differ.
    """

    what: str
    expected: Tensor
    found: Tensor
    layer: int | None = None
    fault: str = "cannot be rebuilt as this workbench understands the family"

    @property
    def error(self) -> float:
        """The largest difference, relative to the largest value found; infinite if shapes differ.

        NaN where either side is.
        """
        if self.expected.shape != self.found.shape:
            return float("inf")
        found = widen(self.found)
        worst = (widen(self.expected) - found).abs().max()
        return float(worst / found.abs().max().clamp(min=1e-6))

    def check(self, name: str, tolerance: float) -> None:
        """Refuse a model for which the claim does not hold.

        Raises:
            ValueError: naming the model and the claim.
        """
        if self.error <= tolerance:
            return
        problem = f"relative error {self.error:.1e}, allowed {tolerance:.0e}"
        if self.expected.shape != self.found.shape:
            problem = f"shapes {tuple(self.expected.shape)} and {tuple(self.found.shape)}"
        raise ValueError(
            f"{name} is refused: {self.what} {self.fault} ({problem}), so its circuits would be "
            "wrong"
        )


def tolerance_in(dtype: torch.dtype) -> float:
    """The relative error that rounding may make in a model whose weights have this type."""
    return _RELATIVE.get(dtype, _RELATIVE_HALF)


@dataclass(frozen=True)
class Probe:
    """A few random tokens, and what the model made of them before it was wrapped, if known."""

    tokens: Int[Tensor, "batch pos"]
    logits: Float[Tensor, "batch pos vocab"] | None = None


def draw_probe(vocab: int, longest: int) -> Probe:
    """Always the same tokens, as far as the vocabulary allows."""
    generator = torch.Generator().manual_seed(0)
    return Probe(torch.randint(vocab, (2, min(7, longest)), generator=generator))


@torch.no_grad()
def run_plain(module: nn.Module, probe: Probe) -> Probe:
    """The probe with what the plain module computes."""
    tokens = probe.tokens.to(next(module.parameters()).device)
    found = module(tokens, use_cache=False)
    return Probe(tokens, found if isinstance(found, Tensor) else getattr(found, "logits", None))
