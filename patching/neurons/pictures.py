"""Figures of neurons: where they sit, which h and beta help, and how that compares with chance."""

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from patching.figures import COLOURS, SMALL, blank, heat_map
from patching.grid import Grid
from patching.neurons.evaluation import DECODED, ORIGINAL, Trial
from patching.neurons.measures import FOLLOWS
from patching.neurons.questions import estimate, questions
from patching.neurons.selection import Neurons

RATE = "rate of following the context"

_GREY = "#666666"


def plot_layers(neurons: Neurons, n_layers: int, *, title: str | None = None) -> Figure:
    """How many of the neurons lie in each layer, as bars.

    Raises:
        ValueError: if a neuron lies in a layer beyond `n_layers`.
    """
    layers = [layer for layer, _ in neurons]
    if max(layers, default=0) >= n_layers:
        raise ValueError(f"a neuron lies in layer {max(layers)}, and there are {n_layers} layers")
    figure, axes = blank(title=title)
    axes.bar(range(n_layers), np.bincount(layers, minlength=n_layers), color=COLOURS[0], width=0.8)
    axes.set_xlabel("layer")
    axes.set_ylabel("neurons")
    axes.set_xticks(range(0, n_layers, -(-n_layers // 16)))
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    return figure


def plot_sweep(grid: Grid, *, title: str | None = None) -> Figure:
    """A `sweep` as a heat map with the rates written into it, in percent.

    Raises:
        ValueError: if the grid has other axes than neurons and beta.
    """
    if list(grid.axes) != ["neurons", "beta"]:
        raise ValueError(f"a sweep has the axes neurons and beta, this grid has {list(grid.axes)}")
    rates = grid.mean.double().cpu().numpy()
    cells = np.array([[f"{rate:.0%}" for rate in row] for row in rates])
    axes = ("neurons", grid.axes["neurons"]), ("beta", grid.axes["beta"])
    return heat_map(rates, axes, title=title, colour=RATE, cells=cells)


def plot_betas(trial: Trial, *, title: str | None = None) -> Figure:
    """Following the context on held-out conflicts as beta grows.

    The band is the 95 % interval of the paired change from the original model. Beside it: random
    neurons of the same layers (mean and range over the seeds), the original model and
    context-aware decoding.
    """
    figure, axes = blank(width=4.6, height=2.8, title=title)
    labels = trial.held_out.axes["beta"]
    betas = np.array([float(label) for label in labels])
    groups = questions(trial.tasks[1])
    rates = [trial.held_out.at(measure=FOLLOWS, beta=label) for label in labels]
    changes = [estimate(trial.change(label), groups) for label in labels]
    control = trial.control.mean.double().cpu().numpy()
    _band(axes, betas, control.min(axis=0), control.max(axis=0), _GREY)
    axes.plot(betas, control.mean(axis=0), color=_GREY, marker="s", label="random neurons (range)")
    original = trial.decodings.at(decoding=ORIGINAL, measure=FOLLOWS)
    low, high = original + np.array([(change.low, change.high) for change in changes]).T
    _band(axes, betas, low, high, COLOURS[0])
    axes.plot(betas, rates, color=COLOURS[0], marker="o", label="these (95 % of the change)")
    for name, style in ((ORIGINAL, ":"), (DECODED, "--")):
        rate = trial.decodings.at(decoding=name, measure=FOLLOWS)
        axes.axhline(rate, color=COLOURS[1], linestyle=style, linewidth=0.9, label=name)
    axes.axvline(trial.beta, color="#bbbbbb", zorder=0, label="beta chosen")
    axes.set_xlabel(f"beta (h = {len(trial.neurons)})")
    axes.set_ylabel(RATE)
    axes.set_ylim(-0.02, 1.02)
    for line in axes.lines:
        line.set(markersize=3, linewidth=1.1)
    axes.legend(fontsize=SMALL, frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


def _band(
    axes: Axes,
    x: Float[np.ndarray, " beta"],
    low: Float[np.ndarray, " beta"],
    high: Float[np.ndarray, " beta"],
    colour: str,
) -> None:
    if not np.isnan(low).any():
        axes.fill_between(x, low, high, color=colour, alpha=0.2, linewidth=0)
