"""Scores with what is uncertain of them: standard errors, signs, places. Knows no model."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from jaxtyping import Float
from torch import Tensor

from circuits.circuit import Circuit
from circuits.scores import Ranking, Scores
from patching.files.brief import briefly

if TYPE_CHECKING:
    import pandas


@briefly
@dataclass(frozen=True, eq=False)
class Uncertain:
    """Mean scores over examples, and how they vary from resample to resample.

    `standard_error` is the standard deviation of a mean over resamples, in units of the metric.
    `sign_stability` is the share of resamples in which an edge has the sign of its mean (0 counts
    as a sign). `inclusion` is the share of resamples in which it is among the `size` best edges by
    `ranking`. All three are 0 where the graph has no edge.
    """

    scores: Scores
    standard_error: Float[Tensor, "source dest"]
    sign_stability: Float[Tensor, "source dest"]
    inclusion: Float[Tensor, "source dest"]
    size: int
    ranking: Ranking
    n_resamples: int

    @property
    def mean(self) -> Float[Tensor, "source dest"]:
        """The mean over all examples, each counted once."""
        return self.scores.matrix

    def stable(self, min_frequency: float | int) -> Circuit:
        """The edges that are among the best in at least this share of resamples.

        Raises:
            ValueError: if the share is not above 0 and at most 1.
        """
        if not 0 < min_frequency <= 1:
            raise ValueError(
                f"stable edges are held by a share above 0 and at most 1, got {min_frequency}"
            )
        mask = self.scores.graph.exists & (self.inclusion >= min_frequency)
        selection = {
            "selector": "stable",
            "requested": min_frequency,
            "size": int(mask.sum()),
            "ranking": self.ranking,
            "among_best": self.size,
            "n_resamples": self.n_resamples,
        }
        provenance = {**self.scores.provenance, "selection": selection}
        return Circuit(mask, self.scores.graph, self.mean, provenance)

    def to_dataframe(self) -> "pandas.DataFrame":
        """All edges in row-major order, with their mean scores and what is known of them."""
        frame, exists = self.scores.to_dataframe(), self.scores.graph.exists
        frame["standard_error"] = self.standard_error[exists].numpy()
        frame["sign_stability"] = self.sign_stability[exists].numpy()
        frame["inclusion"] = self.inclusion[exists].numpy()
        return frame
