"""What masks are learned on: a model, all prompts of a task, a metric, and what removal means."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from circuits.provenance import describe
from circuits.running.masked import run_ends, run_masked
from circuits.scores import Scores
from patching.ablations import Ablation, Prepared, prepared_for
from patching.graph import Graph
from patching.history import History
from patching.metrics import Metric, measure, measure_sloped, require_slope
from patching.model import Model
from patching.modes import without_gradients
from patching.provenance import confirmed
from patching.span_graph import kept_apart, spans_last
from patching.tasks.task import Batch, Task


@dataclass(frozen=True, eq=False)
class Setting:
    """Everything that stays the same from step to step; `prepare` makes one."""

    model: Model
    task: Task
    metric: Metric
    ablation: Prepared
    prompts: Batch

    @property
    def graph(self) -> Graph:
        """What masks are of: spans are kept apart where the task does."""
        return kept_apart(self.model.graph, self.task.apart)

    def distance(
        self, rows: Int[Tensor, " batch"], removed: Float[Tensor, "..."]
    ) -> Float[Tensor, ""]:
        """How far the metric is from the clean run's with edges removed in part, see `run_masked`.

        The mean over examples of |metric of the clean run - metric of this run|: for `kl` that is
        the divergence itself, and no other metric gains by overshooting what the model does.
        """
        batch = self.prompts.at(rows.to(self.model.device))
        ends = run_ends(self.model, batch, self.ablation)
        batch = replace(batch, clean_logits=ends.clean.logits)
        clean = measure(self.metric, ends.clean.logits, batch)
        found = measure_sloped(self.metric, run_masked(self.model, batch, ends, removed), batch)
        return (clean - found).abs().mean()

    @without_gradients
    def mean_distance(self, removed: Float[Tensor, "..."], batch_size: int) -> float:
        """The distance over all examples."""
        n = len(self.task)
        parts = torch.arange(n).split(batch_size)
        return sum(len(rows) * float(self.distance(rows, removed)) for rows in parts) / n

    def outside(self, mask: Bool[Tensor, "source dest"]) -> Float[Tensor, "..."]:
        """What removes all edges but those of a circuit, for `distance`."""
        removed = (self.graph.exists & ~mask).to(self.model.device, torch.float64)
        return spans_last(removed, self.graph)

    def remove(self, kept: Float[Tensor, "*batch edge"]) -> Float[Tensor, "..."]:
        """Shares kept of the graph's edges, in row-major order, as what `distance` removes."""
        exists = self.graph.exists
        edges = exists.flatten().nonzero().squeeze(1).to(kept.device)
        empty = kept.new_zeros(*kept.shape[:-1], exists.numel())
        removed = empty.index_copy(-1, edges, 1 - kept).unflatten(-1, exists.shape)
        return spans_last(removed, self.graph)

    @property
    def functions(self) -> tuple[object, ...]:
        """What a user may have written, which facts know by name alone."""
        return self.metric, self.ablation

    def facts(
        self, method: str, options: Mapping[str, object], start: Scores | None
    ) -> dict[str, object]:
        """Provenance of what is learned here; `start` are the scores it starts from."""
        name = self.ablation.name
        said = describe(self.model, self.task, self.metric, method, options, ablation=name)
        said = confirmed(self.model, said)
        return said if start is None else {**said, "started_from": dict(start.provenance)}

    def score_edges(
        self, kept: Float[Tensor, " edge"], facts: Mapping[str, object], history: History
    ) -> Scores:
        """What was learned of each edge as scores, which say how the training ended."""
        graph = self.graph
        matrix = torch.zeros(graph.exists.shape, dtype=torch.float64)
        matrix[graph.exists] = kept.detach().double().cpu()
        meaning = "the probability that an edge is kept: without sign"
        ended = {"sign": meaning, "steps_taken": history.steps, "loss": history.last("loss")}
        return Scores(matrix, graph, {**facts, **ended, "stopped": history.stopped})


def prepare(model: Model, task: Task, metric: Metric, ablation: Ablation) -> Setting:
    """Check that everything fits together, before any expensive work.

    Raises:
        ValueError: if the metric has no gradient, the model cannot read the task, or pairs that
            should differ do not.
    """
    require_slope(metric, "to learn by", at_clean=False)
    model.check(task, metric)
    prepared = prepared_for(model, ablation)
    if prepared.paired:
        task.require_contrast()
    (prompts,) = task.batches(len(task), model.device)
    return Setting(model, task, metric, prepared, prompts)
