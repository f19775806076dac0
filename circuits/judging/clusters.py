"""Clusters: prompts grouped by their own scores, a circuit for each, and whether one serves all.

A mean over prompts hides that some may be solved in another way. Scores by prompt, each divided by
its length, are grouped from the nearest on, so that groups stay close (Ward's linkage); a circuit
is found on half of each group and judged on the other half of every group, beside one found on all.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Int
from scipy.cluster.hierarchy import fcluster, linkage
from torch import Tensor

from circuits.circuit import Circuit
from circuits.judging.transfer import judged
from circuits.running.trial import Trial
from circuits.scores import Scores
from circuits.select import of_rows, require_rows
from patching.files.brief import as_table, briefly
from patching.tasks.task import Task

if TYPE_CHECKING:
    import pandas

ALL = "all"


@briefly
@dataclass(frozen=True, eq=False)
class Clusters:
    """Groups of prompts, a circuit for each and one for all, and what each keeps on each group.

    `labels` is the group of every prompt, from 0, the largest first. Rows of `faithfulness` are the
    circuits: of each group, then of all prompts; columns are the groups' held-out halves.
    `closeness` is the mean cosine of two prompts' scores, of groups with themselves and each other.
    """

    labels: Int[Tensor, " example"]
    circuits: tuple[Circuit, ...]
    faithfulness: Float[Tensor, "circuit group"]
    low: Float[Tensor, "circuit group"]
    high: Float[Tensor, "circuit group"]
    closeness: Float[Tensor, "group group"]

    @property
    def one_serves_all(self) -> bool:
        """Whether on each group the circuit of all prompts is not beyond doubt worse than its own.

        That is: it keeps as much as the lower end of the interval of the group's own circuit.
        """
        n = self.faithfulness.shape[1]
        own = self.low[range(n), range(n)]
        return bool((self.faithfulness[-1] >= own).all())

    @property
    def sentence(self) -> str:
        """The groups, and whether one circuit serves all, in words."""
        sizes = self.labels.bincount().tolist()
        said = "serves all of them" if self.one_serves_all else "does not serve all of them"
        return f"{len(sizes)} groups of {', '.join(map(str, sizes))} prompts; one circuit {said}."

    def to_dataframe(self) -> "pandas.DataFrame":
        """One row for each circuit and group."""
        import pandas  # slow to import, and seldom needed

        n = self.faithfulness.shape[1]
        rows = [
            {
                "circuit": ALL if i == n else f"group {i}",
                "edges": self.circuits[i].size,
                "group": f"group {j}",
                "faithfulness": float(self.faithfulness[i, j]),
                "low": float(self.low[i, j]),
                "high": float(self.high[i, j]),
            }
            for i in range(n + 1)
            for j in range(n)
        ]
        return pandas.DataFrame(rows)

    def _repr_html_(self) -> str:
        return as_table(self.sentence, self.to_dataframe())


def clusters(
    task: Task,
    scores: Scores,
    choose: Callable[[Scores], Circuit],
    prepare: Callable[[Task], Trial],
    *,
    n: int = 2,
) -> Clusters:
    """Prompts in n groups by their own scores, and what a circuit of each keeps on the others.

    Args:
        task: the prompts that were scored.
        scores: of these prompts, kept by prompt.
        choose: a circuit from scores, as `partial(top_n, n=100, ranking="absolute")`.
        prepare: a trial of some of the prompts.
        n: how many groups, two or more.

    Raises:
        ValueError: if scores are of other prompts or not kept by prompt, n is out of range, a
            prompt scores every edge 0, a group has one prompt only, or clean and corrupt do not
            differ or corrupt does better on one.
    """
    rows = require_rows(scores)
    if len(rows) != len(task) or scores.provenance.get("tokens", task.hash) != task.hash:
        raise ValueError(f"these scores are of other prompts than the {len(task)} of {task.name!r}")
    labels = grouped(rows, n)
    groups = [(labels == i).nonzero().flatten().tolist() for i in range(n)]
    alone = [i for i, group in enumerate(groups) if len(group) < 2]
    if alone:
        sizes = ", ".join(str(len(group)) for group in groups)
        raise ValueError(f"groups are of {sizes} prompts; two are the least: ask for fewer groups")
    halves = [(group[::2], group[1::2]) for group in groups]
    searched = [first for first, _ in halves]
    searched.append(sorted(row for first in searched for row in first))
    said = {"tokens": "some of these prompts"}
    circuits = [
        choose(of_rows(scores, rows[some], n_examples=len(some), **said)) for some in searched
    ]
    columns = [judged(prepare(task.some(rest)), circuits, 0) for _, rest in halves]
    kept, low, high = (torch.stack(ends, dim=1) for ends in zip(*columns, strict=True))
    return Clusters(labels, tuple(circuits), kept, low, high, _closeness(rows, labels, n))


def grouped(rows: Float[Tensor, "example edge"], n: int) -> Int[Tensor, " example"]:
    """The group of each prompt, from 0, the largest first, of equals that of the first prompt.

    >>> rows = torch.tensor([[1.0, 0.0], [0.0, 2.0], [3.0, 0.1], [0.2, 1.0], [2.0, 0.0]])
    >>> grouped(rows.double(), 2).tolist()
    [0, 1, 0, 1, 0]

    Raises:
        ValueError: if there are not as many prompts as groups, or a prompt scores every edge 0.
    """
    if not 2 <= n <= len(rows):
        raise ValueError(f"{len(rows)} prompts make 2 to {len(rows)} groups, got {n}")
    empty = (rows == 0).all(dim=1).nonzero().flatten().tolist()
    if empty:
        raise ValueError(f"prompt {empty[0]} scores every edge 0, and is like no other")
    unit = rows / rows.norm(dim=1, keepdim=True)
    found = fcluster(linkage(unit.numpy(), "ward"), n, criterion="maxclust")
    kinds = list(dict.fromkeys(found.tolist()))
    if len(kinds) < n:
        raise ValueError(f"these prompts make {len(kinds)} groups at most, got {n}")
    kinds.sort(key=lambda kind: -int((found == kind).sum()))
    return torch.tensor([kinds.index(kind) for kind in found.tolist()])


def _closeness(
    rows: Float[Tensor, "example edge"], labels: Int[Tensor, " example"], n: int
) -> Float[Tensor, "group group"]:
    unit = rows / rows.norm(dim=1, keepdim=True)
    means = torch.stack([unit[labels == i].mean(dim=0) for i in range(n)])
    return means @ means.T
