"""Several methods together: scores averaged, scores that masks start from, and both."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from circuits.circuit import Circuit
from circuits.judging.uncertainty import ensemble
from circuits.learning import PRUNING, Learned, connected, edge_pruning
from circuits.scores import Scores
from circuits.scoring import eap, eap_ig
from patching.descent import Schedule
from patching.metrics import Metric, kl
from patching.model import Model
from patching.tasks.task import Task

Member = Callable[[Model, Task, Metric], Scores]


@dataclass(frozen=True, eq=False)
class Hybrid:
    """What `hybrid` combines, and the result: `scores`, to be ranked by absolute value.

    `parallel` is the mean of the members' normalised scores (P-Ens); `serial` what edge pruning
    made of them (S-Ens), with the signs of `parallel`, as masks have none; `learned` tells how the
    masks were learned.
    """

    scores: Scores
    parallel: Scores
    serial: Scores
    learned: Learned

    def circuit(self, size: int | None = None) -> Circuit:
        """The circuit of the size that masks were trained for, or of another.

        Raises:
            ValueError: if the graph is smaller than that.
        """
        n = self.learned.size if size is None else size
        return connected(self.scores, n, ranking="absolute")


def hybrid(
    model: Model,
    task: Task,
    metric: Metric,
    *,
    size: int,
    members: Sequence[Member] = (eap, eap_ig),
    learn_by: Metric = kl,
    schedule: Schedule = PRUNING,
) -> Hybrid:
    """The mean of an ensemble of scores and of the masks that were learned from it on.

    Each is divided by its root mean square first. Masks are learned for circuits of `size` edges,
    and start in the order of the ensemble; the paper starts from EAP-IG alone. P-Ens, S-Ens and
    Hybrid-Ens of Mondorf et al. 2025, arXiv:2510.06811. Costs what the members and edge pruning do.

    Args:
        model: what is scored.
        task: prompts to score and to learn on.
        metric: of the members.
        size: how many edges the masks are to keep.
        members: two methods or more; `functools.partial` gives them options.
        learn_by: the metric that masks keep, with a gradient.
        schedule: of the masks, with a folder to resume from.

    Raises:
        ValueError: if there are fewer than two members, one scores every edge 0, the graph has
            fewer edges than `size`, or metrics, model and task do not fit together.
    """
    parallel = ensemble([member(model, task, metric) for member in members])
    learned = edge_pruning(model, task, learn_by, size=size, start=parallel, schedule=schedule)
    kept = learned.scores.matrix
    signs = parallel.matrix.sign() + (parallel.matrix == 0)
    serial = replace(learned.scores, matrix=kept * signs)
    return Hybrid(ensemble([parallel, serial]), parallel, serial, learned)
