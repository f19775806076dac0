"""What happened while something was learned: one number a step for each thing watched."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from patching.figures import COLOURS, LABEL, SMALL, TITLE, Figure
from patching.files.brief import briefly
from patching.files.tensors import in_words


@briefly
@dataclass(frozen=True, eq=False)
class History:
    """`curves` hold one value a step, `loss` among them; `stopped` says why there are no more."""

    curves: Mapping[str, Float[Tensor, " step"]]
    stopped: str

    @property
    def steps(self) -> int:
        """How many steps were taken."""
        return len(self.curves["loss"])

    def last(self, name: str, over: int = 10) -> float:
        """The mean of the last few values of a curve, which are noisy one by one.

        Raises:
            ValueError: if there is no such curve.
        """
        if name not in self.curves:
            raise ValueError(f"no curve named {name!r}; there are {', '.join(self.curves)}")
        return float(self.curves[name][-over:].mean())


def plot_history(history: History, *, title: str | None = None) -> Figure:
    """One panel for each curve, above one another; thick is the running mean."""
    n = len(history.curves)
    figure = Figure(figsize=(3.5, 0.6 + 1.1 * n), layout="constrained")
    panels = figure.subplots(n, sharex=True, squeeze=False)[:, 0]
    for i, (axes, (name, curve)) in enumerate(zip(panels, history.curves.items(), strict=True)):
        colour, values = COLOURS[i % len(COLOURS)], curve.numpy()
        axes.plot(values, color=colour, linewidth=0.5, alpha=0.4)
        axes.plot(_smooth(values), color=colour, linewidth=1.2)
        axes.set_ylabel(name, fontsize=LABEL)
        axes.tick_params(labelsize=SMALL)
        axes.spines[["top", "right"]].set_visible(False)
    panels[-1].set_xlabel("step", fontsize=LABEL)
    panels[-1].xaxis.set_major_locator(MaxNLocator(integer=True))
    if title:
        panels[0].set_title(title, fontsize=TITLE)
    return figure


def _smooth(values: np.ndarray) -> np.ndarray:
    """Each value's mean with those up to a twentieth of all steps before it."""
    width = max(1, len(values) // 20)
    sums = np.concatenate([[0.0], np.cumsum(values)])
    stop = np.arange(1, len(values) + 1)
    start = np.maximum(0, stop - width)
    return (sums[stop] - sums[start]) / (stop - start)


def check_curves(path: str | Path, curves: Mapping[str, Tensor], of_loss: str, steps: int) -> None:
    """Refuse curves of a file that are none, or of more steps than there are.

    Raises:
        ValueError: naming the curve.
    """
    loss = curves.get(of_loss, torch.empty(0, dtype=torch.float64))
    for name, curve in curves.items():
        right = curve.dtype == torch.float64 and curve.ndim == 1
        if not right or len(curve) > min(steps, len(loss)) or not loss.isfinite().all():
            raise ValueError(
                f"the {name!r} of {path} is {in_words(curve)}, and no curve of at most {steps} "
                "steps beside that of the loss; delete it to begin anew"
            )
