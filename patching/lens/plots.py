"""Drawing of lenses: a map with the most likely token written into every square."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from patching.figures import COLOURS, SMALL, blank, heat_map, visible
from patching.grid import Grid

_LONGEST = 10  # characters of a token that a square shows


def lens_map(
    values: np.ndarray,
    texts: Sequence[Sequence[str]],
    axes: tuple[Sequence[str], Sequence[str]],
    *,
    colour: str,
    title: str | None = None,
) -> Figure:
    """Numbers `[node position]` as coloured squares with tokens written into them.

    The first node is at the bottom. Long tokens are cut, and what the font lacks is written as
    its code.
    """
    cells = np.array([[_short(text) for text in row] for row in texts], dtype=object)
    nodes, positions = axes
    named = ("node", nodes), ("position and token", positions)
    return heat_map(values, named, title=title, colour=colour, cells=cells)


def plot_contributions(grid: Grid, *, k: int = 20, title: str | None = None) -> Figure:
    """Bars of the k largest contributions, the largest on top, with 95 % intervals over examples.

    `grid` is what `direct_logit_attribution` returns: blue bars help the answers, orange ones hurt.

    Raises:
        ValueError: if the grid has other axes than `node`, or k is less than 1.
    """
    if list(grid.axes) != ["node"]:
        raise ValueError(f"bars show one axis, node, and this grid has {list(grid.axes)}")
    places = [grid.axes["node"].index(labels[0]) for labels, _ in grid.top(k)]
    figure, axes = blank(width=4.2, height=0.6 + 0.15 * len(places), title=title)
    mean = grid.mean.double().cpu().numpy()[places]
    low, high = (np.nan_to_num(end[places], nan=0.0) for end in grid.interval())
    reach = np.zeros((2, len(places)))
    if len(grid.values) > 1:  # the mean of one example has no interval
        reach = np.abs(np.stack([mean - low, high - mean]))
    colours = [COLOURS[0] if value > 0 else COLOURS[1] for value in mean]
    rows = range(len(places))
    axes.barh(rows, mean, xerr=reach, color=colours, error_kw={"elinewidth": 0.8})
    axes.set_yticks(rows, [grid.axes["node"][place] for place in places], fontsize=SMALL)
    axes.invert_yaxis()
    axes.axvline(0.0, color="black", linewidth=0.6)
    axes.set_xlabel("contribution to the logit difference")
    return figure


def plot_nodes(grid: Grid, *, title: str | None = None) -> Figure:
    """A line over nodes for each position, with 95 % intervals over examples.

    `grid` is what `Lens.probability`, `rank`, `entropy` or `kl` returns.

    Raises:
        ValueError: if the grid has other axes than `node` and `position`.
    """
    if list(grid.axes) != ["node", "position"]:
        raise ValueError(f"lines show the axes node and position, not {list(grid.axes)}")
    nodes, positions = grid.axes.values()
    width = float(np.clip(1.2 + 0.3 * len(nodes), 3.0, 11.0))
    figure, axes = blank(width=width, title=title)
    mean, places = grid.mean.double().cpu().numpy(), np.arange(len(nodes))
    low, high = grid.interval()
    for i, position in enumerate(positions):
        colour = COLOURS[i % len(COLOURS)]
        axes.plot(places, mean[:, i], marker="o", markersize=3, color=colour, label=position)
        axes.fill_between(places, low[:, i], high[:, i], color=colour, alpha=0.2, linewidth=0)
    axes.set_xticks(places, nodes, rotation=90, fontsize=SMALL)
    axes.set_ylabel(grid.quantity)
    axes.set_ylim(bottom=min(0.0, float(mean.min())))
    if len(positions) > 1:
        axes.legend(title="position", fontsize=SMALL, title_fontsize=SMALL, frameon=False)
    return figure


def _short(text: str) -> str:
    shown = text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"
    return visible(shown)
