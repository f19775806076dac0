"""Measurements: what circuits reached on every prompt they were run on, in a file for reports.

Knows no model and no circuit; a circuit is its number of edges and what it is to the search.
"""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from patching.files import write_text
from patching.intervals import interval, ratio_of_means

Kind = Literal["circuit", "size", "random"]
"""The circuit that was asked for, one of the same scores at another size, or a random one."""

_VERSION = 1
_TEXTS = ("metric", "ranking", "prompts", "verdict", "judged_on")


@dataclass(frozen=True)
class Row:
    """One circuit: the mean of the metric, faithfulness, and its 95 % interval.

    Numbers that are undefined (no gap between clean and corrupt, one prompt) are NaN.
    """

    kind: Kind
    edges: int
    share: float
    metric: float
    faithfulness: float
    low: float
    high: float


@dataclass(frozen=True, eq=False)
class Measurements:
    """The metric of circuits on every prompt, and of the clean and the ablated run.

    `metric` is the shell's name of the metric, `n_edges` how many edges the whole graph has,
    `prompts` says in words which prompts were used, `judged_on` names the task and its tokens.
    """

    metric: str
    ranking: str
    n_edges: int
    prompts: str
    verdict: str
    judged_on: str
    kinds: tuple[Kind, ...]
    edges: tuple[int, ...]
    values: Float[Tensor, "circuit example"]
    clean: Float[Tensor, " example"]
    corrupt: Float[Tensor, " example"]

    def rows(self, *, n_bootstrap: int = 1000, seed: int = 0) -> list[Row]:
        """Every circuit with its faithfulness and the interval over prompts.

        Faithfulness is (circuit - corrupt) / (clean - corrupt), of means over prompts.

        Raises:
            ValueError: if there are fewer than no draws.
        """
        runs = self.values.numpy(), self.clean.numpy(), self.corrupt.numpy()
        kept = ratio_of_means(*runs)
        n = n_bootstrap if len(self.clean) > 1 else 0
        low, high = interval(ratio_of_means, self.values, self.clean, self.corrupt, n=n, seed=seed)
        means = self.values.mean(dim=1).tolist()
        return [
            Row(
                kind,
                edges,
                edges / self.n_edges,
                means[i],
                *(_finite(float(part[i])) for part in (kept, low, high)),
            )
            for i, (kind, edges) in enumerate(zip(self.kinds, self.edges, strict=True))
        ]

    def save(self, path: str | Path) -> None:
        """Write a JSON file that `load_measurements` reads."""
        content = {
            "version": _VERSION,
            **{name: getattr(self, name) for name in _TEXTS},
            "n_edges": self.n_edges,
            "clean": self.clean.tolist(),
            "corrupt": self.corrupt.tolist(),
            "circuits": [
                {"kind": kind, "edges": edges, "values": values}
                for kind, edges, values in zip(
                    self.kinds, self.edges, self.values.tolist(), strict=True
                )
            ],
        }
        write_text(path, json.dumps(content, indent=1) + "\n")


def load_measurements(path: str | Path) -> Measurements:
    """Read what `Measurements.save` wrote.

    Raises:
        ValueError: if the file is damaged or holds something else.
    """
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not a whole JSON file: {error}") from None
    version = content.get("version") if isinstance(content, dict) else None
    if version != _VERSION:
        raise ValueError(f"{path} has version {version} of the format; this program reads 1")
    try:
        texts = {name: str(content[name]) for name in _TEXTS}
        n_edges, rows = int(content["n_edges"]), list(content["circuits"])
        kinds, edges = [row["kind"] for row in rows], [int(row["edges"]) for row in rows]
        values = torch.tensor([row["values"] for row in rows], dtype=torch.float64)
        ends = [torch.tensor(content[run], dtype=torch.float64) for run in ("clean", "corrupt")]
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} holds no measurements: {error!r}") from None
    expected = (len(rows), len(content["clean"]))
    if values.shape != expected or any(end.shape != expected[1:] for end in ends):
        raise ValueError(f"{path}: every circuit needs a value for each of {expected[1]} prompts")
    if not set(kinds) <= set(get_args(Kind)):
        raise ValueError(f"{path}: the kinds of circuits are {', '.join(get_args(Kind))}")
    return Measurements(
        **texts,
        n_edges=n_edges,
        kinds=tuple(kinds),
        edges=tuple(edges),
        values=values,
        clean=ends[0],
        corrupt=ends[1],
    )


def _finite(value: float) -> float:
    return value if math.isfinite(value) else math.nan
