"""Stability: would the same search find the same circuit on other prompts, or with another seed?

Reference values of Méloux et al. 2025 (arXiv:2510.00845) for bootstrap resamples: mean Jaccard 0.67
for GPT-2, 0.39 for Llama-3.2-1B; their advice is above 0.8 with 100 resamples or more.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from circuits.circuit import Circuit
from circuits.scores import Scores
from circuits.select import of_rows, require_rows
from patching.files.brief import briefly
from patching.intervals import counts
from patching.progress import track
from patching.tasks.task import Task

if TYPE_CHECKING:
    import pandas


@briefly
@dataclass(frozen=True, eq=False)
class Stability:
    """Circuits found by equal searches, and how far they agree.

    `jaccard` is NaN for two circuits without edges, of which it is undefined.
    """

    circuits: tuple[Circuit, ...]
    jaccard: Float[Tensor, "circuit circuit"]

    @property
    def pairs(self) -> Float[Tensor, " pair"]:
        """The Jaccard index of every pair of circuits, each pair once."""
        rows, columns = torch.triu_indices(len(self.circuits), len(self.circuits), offset=1)
        return self.jaccard[rows, columns]

    @property
    def mean(self) -> float:
        """The mean over pairs; NaN if that of a pair is undefined."""
        return float(self.pairs.mean())

    @property
    def inclusion(self) -> Float[Tensor, "source dest"]:
        """The share of the circuits that hold each edge."""
        return torch.stack([circuit.mask for circuit in self.circuits]).double().mean(dim=0)

    def core(self, share: float | int = 1) -> Circuit:
        """The edges that at least this share of the circuits hold.

        Raises:
            ValueError: if the share is not above 0 and at most 1.
        """
        if not 0 < share <= 1:
            raise ValueError(f"a core is held by a share above 0 and at most 1, got {share}")
        return Circuit(self.inclusion >= share, self.circuits[0].graph)

    def to_dataframe(self) -> "pandas.DataFrame":
        """One row per edge that any circuit holds, most frequent first."""
        import pandas  # slow to import, and seldom needed

        inclusion = self.inclusion
        edges = Circuit(inclusion > 0, self.circuits[0].graph)
        frame = pandas.DataFrame(edges.edges, columns=["source", "dest"])
        frame["inclusion"] = inclusion[edges.mask].numpy()
        return frame.sort_values("inclusion", ascending=False, kind="stable", ignore_index=True)


def jaccard(a: Circuit, b: Circuit) -> float:
    """Shared edges over edges of either; NaN if neither has any.

    >>> from patching.graph import Graph
    >>> graph = Graph(n_layers=1, n_heads=1, n_kv_heads=1)
    >>> one = Circuit.from_edges(graph, [("embed", "m0")])
    >>> jaccard(one, one | Circuit.from_edges(graph, [("m0", "logits")]))
    0.5

    Raises:
        ValueError: if the circuits are of different graphs.
    """
    return float(agreement([a, b]).jaccard[0, 1])


def agreement(circuits: Sequence[Circuit]) -> Stability:
    """How far circuits agree, pair by pair: shared edges over edges of either.

    Raises:
        ValueError: if there are fewer than two, or they are of different graphs.
    """
    if len(circuits) < 2:
        raise ValueError(f"agreement is between two or more circuits, got {len(circuits)}")
    graphs = [circuit.graph for circuit in circuits]
    for i, graph in enumerate(graphs):
        graphs[0].require_same(graph, f"circuit {i} is")
    masks = torch.stack([circuit.mask.flatten() for circuit in circuits]).double()
    shared = masks @ masks.T
    sizes = masks.sum(dim=1)
    return Stability(tuple(circuits), shared / (sizes[:, None] + sizes[None, :] - shared))


def across_resamples(
    task: Task,
    score: Callable[[Task], Scores],
    select: Callable[[Scores], Circuit],
    *,
    n: int = 100,
    seed: int = 0,
) -> Stability:
    """Circuits found on n bootstrap resamples of a task's prompts.

    Each resample is as many prompts, drawn with replacement, scored and selected from anew.

    Raises:
        ValueError: if n is less than 2.
    """
    rng = np.random.default_rng(seed)
    rows = [rng.integers(len(task), size=len(task)) for _ in range(n)]
    resamples = track(rows, "resampling", n)
    return agreement([select(score(task.some(row.tolist()))) for row in resamples])


def across_seeds(
    score: Callable[[int], Scores], select: Callable[[Scores], Circuit], seeds: Sequence[int]
) -> Stability:
    """Circuits found with each of the seeds, of prompts or of a method: what `score` does with it.

    Raises:
        ValueError: if there are fewer than two seeds.
    """
    return agreement([select(score(seed)) for seed in track(seeds, "seeds", len(seeds))])


def resamples(scores: Scores, n: int, seed: int) -> Iterator[Scores]:
    """Scores of n bootstrap draws of the prompts, as many as there are, with replacement.

    The same draws for all scores of as many prompts.

    Raises:
        ValueError: if scores were not kept by prompt.
    """
    rows = require_rows(scores)
    for i, often in enumerate(torch.from_numpy(counts(len(rows), n, seed))):
        drawn = rows.repeat_interleave(often.long(), dim=0)
        yield of_rows(scores, drawn, resample={"number": i, "seed": seed})
