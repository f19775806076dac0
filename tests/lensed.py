"""Models that several tests of lenses look at, loaded once, and the rounding to expect."""

from functools import cache

import families

from patching.model import Model


@cache
def of_family(name: str) -> Model:
    return Model.load(families.module(name, families.best_dtype(name)))


@cache
def toy() -> Model:
    return Model.load("toy")


def rounding(name: str) -> float:
    """Relative: float64 throughout, Hugging Face's float32 norms, or float32."""
    if name in families.TRUE_FLOAT64 and name != "olmo2":  # whose norms run in float32
        return 1e-12
    return 1e-5 if name in families.FLOAT32_ONLY else 2e-6
