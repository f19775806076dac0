"""Quadrature: where on the path from corrupt (0) to clean (1) to take gradients, and their weights.

Each rule maps a number of steps to `(points, weights)`; weights sum to 1.
"""

from collections.abc import Callable

import numpy as np

Points = tuple[list[float], list[float]]
"""Where, and with which weights, which sum to 1."""

Quadrature = Callable[[int], Points]


def midpoint(steps: int) -> Points:
    """The middle of each of `steps` equal parts: second order, and neither end is touched."""
    return [(k + 0.5) / steps for k in range(steps)], [1 / steps] * steps


def left(steps: int) -> Points:
    """The corrupt end of each part, as in the code published with EAP-IG (arXiv:2403.17806)."""
    return [k / steps for k in range(steps)], [1 / steps] * steps


def right(steps: int) -> Points:
    """The clean end of each part."""
    return [(k + 1) / steps for k in range(steps)], [1 / steps] * steps


def trapezoid(steps: int) -> Points:
    """Both ends and the points between, ends at half weight: `steps` points, two at least.

    Raises:
        ValueError: if there is only one step.
    """
    if steps < 2:
        raise ValueError(f"the trapezoid rule needs at least 2 steps, got {steps}")
    inner = 1 / (steps - 1)
    return (
        [k * inner for k in range(steps)],
        [inner / 2 if k in (0, steps - 1) else inner for k in range(steps)],
    )


def gauss_legendre(steps: int) -> Points:
    """Gauss-Legendre points: best on smooth paths; the paths of real models have kinks."""
    points, weights = np.polynomial.legendre.leggauss(steps)
    return ((points + 1) / 2).tolist(), (weights / 2).tolist()


QUADRATURES: dict[str, Quadrature] = {
    "midpoint": midpoint,
    "left": left,
    "right": right,
    "trapezoid": trapezoid,
    "gauss-legendre": gauss_legendre,
}


def name_of(rule: Quadrature) -> str:
    """The shell's name of a rule, or the function's own."""
    names = {known: name for name, known in QUADRATURES.items()}
    return names.get(rule, getattr(rule, "__name__", "own rule"))
