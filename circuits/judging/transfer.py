"""Transfer: circuits found on one kind of prompts, judged on the others.

Templates, paraphrases, corruptions, tasks: where a circuit of one keeps as much on another as its
own does, they are one behaviour to the model. Every kind of prompts is split; circuits are found on
one part and judged on the other, of their own kind too.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from circuits.circuit import Circuit
from circuits.judging.stability import agreement
from circuits.running.trial import Trial, require_gap, run
from patching.files.brief import as_table, briefly
from patching.intervals import Estimate, interval, ratio_of_means
from patching.tasks.task import Task

if TYPE_CHECKING:
    import pandas


@briefly
@dataclass(frozen=True, eq=False)
class Transfer:
    """What each circuit (row) keeps on each kind of prompts (column), with 95 % intervals.

    `circuits` are by the name of what they were found on; `overlap` is the Jaccard index of two.
    """

    names: tuple[str, ...]
    circuits: tuple[Circuit, ...]
    faithfulness: Float[Tensor, "found judged"]
    low: Float[Tensor, "found judged"]
    high: Float[Tensor, "found judged"]
    overlap: Float[Tensor, "found found"]

    def of(self, found: str, judged: str) -> Estimate:
        """What the circuit of one kind keeps on another.

        Raises:
            ValueError: if there is no such kind.
        """
        for name in (found, judged):
            if name not in self.names:
                raise ValueError(f"no prompts named {name!r}; there are {', '.join(self.names)}")
        at = self.names.index(found), self.names.index(judged)
        return Estimate(*(float(part[at]) for part in (self.faithfulness, self.low, self.high)))

    def to_dataframe(self) -> "pandas.DataFrame":
        """One row for each pair: found on, judged on, edges, faithfulness, low, high, jaccard."""
        import pandas  # slow to import, and seldom needed

        rows = [
            {
                "found_on": a,
                "judged_on": b,
                "edges": self.circuits[i].size,
                "faithfulness": float(self.faithfulness[i, j]),
                "low": float(self.low[i, j]),
                "high": float(self.high[i, j]),
                "jaccard": float(self.overlap[i, j]),
            }
            for i, a in enumerate(self.names)
            for j, b in enumerate(self.names)
        ]
        return pandas.DataFrame(rows)

    def _repr_html_(self) -> str:
        return as_table("Circuits of one kind of prompts on others:", self.to_dataframe())


def transfer(
    tasks: Mapping[str, Task],
    find: Callable[[Task], Circuit],
    prepare: Callable[[Task], Trial],
    *,
    share: float = 0.5,
    seed: int = 0,
) -> Transfer:
    """A circuit for each kind of prompts, and what it keeps on held-out prompts of every kind.

    >>> from functools import partial
    >>> from circuits.running.trial import prepare
    >>> from circuits.scoring import eap_ig
    >>> from circuits.select import top_n
    >>> from patching.metrics import logit_diff
    >>> from patching.model import Model
    >>> from patching.models import induction
    >>> model = Model.load("truth/induction")
    >>> kinds = {"few": induction(n=6).task, "other": induction(n=6, seed=1).task}
    >>> found = transfer(
    ...     kinds,
    ...     lambda task: top_n(eap_ig(model, task, logit_diff), 9, ranking="absolute"),
    ...     lambda task: prepare(model, task, logit_diff),
    ... )
    >>> round(found.of("few", "other").value, 2)
    1.0

    Args:
        tasks: kinds of prompts by name, two or more.
        find: a circuit from prompts of the search.
        prepare: a trial of prompts to judge on.
        share: of each kind's prompts, how many are for the search.
        seed: of the splits, and of the intervals' draws.

    Raises:
        ValueError: if there are fewer than two kinds, one has too few prompts to split, or clean
            and corrupt do not differ or corrupt does better on one.
    """
    if len(tasks) < 2:
        raise ValueError(f"a circuit is carried over between two tasks or more, got {len(tasks)}")
    parts = [task.split(share, seed) for task in tasks.values()]
    circuits = [find(found) for found, _ in parts]
    columns = [judged(prepare(held_out), circuits, seed) for _, held_out in parts]
    kept, low, high = (torch.stack(ends, dim=1) for ends in zip(*columns, strict=True))
    return Transfer(tuple(tasks), tuple(circuits), kept, low, high, agreement(circuits).jaccard)


def judged(
    trial: Trial, circuits: list[Circuit], seed: int
) -> tuple[Float[Tensor, " found"], Float[Tensor, " found"], Float[Tensor, " found"]]:
    """What circuits keep on some prompts, and both ends of the intervals; NaN for one prompt."""
    found = run(trial, circuits)
    require_gap(found, trial.metric)
    n = 1000 if len(trial.task) > 1 else 0
    runs = found.values, found.clean, found.corrupt
    low, high = (torch.from_numpy(np.asarray(end)) for end in _ends(runs, n, seed))
    return found.faithfulness, low, high


def _ends(runs: tuple[Tensor, Tensor, Tensor], n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    return interval(ratio_of_means, *runs, n=n, seed=seed)
