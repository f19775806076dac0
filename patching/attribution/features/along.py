"""Integrated gradients of features: one place at a time, all its nodes moved together."""

from dataclasses import dataclass

from patching.paths import Path
from patching.quadrature import Quadrature, left, name_of


@dataclass(frozen=True)
class PlacePath(Path):
    """A path of each place's own. `points` are distances from the clean value, with weights."""

    points: tuple[tuple[float, float], ...] = ()


def along_places(steps: int = 10, quadrature: Quadrature = left) -> PlacePath:
    """From the clean value of one place to what replaces it, everything before it clean.

    The mean of gradients at `clean + (k / steps) (patch - clean)`, k = 0 .. steps - 1, is that of
    Marks et al. 2024, arXiv:2403.19647, eq. 4 (`left`, whose points here are counted from the
    clean end); with `midpoint`, effects of a place add up to what patching all of it does, as
    steps grow in number. A path for `feature_effects` alone.

    Raises:
        ValueError: if there are fewer than 1 steps.
    """
    if steps < 1:
        raise ValueError(f"integrated gradients need at least 1 step, got {steps}")
    return PlacePath(
        "places",
        "2F + places steps (F + B)",
        options={"steps": steps, "quadrature": name_of(quadrature)},
        points=tuple(zip(*quadrature(steps), strict=True)),
    )
