"""Cost against quality, a point a method, with the names beside the axes."""

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from benchmarks.truth.cells import Cell, estimate
from benchmarks.truth.contenders import RANDOM
from benchmarks.truth.page import groups, median_cost
from patching.figures import COLOURS, LABEL, SMALL, blank
from patching.intervals import Estimate

_GREY = "#888888"
_ROW = 0.125  # inches between two names


@dataclass(frozen=True)
class Point:
    """A method: its cost, its quality, and whether nothing cheaper is as good."""

    name: str
    cost: float
    quality: Estimate
    is_best: bool


def cost_against_quality(cells: Sequence[Cell], measure: str, label: str) -> Figure:
    """All methods that have the measure; the line joins those that nothing cheaper matches."""
    methods = groups(cells, "method")
    points = _points({name: of for name, of in methods.items() if name != RANDOM}, measure)
    figure, axes = blank(width=6.0, height=max(2.6, 0.6 + _ROW * len(points)))
    for point in points:
        _draw(axes, point)
    best = [point for point in points if point.is_best]
    axes.plot(
        [point.cost for point in best],
        [point.quality.value for point in best],
        drawstyle="steps-post",
        color=COLOURS[0],
        linewidth=0.8,
        zorder=1,
    )
    chance = estimate(methods.get(RANDOM, []), measure)
    if chance:
        axes.axhline(chance.value, color=_GREY, linewidth=0.8, linestyle="--")
        axes.annotate(
            "random circuits",
            (0.99, chance.value),
            xycoords=("axes fraction", "data"),
            xytext=(0, 2),
            textcoords="offset points",
            fontsize=SMALL,
            color=_GREY,
            ha="right",
        )
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda cost, _: f"{cost:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("cost, in plain forward and backward passes", fontsize=LABEL)
    axes.set_ylabel(label, fontsize=LABEL)
    _name(axes, points)
    return figure


def _points(methods: dict[str, list[Cell]], measure: str) -> list[Point]:
    """From cheap to dear."""
    found = [
        (cost, name, quality)
        for name, cells in methods.items()
        if (quality := estimate(cells, measure)) and (cost := median_cost(cells))
    ]
    points: list[Point] = []
    top = float("-inf")
    for cost, name, quality in sorted(found, key=lambda row: row[:2]):
        points.append(Point(name, cost, quality, is_best=quality.value > top))
        top = max(top, quality.value)
    return points


def _draw(axes: Axes, point: Point) -> None:
    colour = COLOURS[0] if point.is_best else COLOURS[1]
    ends = point.quality.low, point.quality.high
    axes.plot((point.cost, point.cost), ends, color=colour, linewidth=0.8, alpha=0.35, zorder=1)
    axes.plot(point.cost, point.quality.value, "o", color=colour, markersize=3.5, zorder=3)


def _name(axes: Axes, points: Sequence[Point]) -> None:
    """The names in one column on the right, best on top, each with a thin line to its point."""
    ordered = sorted(points, key=lambda point: (-point.quality.value, -point.cost))
    for i, point in enumerate(ordered):
        height = 1 - (i + 0.5) / len(ordered)
        colour = COLOURS[0] if point.is_best else "black"
        axes.annotate(
            f"{point.name}  {point.quality.value:.2f}",
            (point.cost, point.quality.value),
            xytext=(1.06, height),
            textcoords="axes fraction",
            fontsize=SMALL,
            color=colour,
            va="center",
            arrowprops={
                "arrowstyle": "-",
                "color": "#BBBBBB",
                "linewidth": 0.3,
                "relpos": (0, 0.5),
            },
            annotation_clip=False,
        )
