"""Completeness: does a circuit break where the model breaks?

Take the same part K out of the circuit C and out of the whole model M: a complete circuit changes
as the model does, |F(C - K) - F(M - K)| is small for every K, F being the mean metric. A circuit
that lacks a back-up path is faithful and yet incomplete. Wang et al. 2022, arXiv:2211.00593.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float
from torch import Tensor

from circuits.circuit import Circuit
from circuits.judging.subsets import Parts, Units, edge_units, join, without
from circuits.running.trial import Trial, require_gap, run
from patching.files.brief import briefly

if TYPE_CHECKING:
    import pandas

NOTHING = "nothing"
"""The empty K: its incompleteness is the distance of the circuit from the model."""


@briefly
@dataclass(frozen=True, eq=False)
class Completeness:
    """The metric of circuit and model without each part, and the clean-corrupt gap."""

    names: tuple[str, ...]
    parts: tuple[Circuit, ...]
    circuit: Float[Tensor, "part example"]
    model: Float[Tensor, "part example"]
    gap: float

    @property
    def incompleteness(self) -> Float[Tensor, " part"]:
        """|F(C - K) - F(M - K)|, F being the mean over examples, in units of the metric."""
        return (self.circuit.mean(dim=1) - self.model.mean(dim=1)).abs()

    @property
    def worst(self) -> str:
        """The part without which circuit and model differ most."""
        return self.names[int(self.incompleteness.argmax())]

    def to_dataframe(self) -> "pandas.DataFrame":
        """One row per part: its edges, both means, their distance, and that over the gap."""
        import pandas  # slow to import, and seldom needed

        distance = self.incompleteness
        return pandas.DataFrame(
            {
                "part": self.names,
                "edges": [part.size for part in self.parts],
                "circuit": self.circuit.mean(dim=1).numpy(),
                "model": self.model.mean(dim=1).numpy(),
                "incompleteness": distance.numpy(),
                "share_of_gap": (distance / abs(self.gap)).numpy(),
            }
        )


@dataclass(frozen=True)
class Greedy:
    """A search for the part that shows a circuit most incomplete.

    Each of `runs` starts from nothing and adds, `steps` times, the worst of `candidates` units
    drawn at random. Wang et al. use 10 candidates, 10 steps and whole nodes (`node_units`).
    """

    units: Units = edge_units
    runs: int = 3
    steps: int = 10
    candidates: int = 10
    seed: int = 0


def completeness(trial: Trial, circuit: Circuit, parts: Parts) -> Completeness:
    """Circuit and model without each of the parts, in one call; without nothing comes first.

    Raises:
        ValueError: if a circuit or part is of another graph, or clean and corrupt do not differ.
    """
    cut = {NOTHING: Circuit.empty(circuit.graph), **parts}
    full = Circuit.full(circuit.graph)
    left = [without(whole, part) for whole in (circuit, full) for part in cut.values()]
    found = run(trial, left)
    require_gap(found, trial.metric)
    return Completeness(
        names=tuple(cut),
        parts=tuple(cut.values()),
        circuit=found.values[: len(cut)],
        model=found.values[len(cut) :],
        gap=float(found.clean.mean() - found.corrupt.mean()),
    )


def greedy_subsets(trial: Trial, circuit: Circuit, search: Greedy) -> Parts:
    """Per run of a greedy search, the part at which circuit and model differed most.

    All runs advance together, so that one step is one call. `completeness` measures the parts,
    preferably on other prompts than they were searched on: the worst of many is worse by chance.

    Raises:
        ValueError: if the search is empty, the circuit has no units, or `completeness` refuses.
    """
    if min(search.runs, search.steps, search.candidates) < 1:
        raise ValueError(f"a greedy search needs one run, step and candidate at least: {search}")
    units = list(search.units(circuit).values())
    if not units:
        raise ValueError("there are no units to search: the circuit has none of this kind")
    rng = np.random.default_rng(search.seed)
    parts = [Circuit.empty(circuit.graph)] * search.runs
    best = [(-1.0, part) for part in parts]
    for _ in range(min(search.steps, len(units))):
        tried = [_grown(part, units, search.candidates, rng) for part in parts]
        named = {f"{i} {j}": part for i, row in enumerate(tried) for j, part in enumerate(row)}
        found = completeness(trial, circuit, named)
        distances = iter(found.incompleteness[1:].tolist())
        worst = [_worst([(next(distances), part) for part in row]) for row in tried]
        parts = [part for _, part in worst]
        best = [_worst(pair) for pair in zip(best, worst, strict=True)]
    return {f"greedy {i}": part for i, (_, part) in enumerate(best)}


def _grown(
    part: Circuit, units: Sequence[Circuit], n: int, rng: np.random.Generator
) -> list[Circuit]:
    """The part with each of n random units that it does not hold yet."""
    left = [unit for unit in units if not unit <= part]
    chosen = rng.permutation(len(left))[:n]
    return [join(part.graph, [part, left[i]]) for i in chosen]


def _worst(found: Sequence[tuple[float, Circuit]]) -> tuple[float, Circuit]:
    return max(found, key=lambda pair: pair[0])
