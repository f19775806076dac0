"""Grid: numbers over named axes, one for every example. What sweeps, lenses and neurons return."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from matplotlib.figure import Figure
from torch import Tensor

from patching.figures import heat_map
from patching.files.brief import as_table, briefly
from patching.intervals import of_mean


@briefly
@dataclass(frozen=True, eq=False)
class Grid:
    """Values `[example, *axes]` with the name and the labels of every axis.

    `quantity` says what the numbers are, with unit and sign: positive helps the metric in the
    clean run. `clean` and `corrupt` are the metric of those runs, where there are some. `shown` is
    what figures write instead of an axis' labels.

    >>> values = torch.tensor([[[1.0, 2.0], [3.0, 4.0]], [[1.0, 2.0], [3.0, 6.0]]])
    >>> grid = Grid("effect", values, {"layer": ("0", "1"), "head": ("0", "1")})
    >>> grid.top(1)
    [(('1', '1'), 5.0)]
    >>> grid.at(layer="1", head="0")
    3.0
    """

    quantity: str
    values: Float[Tensor, "example ..."]
    axes: Mapping[str, tuple[str, ...]]
    clean: Float[Tensor, " example"] | None = None
    corrupt: Float[Tensor, " example"] | None = None
    provenance: Mapping[str, object] = field(default_factory=dict)
    shown: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        shape = tuple(len(labels) for labels in self.axes.values())
        for name in self.axes:
            assert len(self.shown.get(name, self.axes[name])) == len(self.axes[name]), name
        if self.values.shape[1:] != shape:
            raise ValueError(
                f"axes {dict(zip(self.axes, shape, strict=True))} need values of shape "
                f"[example, {', '.join(map(str, shape))}], got {list(self.values.shape)}"
            )

    @property
    def mean(self) -> Float[Tensor, "..."]:
        """The mean over examples."""
        return self.values.mean(dim=0)

    def interval(self, *, n: int = 1000, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """Ends of the 95 % bootstrap interval of the mean, each `[*axes]`; NaN for one example."""
        return of_mean(self.values, n=n, seed=seed)

    def at(self, **labels: str) -> float:
        """The mean at one place, named by a label of every axis.

        Raises:
            ValueError: if an axis is missing, or there is no such label.
        """
        return float(self.mean[self._place(labels)])

    def top(self, k: int) -> list[tuple[tuple[str, ...], float]]:
        """The k places of largest absolute mean: labels and value, in falling order.

        Ties go to the first in row-major order; places that are NaN never rank.

        Raises:
            ValueError: if k is less than 1.
        """
        if k < 1:
            raise ValueError(f"cannot name the top {k} places; 1 is the least")
        flat = self.mean.flatten()
        size = torch.where(flat.isnan(), torch.full_like(flat, -1.0), flat.abs())
        order = size.argsort(descending=True, stable=True)[:k].tolist()
        return [(self._labels_of(i), float(flat[i])) for i in order if size[i] >= 0]

    def to_dataframe(self, *, n: int = 1000, seed: int = 0) -> pd.DataFrame:
        """A tidy table: one row a place, its labels, mean and 95 % interval (from n draws)."""
        low, high = self.interval(n=n, seed=seed)
        index = pd.MultiIndex.from_product(list(self.axes.values()), names=list(self.axes))
        columns = {"mean": self.mean.flatten().cpu().numpy()}
        columns |= {"low": low.flatten(), "high": high.flatten()}
        return pd.DataFrame(columns, index=index).reset_index()

    def plot(self, *, title: str | None = None) -> Figure:
        """A heat map of the mean over the two axes (a map of one row, where there is one axis).

        Raises:
            ValueError: if there are more than two axes.
        """
        if len(self.axes) not in (1, 2):
            raise ValueError(
                f"a heat map shows two axes, and this grid has {list(self.axes)}; "
                "take some of it with `select`"
            )
        named = [(name, self.shown.get(name, labels)) for name, labels in self.axes.items()]
        named = [("", ("",)), *named] if len(named) == 1 else named
        values = self.mean.double().cpu().numpy().reshape([len(labels) for _, labels in named])
        return heat_map(values, (named[0], named[1]), title=title, colour=self.quantity)

    def _repr_html_(self) -> str:
        """The mean at every place, for notebooks: two axes as rows and columns."""
        mean, labels = self.mean.double().cpu().numpy(), list(self.axes.values())
        names = list(self.axes)
        if len(names) == 2:
            across = pd.Index(labels[1], name=names[1])
            frame = pd.DataFrame(mean, pd.Index(labels[0], name=names[0]), across)
        else:
            index = pd.MultiIndex.from_product(labels, names=names) if names else None
            frame = pd.DataFrame({"mean": mean.reshape(-1)}, index)
        return as_table(f"{self.quantity}, mean over {len(self.values)} examples:", frame)

    def select(self, **labels: str) -> "Grid":
        """The part of the grid at one label of some axes, which it then no longer has.

        Raises:
            ValueError: if there is no such axis or label.
        """
        values, axes = self.values, dict(self.axes)
        for name, label in labels.items():
            values = values.select(1 + list(axes).index(self._axis(name)), self._at(name, label))
            del axes[name]
        return replace(self, values=values, axes=axes)

    def _place(self, labels: Mapping[str, str]) -> tuple[int, ...]:
        for name in (*labels, *self.axes):
            if name not in labels:
                raise ValueError(f"say where on the axis {name!r}: one of {self._shown(name)}")
            self._axis(name)
        return tuple(self._at(name, labels[name]) for name in self.axes)

    def _axis(self, name: str) -> str:
        if name not in self.axes:
            raise ValueError(f"there is no axis {name!r}; the axes are {', '.join(self.axes)}")
        return name

    def _at(self, name: str, label: str) -> int:
        if label not in self.axes[name]:
            raise ValueError(f"the axis {name!r} has no {label!r}; one of {self._shown(name)}")
        return self.axes[name].index(label)

    def _shown(self, name: str) -> str:
        labels = self.axes[name]
        return ", ".join(labels[:8]) + (", ..." if len(labels) > 8 else "")

    def _labels_of(self, flat: int) -> tuple[str, ...]:
        shape = [len(labels) for labels in self.axes.values()]
        where = np.unravel_index(flat, shape)
        return tuple(labels[i] for labels, i in zip(self.axes.values(), where, strict=True))
