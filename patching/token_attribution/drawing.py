"""One prompt with its tokens coloured by what they do."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize

from patching.figures import DIVERGING, LABEL, SEQUENTIAL, SMALL, TITLE, Figure, visible
from patching.grid import Grid
from patching.lens.text import token_texts
from patching.model import Model
from patching.tasks.task import Task

# inches
_WIDTH, _SIDE, _MARGINS = 6.5, 0.1, 0.75
_INNER = _WIDTH - 2 * _SIDE
_LETTER, _BOX, _LINE, _GAP = 0.066, 0.19, 0.36, 0.04  # a letter, a token's box, a line, between

_FEWEST = 4  # letters: room for the number
_DARK = 1.2  # of red + green + blue


def draw_tokens(
    model: Model, task: Task, grid: Grid, *, example: int = 0, title: str | None = None
) -> Figure:
    """The clean prompt of one example, each token on the colour of its attribution.

    Blue helps the metric, red hurts it; the number stands below.

    Raises:
        ValueError: if there is no such example, or the grid is of another task.
    """
    if not 0 <= example < len(task):
        raise ValueError(f"there is no example {example}: the task has 0 to {len(task) - 1}")
    if list(grid.axes) != ["pos"] or len(grid.values) != len(task):
        raise ValueError("the grid is not one of `attribute_tokens` on this task")
    ids = task.prompts[example].clean
    texts = [visible(text) for text in token_texts(model.tokenizer, ids)]
    values = grid.values[example, : len(ids)].cpu().numpy()
    return coloured(texts, values, colour=grid.quantity, title=title)


def coloured(
    texts: list[str], values: np.ndarray, *, colour: str = "", title: str | None = None
) -> Figure:
    """Texts in lines, each on a box of its value's colour, with the value below."""
    places, n_lines = _places(texts)
    height = _LINE * n_lines + _MARGINS
    figure = Figure(figsize=(_WIDTH, height))
    plot = figure.add_axes(
        (_SIDE / _WIDTH, 0.5 / height, _INNER / _WIDTH, _LINE * n_lines / height)
    )
    plot.set_xlim(0, _INNER)
    plot.set_ylim(_LINE * n_lines, 0)
    plot.set_axis_off()
    colours = _colours(values)
    for text, value, (x, y, width) in zip(texts, values, places, strict=True):
        face = colours.to_rgba(np.asarray(value))
        plot.fill([x, x + width, x + width, x], [y, y, y + _BOX, y + _BOX], color=face, lw=0)
        ink = "white" if sum(face[:3]) < _DARK else "black"
        _write(plot, (x + width / 2, y + _BOX / 2), text, size=LABEL, colour=ink)
        _write(
            plot, (x + width / 2, y + _BOX + 0.06), f"{value:.2g}", size=SMALL - 1, colour="grey"
        )
    bar = figure.add_axes((_SIDE / _WIDTH, 0.36 / height, _INNER / _WIDTH / 3, 0.07 / height))
    figure.colorbar(colours, cax=bar, orientation="horizontal").set_label(colour, fontsize=SMALL)
    bar.tick_params(labelsize=SMALL - 1, length=2, pad=1)
    if title:
        figure.text(_SIDE / _WIDTH, 1 - 0.16 / height, title, fontsize=TITLE)
    return figure


def _places(texts: list[str]) -> tuple[list[tuple[float, float, float]], int]:
    """Left end, top and width of each text's box, in inches, and the number of lines."""
    places: list[tuple[float, float, float]] = []
    x, line = 0.0, 0
    for text in texts:
        width = _LETTER * max(len(text), _FEWEST) + 2 * _GAP
        if x and x + width > _INNER:
            x, line = 0.0, line + 1
        places.append((x, line * _LINE, width))
        x += width + _GAP
    return places, line + 1


def _colours(values: np.ndarray) -> ScalarMappable:
    """White is 0; symmetric around it where some values are negative."""
    reach = float(np.abs(values).max(initial=0.0)) or 1.0
    if (values < 0).any():
        return ScalarMappable(Normalize(-reach, reach), DIVERGING)
    return ScalarMappable(Normalize(0.0, reach), SEQUENTIAL)


def _write(plot: Axes, at: tuple[float, float], text: str, *, size: int, colour: str) -> None:
    plot.text(*at, text, fontsize=size, color=colour, ha="center", va="center")
