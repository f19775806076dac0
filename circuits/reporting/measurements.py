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

from patching.files.brief import briefly
from patching.files.parsing import number, read_json, require_keys, shown
from patching.files.whole import write_text
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


@briefly
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
    content = read_json(path)
    version = content.get("version") if isinstance(content, dict) else None
    if version != _VERSION:
        raise ValueError(f"{path} has version {shown(version)} of the format; this program reads 1")
    try:
        return _from_content(content)
    except ValueError as error:
        raise ValueError(f"{path} holds no measurements: {error}") from None


def _from_content(content: object) -> Measurements:
    known = require_keys(content, ("version", *_TEXTS, "n_edges", "clean", "corrupt", "circuits"))
    not_text = [name for name in _TEXTS if not isinstance(known[name], str)]
    rows = known["circuits"]
    if not_text or not isinstance(rows, list):
        raise ValueError(f"{not_text[0] if not_text else 'circuits'} is of another type")
    circuits = [require_keys(row, ("kind", "edges", "values")) for row in rows]
    strange = [row["kind"] for row in circuits if row["kind"] not in get_args(Kind)]
    if strange:
        raise ValueError(
            f"the kinds of circuits are {', '.join(get_args(Kind))}, not {shown(strange[0])}"
        )
    clean, corrupt = (_numbers(known[run]) for run in ("clean", "corrupt"))
    values = [_numbers(row["values"]) for row in circuits]
    if {len(corrupt), *map(len, values)} - {len(clean)}:
        raise ValueError(f"every circuit needs a value for each of {len(clean)} prompts")
    return Measurements(
        **{name: str(known[name]) for name in _TEXTS},
        n_edges=_count(known["n_edges"]),
        kinds=tuple(kind for row in circuits for kind in get_args(Kind) if kind == row["kind"]),
        edges=tuple(_count(row["edges"]) for row in circuits),
        values=torch.stack(values) if values else torch.zeros(0, len(clean), dtype=torch.float64),
        clean=clean,
        corrupt=corrupt,
    )


def _numbers(values: object) -> Float[Tensor, " example"]:
    if not isinstance(values, list):
        raise ValueError(f"a list of numbers would be right, got {shown(values)}")
    found = torch.tensor([number(value) for value in values], dtype=torch.float64)
    if len(found) and not (found.abs().max() * len(found)).isfinite():
        raise ValueError("its numbers are too large to be added up")
    return found


def _count(value: object) -> int:
    if type(value) is not int or not 0 <= value < 2**63:
        raise ValueError(f"a number of edges would be right, got {shown(value)}")
    return value


def _finite(value: float) -> float:
    return value if math.isfinite(value) else math.nan
