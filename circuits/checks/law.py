"""A law, and what is said when it is broken."""

import torch
from jaxtyping import Float
from torch import Tensor


def require(holds: bool, law: str, found: str) -> None:
    """Say which law was broken, and by what.

    Raises:
        AssertionError: if the law does not hold.
    """
    if not holds:
        raise AssertionError(f"the law {law!r} is broken: {found}")


def require_equal(
    found: Float[Tensor, "*shape"], expected: Float[Tensor, "*shape"], law: str, tolerance: float
) -> None:
    """Hold two tensors to a relative tolerance, of the largest expected value.

    Raises:
        AssertionError: if they differ by more, with the numbers of the worst entry.
    """
    size = max(float(expected.abs().max()), torch.finfo(torch.float64).tiny)
    error = (found - expected).abs()
    worst = int(error.argmax())
    relative = float(error.flatten()[worst]) / size
    require(
        relative <= tolerance,
        law,
        f"{float(found.flatten()[worst]):.6g} where {float(expected.flatten()[worst]):.6g} is "
        f"right, {relative:.1e} of the largest value apart ({tolerance:.0e} allowed)",
    )
