"""What a curve of feature circuits holds: numbers at every size, and how sure they are.

Knows neither how circuits were chosen nor how they were run.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from jaxtyping import Float
from torch import Tensor

from circuits.features.replacing import Handling
from circuits.judging.points import band, plain
from patching.figures import COLOURS, LABEL, SMALL, Figure, blank
from patching.files.brief import as_table, briefly
from patching.files.whole import write_text
from patching.intervals import Estimate, interval, ratio_of_means

if TYPE_CHECKING:
    import pandas

SHARES = (0.01, 0.02, 0.05, 0.1, 0.2, 0.4, 0.7, 1.0)
"""Of the nodes that differ."""


@dataclass(frozen=True)
class FeatureSweep:
    """Which circuits make a curve: sizes as shares of all nodes, and how sure it is to be.

    `n_random` circuits of each size are drawn from all nodes, and as many with the circuit's
    number of nodes at each place. `n_bootstrap` draws of examples make intervals; 0 leaves them
    out. `handling` says how circuits are run.
    """

    shares: tuple[float, ...] = SHARES
    n_random: int = 10
    n_bootstrap: int = 1000
    seed: int = 0
    handling: Handling = Handling()

    def __post_init__(self) -> None:
        if not self.shares or min(self.shares) <= 0 or max(self.shares) > 1:
            raise ValueError(f"shares of all nodes lie in (0, 1], got {list(self.shares)}")
        if self.n_random < 0:
            raise ValueError(f"cannot draw {self.n_random} random circuits; 0 leaves them out")


@dataclass(frozen=True)
class FeaturePoint:
    """One size of a curve; the fields are the columns of the table.

    `completeness` is the faithfulness of what is left without the circuit. Bands hold the middle
    95 % of random circuits: of all nodes, and of as many nodes at every place.
    """

    share: float
    nodes: int
    metric: float
    faithfulness: float
    low: float
    high: float
    completeness: float
    completeness_low: float
    completeness_high: float
    uniform_low: float
    uniform_median: float
    uniform_high: float
    matched_low: float
    matched_median: float
    matched_high: float


@briefly
@dataclass(frozen=True, eq=False)
class FeatureCurve:
    """How much of the gap feature circuits of growing size keep, and their complements.

    `values` and `without` are the metric of circuits and of complements; `clean` and `empty` that
    of the clean run and of the run in which everything is replaced. `uniform` and `matched` are
    the faithfulness of random circuits.
    """

    sizes: tuple[int, ...]
    n_nodes: int
    values: Float[Tensor, "circuit example"]
    without: Float[Tensor, "circuit example"]
    clean: Float[Tensor, " example"]
    empty: Float[Tensor, " example"]
    uniform: Float[Tensor, "circuit random"]
    matched: Float[Tensor, "circuit random"]
    sweep: FeatureSweep
    provenance: Mapping[str, object]

    @cached_property
    def points(self) -> tuple[FeaturePoint, ...]:
        """All numbers, size by size."""
        kept, left = self._estimates(self.values), self._estimates(self.without)
        return tuple(self._point(i, kept[i], left[i]) for i in range(len(self.sizes)))

    @property
    def faithfulness(self) -> list[float]:
        """(circuit - empty) / (clean - empty), of means over examples, size by size."""
        return [point.faithfulness for point in self.points]

    def to_dataframe(self) -> "pandas.DataFrame":
        """One row per size, with the fields of `FeaturePoint` as columns."""
        import pandas  # slow to import, and seldom needed

        return pandas.DataFrame([asdict(point) for point in self.points])

    def to_json(self) -> str:
        """Everything as JSON text; undefined numbers become null."""
        content = {
            "points": [asdict(point) for point in self.points],
            "examples": {
                "clean": self.clean.tolist(),
                "empty": self.empty.tolist(),
                "circuits": self.values.tolist(),
                "without": self.without.tolist(),
            },
            "random": {"uniform": self.uniform.tolist(), "matched": self.matched.tolist()},
            "provenance": dict(self.provenance),
        }
        return json.dumps(plain(content), indent=1, allow_nan=False)

    def save(self, path: str | Path) -> None:
        """Write `to_json`."""
        write_text(path, self.to_json())

    def plot(self, *, title: str | None = None) -> Figure:
        """Faithfulness and completeness by size, with intervals, over the bands of random ones."""
        figure, axes = blank(title=title, height=2.6)
        frame = self.to_dataframe()
        sizes = frame["nodes"].to_numpy()
        for kind, colour in (("uniform", "0.85"), ("matched", "0.75")):
            if self.sweep.n_random:
                low, high = (frame[f"{kind}_{end}"].to_numpy() for end in ("low", "high"))
                said = {"uniform": "random", "matched": "random, same places"}[kind]
                axes.fill_between(sizes, low, high, color=colour, linewidth=0, label=said)
        ends = {"faithfulness": ("low", "high")}
        ends["completeness"] = ("completeness_low", "completeness_high")
        for (name, pair), colour in zip(ends.items(), COLOURS, strict=False):
            low, high = (frame[end].to_numpy() for end in pair)
            said = name if name == "faithfulness" else "completeness (all but the circuit)"
            axes.plot(sizes, frame[name], color=colour, marker="o", markersize=3, label=said)
            axes.fill_between(sizes, low, high, color=colour, alpha=0.2, linewidth=0)
        axes.set_xscale("log")
        axes.set_xlabel(f"nodes, of {self.n_nodes:,}", fontsize=LABEL)
        axes.set_ylabel("share of the gap that is kept", fontsize=LABEL)
        axes.legend(fontsize=SMALL, frameon=False)
        return figure

    def _repr_html_(self) -> str:
        """What matters most at every size, for notebooks."""
        shown = ["nodes", "faithfulness", "low", "high", "completeness"]
        said = f"{self.provenance.get('metric')} on {len(self.clean)} prompts:"
        return as_table(said, self.to_dataframe().filter(shown))

    def _estimates(self, values: Float[Tensor, "circuit example"]) -> list[Estimate]:
        runs = values, self.clean, self.empty
        n, seed = self.sweep.n_bootstrap, self.sweep.seed
        low, high = interval(ratio_of_means, *runs, n=n, seed=seed)
        kept = ratio_of_means(values.numpy(), self.clean.numpy(), self.empty.numpy())
        return [Estimate(*map(float, row)) for row in zip(kept, low, high, strict=True)]

    def _point(self, i: int, kept: Estimate, left: Estimate) -> FeaturePoint:
        uniform, matched = band(self.uniform[i]), band(self.matched[i])
        return FeaturePoint(
            share=self.sizes[i] / max(1, self.n_nodes),
            nodes=self.sizes[i],
            metric=float(self.values[i].mean()),
            faithfulness=kept.value,
            low=kept.low,
            high=kept.high,
            completeness=left.value,
            completeness_low=left.low,
            completeness_high=left.high,
            uniform_low=uniform.low,
            uniform_median=uniform.value,
            uniform_high=uniform.high,
            matched_low=matched.low,
            matched_median=matched.value,
            matched_high=matched.high,
        )
