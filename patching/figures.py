"""One style for all figures: heat maps, scatter plots and bars, as matplotlib figures.

Nothing is shown and no global state is changed: a notebook shows the figure that a cell returns,
`figure.savefig` writes it.
"""

from collections.abc import Sequence
from io import BytesIO

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure as PlainFigure
from matplotlib.font_manager import FontProperties, findfont, get_font

from patching.files.visible import spelled

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
"""Safe for colour-blind readers (Okabe and Ito 2008); more series than these start over."""

DIVERGING, SEQUENTIAL = "RdBu", "Blues"  # blue helps, red hurts, as in pictures of circuits
SMALL, LABEL, TITLE = 6, 7, 8  # points

_SCREEN = 100  # dots an inch
_MOST_TICKS = 40
_CELL = 0.17  # inches
_CHARACTER = 0.055  # inches, of the smallest text
_LEAST, _MOST = 2.2, 11.0  # inches


class Figure(PlainFigure):
    """A figure of matplotlib that a notebook shows by itself, without a magic line."""

    def _repr_png_(self) -> tuple[bytes, dict[str, int]]:
        """The picture at twice the size it is shown at, for sharp screens."""
        content = BytesIO()
        self.savefig(content, format="png", dpi=2 * _SCREEN)
        width, height = self.get_size_inches()
        return content.getvalue(), {
            "width": round(width * _SCREEN),
            "height": round(height * _SCREEN),
        }


def heat_map(
    values: np.ndarray,
    axes: tuple[tuple[str, Sequence[str]], tuple[str, Sequence[str]]],
    *,
    title: str | None = None,
    colour: str = "",
    cells: np.ndarray | None = None,
) -> Figure:
    """A matrix as coloured squares: white is 0 where some are negative, else the least is 0.

    Args:
        values: `[row column]`; NaN is left empty.
        axes: name and labels of rows and columns. The first row is at the bottom, as layers are.
        title: above the map.
        colour: what the colours stand for, beside the colour bar.
        cells: text to write into the squares, `[row column]`.

    Raises:
        ValueError: if labels and values do not fit together.
    """
    (row_name, rows), (column_name, columns) = axes
    if values.shape != (len(rows), len(columns)):
        raise ValueError(
            f"a map of {len(rows)} rows ({row_name}) and {len(columns)} columns ({column_name}) "
            f"needs values of that shape, got {values.shape}"
        )
    width = np.clip(_cell_width(cells) * len(columns), _LEAST, _MOST if cells is None else None)
    height = np.clip(_CELL * len(rows), _LEAST * 0.6, _MOST)
    figure = Figure(figsize=(width + 1.2, height + 0.8), layout="constrained")
    plot = figure.add_subplot()
    image = plot.imshow(
        values, cmap=_map_for(values), norm=_scale(values), aspect="auto", origin="lower"
    )
    if cells is not None:
        _write_cells(plot, values, cells)
    plot.set_xticks(*_ticks(columns), rotation=90 if _long(columns) else 0, fontsize=SMALL)
    plot.set_yticks(*_ticks(rows), fontsize=SMALL)
    plot.set_xlabel(column_name, fontsize=LABEL)
    plot.set_ylabel(row_name, fontsize=LABEL)
    plot.tick_params(length=0)
    plot.spines[:].set_visible(False)
    bar = figure.colorbar(image, ax=plot, shrink=0.9)
    bar.set_label(colour, fontsize=LABEL)
    bar.ax.tick_params(labelsize=SMALL)
    if title:
        plot.set_title(title, fontsize=TITLE)
    return figure


def blank(
    *, width: float = 3.5, height: float = 2.6, title: str | None = None
) -> tuple[Figure, Axes]:
    """An empty figure of one panel in the common style; inches, one column of a paper."""
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.add_subplot()
    axes.tick_params(labelsize=SMALL)
    axes.spines[["top", "right"]].set_visible(False)
    for axis in (axes.xaxis, axes.yaxis):
        axis.label.set_fontsize(LABEL)
    if title:
        axes.set_title(title, fontsize=TITLE)
    return figure, axes


def log_ticks(axes: Axes, values: Sequence[float | int]) -> None:
    """A logarithmic axis of counts with numbers on it, however short it is, and no other ticks.

    >>> _, axes = blank()
    >>> log_ticks(axes, [20, 60])
    >>> [text.get_text() for text in axes.get_xticklabels()]
    ['20', '50']
    """
    least, most = min(values, default=1), max(values, default=1)
    steps = (1,) if most >= 300 * least else (1, 3) if most >= 30 * least else (1, 2, 5)
    marks = [step * 10**power for power in range(12) for step in steps]
    inside = [mark for mark in marks if least <= mark <= most] or sorted({least, most})
    axes.set_xscale("log")
    axes.set_xticks(inside, [f"{mark:,.0f}" for mark in inside])
    axes.set_xticks([], minor=True)


def legend_below(figure: PlainFigure, *, columns: int = 3) -> None:
    """The legend of all panels under the figure, where it covers no curve."""
    found = [axes.get_legend_handles_labels() for axes in figure.axes]
    marks = {
        label: mark for marks, labels in found for mark, label in zip(marks, labels, strict=True)
    }
    if marks:
        figure.legend(
            marks.values(),
            marks.keys(),
            loc="outside lower center",
            ncols=columns,
            frameon=False,
            fontsize=SMALL,
        )


def token_labels(tokens: Sequence[str]) -> tuple[str, ...]:
    r"""Tokens as tick labels: numbered, so that equal ones differ, with white space made visible.

    Dollar signs are escaped, for matplotlib reads them as mathematics (see `visible`).

    >>> token_labels([" the", "a\n"])
    ('0 ·the', '1 a↵')
    """
    return tuple(f"{i} {visible(token)}" for i, token in enumerate(tokens))


def visible(text: str) -> str:
    r"""A text as it can be drawn: white space shown, dollars escaped, missing signs as codes.

    What the figures' font has no sign for would be an empty box: it is written as its number.

    >>> visible(" $5\n"), visible("\u4e2d")
    ('·\\$5↵', 'U+4E2D')
    """
    known = get_font(findfont(FontProperties())).get_charmap()
    shown = spelled(text).replace(" ", "·").replace("\n", "↵")
    drawn = (sign if ord(sign) in known else f"U+{ord(sign):04X}" for sign in shown)
    return "".join(drawn).replace("$", r"\$")


def _cell_width(cells: np.ndarray | None) -> float:
    """Inches: a square, or what the longest text takes."""
    if cells is None:
        return _CELL
    return max(_CELL, 0.06 + _CHARACTER * max((len(text) for text in cells.flat), default=0))


def _map_for(values: np.ndarray) -> str:
    return DIVERGING if np.nanmin(values, initial=0.0) < 0 else SEQUENTIAL


def _scale(values: np.ndarray) -> Normalize:
    """Symmetric around 0, or from 0 where nothing is negative."""
    reach = float(np.nanmax(np.abs(values), initial=0.0)) or 1.0
    return Normalize(-reach if _map_for(values) == DIVERGING else 0.0, reach)


def _write_cells(plot: Axes, values: np.ndarray, cells: np.ndarray) -> None:
    reach = float(np.nanmax(np.abs(values), initial=0.0)) or 1.0
    for (i, j), text in np.ndenumerate(cells):
        dark = abs(values[i, j]) > 0.6 * reach
        colour = "white" if dark else "black"
        plot.text(j, i, text, ha="center", va="center", fontsize=SMALL, color=colour)


def _ticks(labels: Sequence[str]) -> tuple[list[int], list[str]]:
    """Every label, or every so manieth where there are too many to read."""
    step = -(-len(labels) // _MOST_TICKS)
    places = list(range(0, len(labels), max(1, step)))
    return places, [labels[i] for i in places]


def _long(labels: Sequence[str]) -> bool:
    return max(map(len, labels), default=0) > 3
