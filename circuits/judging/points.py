"""What a faithfulness curve holds: numbers at every size, and what exactly they say.

Knows neither how circuits were chosen nor how they were run.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from circuits.circuit import Circuit
from circuits.scores import Ranking
from patching.files.brief import as_table, briefly
from patching.intervals import Estimate

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True)
class Conditions:
    """What a faithfulness number depends on, beside circuit and prompts.

    The six choices of Miller et al. 2024 (arXiv:2407.08734), the metric, and the order of
    averaging: change one and the same circuit gets another number.
    """

    granularity: str
    components: str
    ablation: str
    positions: str
    direction: str
    ablated_set: str
    metric: str
    averaging: str


@dataclass(frozen=True)
class Point:
    """One size of a curve; the fields are the columns of the table.

    `share` and `requested` are of all edges, before pruning, `edges` what was run. `faithfulness`
    is a ratio of means, `low` to `high` its 95 % interval. `example_mean` and `example_median` are
    of the ratios of the single examples, all but the `undefined` ones that have no gap. `kl` is in
    nats, 0 for the clean run; `accuracy` a share of the examples. The bands hold the middle 95 %
    of random circuits.
    """

    share: float
    requested: int
    edges: int
    weighted_edges: float
    metric: float
    faithfulness: float
    low: float
    high: float
    example_mean: float
    example_median: float
    undefined: int
    kl: float
    accuracy: float
    uniform_low: float
    uniform_median: float
    uniform_high: float
    layer_matched_low: float
    layer_matched_median: float
    layer_matched_high: float


@briefly
@dataclass(frozen=True, eq=False)
class Curve:
    """How much of the clean-corrupt gap circuits of growing size keep.

    `values` is the metric of every circuit on every example. `uniform` and `layer_matched` are the
    faithfulness of random circuits at each size. `shares` are the sizes asked for, over all edges.
    `n_bootstrap` and `seed` made the intervals, and make those of areas under the curve.
    """

    circuits: tuple[Circuit, ...]
    shares: tuple[float, ...]
    requested: tuple[int, ...]
    ranking: Ranking
    values: Float[Tensor, "circuit example"]
    clean: Float[Tensor, " example"]
    corrupt: Float[Tensor, " example"]
    kl: Float[Tensor, "circuit example"]
    accuracy: Float[Tensor, "circuit example"]
    intervals: Float[Tensor, "circuit 2"]
    uniform: Float[Tensor, "circuit random"]
    layer_matched: Float[Tensor, "circuit random"]
    pruned: bool
    n_bootstrap: int
    seed: int
    conditions: Conditions
    provenance: Mapping[str, object]

    @property
    def faithfulness(self) -> Float[Tensor, " circuit"]:
        """(circuit - corrupt) / (clean - corrupt), of means over examples."""
        base = self.corrupt.mean()
        return (self.values.mean(dim=1) - base) / (self.clean.mean() - base)

    @property
    def per_example(self) -> Float[Tensor, "circuit example"]:
        """The same ratio for every example alone; NaN where that example has no gap.

        Examples with a small gap get huge values, of either sign: nothing is trimmed.
        """
        gap = self.clean - self.corrupt
        return (self.values - self.corrupt) / torch.where(gap == 0, torch.nan, gap)

    @cached_property
    def points(self) -> tuple[Point, ...]:
        """All numbers, size by size."""
        return tuple(self._point(i) for i in range(len(self.circuits)))

    def to_dataframe(self) -> "pandas.DataFrame":
        """One row per size, with the fields of `Point` as columns."""
        import pandas  # slow to import, and seldom needed

        return pandas.DataFrame([asdict(point) for point in self.points])

    def _repr_html_(self) -> str:
        """What matters most at every size, for notebooks."""
        shown = ["requested", "edges", "metric", "faithfulness", "low", "high", "accuracy"]
        said = f"{self.conditions.metric} on {len(self.clean)} prompts, by {self.ranking} score:"
        return as_table(said, self.to_dataframe().filter(shown))

    def to_json(self) -> str:
        """Everything but the circuits' edges, as JSON text; undefined numbers become null.

        Raises:
            ValueError: if the provenance does not fit into JSON.
        """
        content = {
            "conditions": asdict(self.conditions),
            "ranking": self.ranking,
            "pruned": self.pruned,
            "points": [asdict(point) for point in self.points],
            "examples": {
                "clean": self.clean.tolist(),
                "corrupt": self.corrupt.tolist(),
                "circuits": self.values.tolist(),
            },
            "random": {
                "uniform": self.uniform.tolist(),
                "layer_matched": self.layer_matched.tolist(),
            },
            "provenance": dict(self.provenance),
        }
        return json.dumps(plain(content), indent=1, allow_nan=False)

    def _point(self, i: int) -> Point:
        ratios = self.per_example[i].numpy()
        metric, whole = self.values[i].mean(), self._estimate(i)
        uniform, layered = band(self.uniform[i]), band(self.layer_matched[i])
        return Point(
            share=self.shares[i],
            requested=self.requested[i],
            edges=self.circuits[i].size,
            weighted_edges=weighted_edge_count(self.circuits[i]),
            metric=float(metric),
            faithfulness=whole.value,
            low=whole.low,
            high=whole.high,
            example_mean=float(np.nanmean(ratios)),
            example_median=float(np.nanmedian(ratios)),
            undefined=int(np.isnan(ratios).sum()),
            kl=0.0 - float(self.kl[i].mean()),
            accuracy=float(self.accuracy[i].mean()),
            uniform_low=uniform.low,
            uniform_median=uniform.value,
            uniform_high=uniform.high,
            layer_matched_low=layered.low,
            layer_matched_median=layered.value,
            layer_matched_high=layered.high,
        )

    def _estimate(self, i: int) -> Estimate:
        low, high = self.intervals[i].tolist()
        return Estimate(float(self.faithfulness[i]), low, high)


def weighted_edge_count(circuit: Circuit, kept: Float[Tensor, " source"] | None = None) -> float:
    """Edges, each counted by the share of its writer's dimensions that is kept (all: 1).

    The size of a circuit whose writers are cut down to some dimensions or neurons; without such a
    cut, the number of edges. Mueller et al. 2025 (MIB), arXiv:2504.13151.

    Args:
        circuit: the edges to count.
        kept: per writer, the share of its dimensions that is kept.

    Raises:
        ValueError: if there is not one share from 0 to 1 per writer.
    """
    if kept is None:
        return float(circuit.size)
    n = len(circuit.graph.sources)
    if kept.shape != (n,) or not ((kept >= 0) & (kept <= 1)).all():
        raise ValueError(
            f"a weighted edge count needs one share from 0 to 1 for each of {n} writers, "
            f"got {kept.tolist() if kept.numel() < 10 else tuple(kept.shape)}"
        )
    return float((circuit.mask.sum(dim=1) * kept.double()).sum())


def band(values: Float[Tensor, " random"]) -> Estimate:
    """The median of random circuits with the middle 95 % of them; NaN if there are none."""
    if not len(values):
        return Estimate(math.nan, math.nan, math.nan)
    low, median, high = values.quantile(torch.tensor([0.025, 0.5, 0.975], dtype=values.dtype))
    return Estimate(float(median), float(low), float(high))


def plain(value: object) -> object:
    """The same with every number that JSON cannot hold replaced by None."""
    if isinstance(value, Mapping):
        return {key: plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [plain(part) for part in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
