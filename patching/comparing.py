"""How well estimated effects agree with exact ones: correlations, signs, a scatter plot, a table.

`agreement_table` is the headline experiment of relevance patching in one call: Rezaei Jafari et al.
2025, arXiv:2508.21258. Correlations are over places, of means over examples.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from scipy import stats

from patching.activation import activation_patching
from patching.attribution.sweep import attribution_patching
from patching.figures import LABEL, SMALL, blank
from patching.grid import Grid
from patching.metrics import Metric
from patching.model import Model
from patching.paths import along_inputs
from patching.rules import Rule, plain, relp, relp_ah
from patching.tasks.task import Task

ALONG = "plain x inputs"
"""The column of attribution along the inputs."""

ENOUGH = 0.9
"""Pearson's r with exact patching, of the means over prompts, from which an estimate is trusted."""

_MUST_MATCH = ("weights", "tokens", "metric", "what")


@dataclass(frozen=True)
class Similarity:
    """Two maps side by side: correlations, and the share of places with one sign in both.

    `same_sign` counts places whose exact effect is not 0. NaN where a map is constant or there
    are too few places; `n` is how many there are.
    """

    pearson: float
    spearman: float
    same_sign: float
    n: int


@dataclass(frozen=True, eq=False)
class Agreement:
    """Exact and approximate effects at the same places: overall, and by layer where there are."""

    exact: Grid
    approximate: Grid
    overall: Similarity
    layers: Mapping[str, Similarity]

    @property
    def pearson(self) -> float:
        """Pearson's correlation over all places."""
        return self.overall.pearson

    @property
    def spearman(self) -> float:
        """Spearman's rank correlation over all places."""
        return self.overall.spearman

    @property
    def same_sign(self) -> float:
        """The share of places, of those with an effect, whose sign is estimated right."""
        return self.overall.same_sign

    def to_dataframe(self) -> pd.DataFrame:
        """One row a layer, the first for all of them."""
        rows = [("all", self.overall), *self.layers.items()]
        names = [field.name for field in fields(Similarity)]
        cells = [[layer, *(getattr(found, name) for name in names)] for layer, found in rows]
        return pd.DataFrame(cells, columns=["layer", *names])

    def plot(self, *, title: str | None = None) -> Figure:
        """Every place as a point, exact effect to the right, approximate upwards, by layer."""
        exact, approximate = _means(self.exact), _means(self.approximate)
        figure, axes = blank(title=title, height=2.9)
        both = np.stack([exact, approximate])
        line = np.array([np.nanmin(both, initial=0.0), np.nanmax(both, initial=0.0)])
        axes.plot(line, line, color="0.8", linewidth=0.8, zorder=0)
        colours = _layer_of(self.exact)
        points = axes.scatter(exact.ravel(), approximate.ravel(), s=8, c=colours, cmap="viridis")
        if len(self.layers) > 1:
            bar = figure.colorbar(points, ax=axes, shrink=0.9, ticks=MaxNLocator(integer=True))
            bar.set_label("layer", fontsize=LABEL)
            bar.ax.tick_params(labelsize=SMALL)
        axes.set_xlabel(f"exact: {self.exact.quantity}", fontsize=LABEL)
        axes.set_ylabel(f"approximate (r = {self.pearson:.3f})", fontsize=LABEL)
        return figure


def compare(exact: Grid, approximate: Grid, *, absolute: bool = False) -> Agreement:
    """How well an approximate map agrees with the exact one.

    >>> import torch
    >>> axes = {"layer": ("0", "1"), "head": ("h0", "h1")}
    >>> exact = Grid("effect", torch.tensor([[[0.0, 1.0], [2.0, -1.0]]]), axes)
    >>> found = compare(exact, Grid("effect", 2 * exact.values, axes))
    >>> round(found.pearson, 6), found.same_sign
    (1.0, 1.0)

    `absolute` compares sizes, for approximations without a sign (GradDrop, AtP*). Places where
    either map is NaN are left out.

    Raises:
        ValueError: if the maps have other axes or labels, or are of other weights, prompts,
            metrics or
            activations.
    """
    _check(exact, approximate)
    a, b = _means(exact), _means(approximate)
    if absolute:
        a, b = np.abs(a), np.abs(b)
    layers: dict[str, Similarity] = {}
    if "layer" in exact.axes:
        axis = list(exact.axes).index("layer")
        for i, label in enumerate(exact.axes["layer"]):
            layers[label] = similarity(*(np.take(x, [i], axis) for x in (a, b)))
    return Agreement(exact, approximate, similarity(a, b), layers)


def agreement_table(
    model: Model,
    task: Task,
    metric: Metric,
    *,
    rules: Sequence[Rule] = (plain, relp, relp_ah),
    kinds: Sequence[str] = ("resid_pre", "attn_out", "mlp_out"),
    direction: str = "denoising",
    steps: int = 0,
    batch_size: int = 16,
) -> pd.DataFrame:
    """Pearson's r of attribution by every rule and exact patching: a row a kind, a column a rule.

    With `steps`, the last column is plain attribution along so many steps of the inputs.

    Over layers and positions; prompts of one length, so that positions mean the same. The
    defaults are those of the code published with Rezaei Jafari et al. 2025, arXiv:2508.21258: the
    stream before each layer, attention and MLP outputs, gradients at the corrupt run.

    Raises:
        ValueError: if prompts differ in length, a kind or direction is unknown, or there are
            no rules.
    """
    _check_table(task, rules)
    columns: dict[str, list[float]] = {}
    found = {
        rule.name: attribution_patching(
            model, task, metric, direction=direction, rule=rule, kinds=kinds, batch_size=batch_size
        )
        for rule in rules
    }
    if steps:
        path = along_inputs(steps)
        found[ALONG] = attribution_patching(
            model, task, metric, direction=path, kinds=kinds, batch_size=batch_size
        )
    for kind in kinds:
        exact = activation_patching(
            model, task, metric, what=kind, direction=direction, batch_size=batch_size
        )
        for name, scores in found.items():
            agreement = compare(exact, scores.pick(kind, over=tuple(exact.axes)))
            columns.setdefault(name, []).append(agreement.pearson)
    return pd.DataFrame(columns, index=pd.Index(kinds, name="kind")).rename_axis(columns="rule")


@dataclass(frozen=True, eq=False)
class Trust:
    """Which estimate of patching agrees with exact patching here, and the table that says so.

    `recommended` is the first column, from the cheapest on, with r of `ENOUGH` or more for every
    kind of activation; else the one whose least r is largest, and `enough` is false.
    """

    table: pd.DataFrame
    recommended: str
    enough: bool

    @property
    def sentence(self) -> str:
        """In words, with each column's least r."""
        least = ", ".join(f"{name} {r:.2f}" for name, r in _least(self.table).items())
        if self.enough:
            return f"Trust {self.recommended}: the least r with exact patching is {least}."
        return (
            f"Trust none of them: the least r with exact patching is {least}; "
            f"{self.recommended} is nearest. Patch exactly."
        )


def which_to_trust(
    model: Model,
    task: Task,
    metric: Metric,
    *,
    kinds: Sequence[str] = ("resid_pre", "attn_out", "mlp_out"),
    direction: str = "denoising",
    steps: int = 5,
    batch_size: int = 16,
) -> Trust:
    """AtP, RelP or AtP along the inputs: which agrees with exact patching on this model and task.

    One step fails where the metric bends between the two runs, for MLPs most of all; along the
    inputs it is the mean of some steps. A few prompts will do: exact patching is what costs.

    Raises:
        ValueError: as `agreement_table`, or if every map is constant.
    """
    table = agreement_table(
        model,
        task,
        metric,
        rules=(plain, relp),
        kinds=kinds,
        direction=direction,
        steps=steps,
        batch_size=batch_size,
    )
    least = _least(table)
    if least.isna().all():
        raise ValueError("no place has another effect than the others; give other prompts")
    good = [name for name, r in least.items() if r >= ENOUGH]
    return Trust(table, str(good[0] if good else least.idxmax()), bool(good))


def _least(table: pd.DataFrame) -> pd.Series:
    """Of every column, over the kinds where there is an r."""
    return table.dropna(how="all").min()


def similarity(exact: np.ndarray, approximate: np.ndarray) -> Similarity:
    """Of two arrays of one shape, where both are numbers."""
    known = ~(np.isnan(exact) | np.isnan(approximate))
    a, b = exact[known], approximate[known]
    moved = a != 0
    same = float((np.sign(a) == np.sign(b))[moved].mean()) if moved.any() else np.nan
    ranks = stats.rankdata(a), stats.rankdata(b)
    return Similarity(_pearson(a, b), _pearson(*ranks), same, int(known.sum()))


def _pearson(a: np.ndarray, b: np.ndarray) -> float:
    if len(a) < 2 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return float("nan")
    return float(np.corrcoef(a, b)[0, 1])


def _means(grid: Grid) -> np.ndarray:
    return grid.mean.double().cpu().numpy()


def _layer_of(grid: Grid) -> np.ndarray:
    """The layer's number of every place, in row-major order; 0 where there are no layers."""
    if "layer" not in grid.axes:
        return np.zeros(grid.mean.numel())
    shape = [len(labels) for labels in grid.axes.values()]
    return np.indices(shape)[list(grid.axes).index("layer")].ravel()


def _check(exact: Grid, approximate: Grid) -> None:
    if list(exact.axes) != list(approximate.axes):
        raise ValueError(
            f"maps over {', '.join(exact.axes)} and over {', '.join(approximate.axes)} cannot be "
            "compared; make both over the same axes, in one order"
        )
    for name, labels in exact.axes.items():
        if labels != approximate.axes[name]:
            raise ValueError(
                f"the axis {name!r} has {len(labels)} labels in one map and "
                f"{len(approximate.axes[name])} in the other, or other ones; they must be the same"
            )
    for key in _MUST_MATCH:
        pair = [grid.provenance.get(key) for grid in (exact, approximate)]
        if None not in pair and pair[0] != pair[1]:
            raise ValueError(
                f"these maps are not of the same thing: their {key} are {pair[0]} and {pair[1]}"
            )


def _check_table(task: Task, rules: Sequence[Rule]) -> None:
    if not rules:
        raise ValueError("got no rules; name at least one, such as plain")
    names = [rule.name for rule in rules]
    if len(set(names)) < len(names):
        raise ValueError(f"a rule is named twice: {', '.join(names)}")
    lengths = sorted({len(prompt.clean) for prompt in task.prompts})
    if len(lengths) > 1:
        raise ValueError(
            f"task {task.name!r} has prompts of {', '.join(map(str, lengths))} tokens, so a "
            "position does not mean the same in all; take those of one length, `task.of_length()`"
        )
