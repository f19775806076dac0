"""Running the candidates of a search: all examples, equal computations once, and what it cost."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from circuits.running.many import measure_circuits
from circuits.running.pair import run_pair
from circuits.running.plan import Plan, make_plans
from circuits.search.log import Log
from patching.ablations import Prepared
from patching.metrics import Metric
from patching.model import Model
from patching.modes import without_gradients
from patching.span_graph import kept_apart, spans_last
from patching.tasks.task import Task

AT_ONCE = 64
"""Circuits planned together; passes take as many of them as memory allows."""


@dataclass(frozen=True)
class Cost:
    """What a search ran.

    `circuits` is how many were run on all examples, `recalled` how many needed no run because an
    equal computation had been done. `forwards` counts in whole forward passes of the task: a run
    that starts at the last of four layers is a quarter.
    """

    circuits: int = 0
    forwards: float = 0.0
    recalled: int = 0

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(
            self.circuits + other.circuits,
            self.forwards + other.forwards,
            self.recalled + other.recalled,
        )

    def __sub__(self, other: "Cost") -> "Cost":
        return Cost(
            self.circuits - other.circuits,
            self.forwards - other.forwards,
            self.recalled - other.recalled,
        )


class Judge:
    """The metric of circuits on the examples of a task.

    Remembers what it has run, in `log` for other searches too; what it takes from there counts as
    run, so that a search that went on cost what it would have at one go. Two circuits are one
    computation if they differ only where it cannot matter: in edges into nodes from which no kept
    edge leads to the logits, say. Both runs of the pairs are made once and kept, which takes the
    residual streams of all prompts in memory. `graph` is what circuits are of: it keeps spans apart
    where the task does.

    Raises:
        ValueError: if the model cannot read the task, or pairs do not differ where they should.
    """

    def __init__(
        self,
        model: Model,
        task: Task,
        metric: Metric,
        ablation: Prepared,
        *,
        batch_size: int,
        log: Log | None = None,
    ) -> None:
        model.check(task, metric)
        if ablation.paired:
            task.require_contrast()
        self.cost = Cost()
        self.graph = kept_apart(model.graph, task.apart)
        self._model, self._metric, self._n_examples = model, metric, len(task)
        self._coupled = [block.couples_heads for block in model.blocks]
        self._paired = ablation.paired
        self._runs = []
        for batch in task.batches(batch_size, model.device):
            pair = run_pair(model, batch, ablation)
            self._runs.append((replace(batch, clean_logits=pair.clean.logits), pair))
        self._log = Log.open(None, {}) if log is None else log
        self._seen: set[str] = set()

    @without_gradients
    def values(self, masks: Sequence[Bool[Tensor, "source dest"]]) -> list[float]:
        """The mean metric of each circuit, given as masks of kept edges.

        Raises:
            ValueError: if the metric comes out as NaN.
        """
        return self.by_example(masks).mean(dim=1).tolist()

    @without_gradients
    def by_example(
        self, masks: Sequence[Bool[Tensor, "source dest"]]
    ) -> Float[Tensor, "circuit example"]:
        """The metric of each circuit on each example.

        Raises:
            ValueError: if the metric comes out as NaN.
        """
        found = [torch.empty(0, self._n_examples, dtype=torch.float64)]
        for start in range(0, len(masks), AT_ONCE):
            found.append(self._values(torch.stack(list(masks[start : start + AT_ONCE]))))
        return torch.cat(found)

    def _values(
        self, masks: Bool[Tensor, "circuit source dest"]
    ) -> Float[Tensor, "circuit example"]:
        dtype = self._runs[0][1].replaced.embed.dtype
        removed = spans_last((self.graph.exists & ~masks).to(dtype), self.graph)
        plans = make_plans(removed, self._model.graph, paired=self._paired, coupled=self._coupled)
        keys = [_computation(plan) for plan in plans]
        first = {key: i for i, key in reversed(list(enumerate(keys)))}
        missing = [i for key, i in first.items() if key not in self._log]
        if missing:
            self._log.add([keys[i] for i in missing], self._run(removed[missing]))
        new = [i for key, i in first.items() if key not in self._seen]
        self._seen.update(first)
        forwards = sum((self._share(plans[i]) for i in new), 0.0)
        self.cost += Cost(len(new), forwards, len(masks) - len(new))
        return torch.stack([self._log[key] for key in keys])

    def _run(
        self, removed: Float[Tensor, "circuit source dest *span"]
    ) -> Float[Tensor, "circuit _"]:
        found = torch.empty(len(removed), self._n_examples, dtype=torch.float64)
        start = 0
        for batch, pair in self._runs:
            span = slice(start, start + len(batch))
            found[:, span] = measure_circuits(self._model, batch, pair, removed, (self._metric,))[0]
            start = span.stop
        if found.isnan().any():
            raise ValueError(
                f"{self._metric.__name__} is NaN in a circuit; most likely the weights or the "
                "metric hold NaN"
            )
        return found

    def _share(self, plan: Plan) -> float:
        """How much of a forward pass a circuit takes: the layers from the first it touches on."""
        n = self._model.graph.n_layers
        if plan.first_layer is None or plan.is_corrupt:
            return 0.0
        return (n - plan.first_layer) / n


def _computation(plan: Plan) -> str:
    """Equal for plans that lead to one and the same computation."""
    digest = hashlib.sha256()
    terms = plan.coefficient[:, plan.computed].contiguous()
    starts = plan.from_replaced & plan.computed.view(-1, *[1] * (plan.from_replaced.ndim - 1))
    for part in (terms, starts, plan.replaced, plan.computed, plan.active):
        digest.update(part.numpy().tobytes())
    return digest.hexdigest()
