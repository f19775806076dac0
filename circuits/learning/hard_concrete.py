"""The hard concrete distribution: masks between 0 and 1 that are often exactly 0 or exactly 1.

Louizos et al. 2018, arXiv:1712.01312: a sigmoid of log-odds and logistic noise, stretched to
(-0.1, 1.1) and cut off at 0 and 1.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

TEMPERATURE = 2 / 3
LOWEST, HIGHEST = -0.1, 1.1
_SHIFT = TEMPERATURE * math.log(-LOWEST / HIGHEST)


def sample(
    log_odds: Float[Tensor, " mask"], n: int, noise: torch.Generator
) -> Float[Tensor, "sample mask"]:
    """Masks for n examples, differentiable by the log-odds where they are between 0 and 1."""
    u = torch.rand(n, len(log_odds), generator=noise, dtype=torch.float64)
    u = u.clamp(1e-6, 1 - 1e-6).to(log_odds)
    soft = ((log_odds + u.log() - (1 - u).log()) / TEMPERATURE).sigmoid()
    return (soft * (HIGHEST - LOWEST) + LOWEST).clamp(0, 1)


def keep_probability(log_odds: Float[Tensor, " mask"]) -> Float[Tensor, " mask"]:
    """How likely each mask is not to be 0."""
    return (log_odds - _SHIFT).sigmoid()
