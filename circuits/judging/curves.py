"""Pictures of judgements: faithfulness by size, and what several circuits share.

Matplotlib figures, as in `plots`. Nothing is shown and no global state is changed.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes

from circuits.judging.compare import Comparison
from circuits.judging.points import Curve
from patching.figures import COLOURS, LABEL, SMALL, TITLE, Figure, legend_below, log_ticks

CHANCE = "random, matched by layer"
_GREY = "#888888"
_MARKERS = "osD^vP"


def plot_curves(curves: Mapping[str, Curve], *, title: str | None = None) -> Figure:
    """Faithfulness by the number of edges, on a logarithmic axis, one line per curve.

    Shading is the 95 % interval over examples. Grey is what random circuits keep, matched by
    layer, of the first curve that has some: the median and the middle 95 %. Sizes are those asked
    for, which circuits and random circuits share; 0 has no place on the axis.

    Raises:
        ValueError: if there is no curve, or curves are of different metrics.
    """
    if not curves:
        raise ValueError("no curves to draw; give at least one")
    metrics = sorted({curve.conditions.metric for curve in curves.values()})
    if len(metrics) > 1:
        raise ValueError(f"curves of different metrics cannot share an axis: {', '.join(metrics)}")
    figure = Figure(figsize=(3.5, 2.6), layout="constrained")
    axes = figure.add_subplot()
    _draw_chance(axes, next((c for c in curves.values() if c.uniform.shape[1]), None))
    for i, (name, curve) in enumerate(curves.items()):
        _draw_curve(axes, name, curve, i)
    _finish(axes, list(curves.values()))
    legend_below(figure, columns=2)
    if title:
        axes.set_title(title, fontsize=TITLE)
    return figure


def plot_comparison(comparison: Comparison, *, title: str | None = None) -> Figure:
    """The number of every pair as a coloured square; undefined ones are empty."""
    names, matrix = comparison.names, comparison.matrix.numpy()
    side = 0.9 + 0.45 * len(names)
    figure = Figure(figsize=(side + 0.9, side + 0.3), layout="constrained")
    axes = figure.add_subplot()
    lowest = -1.0 if np.nanmin(matrix) < 0 else 0.0
    axes.imshow(matrix, cmap="Blues" if lowest == 0 else "RdBu", vmin=lowest, vmax=1.0)
    for (i, j), value in np.ndenumerate(matrix):
        dark = abs(value) > 0.6
        said = "–" if np.isnan(value) else f"{value:.2f}"
        colour = "white" if dark else "black"
        axes.text(j, i, said, ha="center", va="center", fontsize=SMALL, color=colour)
    axes.set_xticks(range(len(names)), names, rotation=30, ha="right", fontsize=SMALL)
    axes.set_yticks(range(len(names)), names, fontsize=SMALL)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set_xlabel(comparison.measure, fontsize=SMALL)
    if title:
        axes.set_title(title, fontsize=TITLE)
    return figure


def _draw_curve(axes: Axes, name: str, curve: Curve, i: int) -> None:
    points = [point for point in curve.points if point.requested]
    edges = [point.requested for point in points]
    colour, marker = COLOURS[i % len(COLOURS)], _MARKERS[i % len(_MARKERS)]
    low, high = [p.low for p in points], [p.high for p in points]
    axes.fill_between(edges, low, high, color=colour, alpha=0.2, linewidth=0)
    kept = [point.faithfulness for point in points]
    axes.plot(edges, kept, color=colour, marker=marker, markersize=3, linewidth=1, label=name)


def _draw_chance(axes: Axes, curve: Curve | None) -> None:
    if curve is None:
        return
    points = [point for point in curve.points if point.requested]
    edges = [point.requested for point in points]
    low = [point.layer_matched_low for point in points]
    high = [point.layer_matched_high for point in points]
    axes.fill_between(edges, low, high, color=_GREY, alpha=0.25, linewidth=0)
    median = [point.layer_matched_median for point in points]
    axes.plot(edges, median, color=_GREY, linewidth=0.8, linestyle="--", label=CHANCE)


def _finish(axes: Axes, curves: Sequence[Curve]) -> None:
    log_ticks(axes, [p.requested for curve in curves for p in curve.points if p.requested])
    for level in (0, 1):
        axes.axhline(level, color="#BBBBBB", linewidth=0.6, zorder=0)
    pruned = " (before pruning)" if all(curve.pruned for curve in curves) else ""
    units = {curve.conditions.granularity.split()[0].rstrip(":") for curve in curves}
    axes.set_xlabel(f"{' or '.join(sorted(units))}{pruned}", fontsize=LABEL)
    axes.set_ylabel(f"faithfulness ({curves[0].conditions.metric})", fontsize=LABEL)
    axes.tick_params(labelsize=SMALL)
    axes.spines[["top", "right"]].set_visible(False)
