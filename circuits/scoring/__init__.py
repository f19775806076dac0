"""Edge scorers: how much each edge matters.

One signature, `(model, task, metric, *, ...) -> Scores`, and one sign: **positive = the edge helps
the metric in the clean run**, an estimate of `metric(clean) - metric(that edge corrupted)`. Scores
are summed over positions and averaged over examples, in float64.
"""

from collections.abc import Callable
from dataclasses import dataclass

from circuits.scores import Scores
from circuits.scoring.eap import eap, eap_ig
from circuits.scoring.quadrature import QUADRATURES, Quadrature

__all__ = ["METHODS", "QUADRATURES", "Method", "Quadrature", "eap", "eap_ig"]


@dataclass(frozen=True)
class Method:
    """A scorer as the shell offers it: F and B are one forward and one backward of a batch."""

    function: Callable[..., Scores]
    cost: str
    source: str
    takes_steps: bool = False


METHODS: dict[str, Method] = {
    "eap": Method(eap, "2F + 1B", "Syed et al. 2023, arXiv:2310.10348"),
    "eap-ig": Method(
        eap_ig, "2F + steps (F + B)", "Hanna et al. 2024, arXiv:2403.17806", takes_steps=True
    ),
}
