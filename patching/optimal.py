"""Optimal ablation: each writer replaced by the constant that hurts the model least.

    a* = argmin_a  mean over examples |metric of the clean run - metric with the writer at a|

A mean may be a value that no run ever takes and that the model takes amiss; what is lost under the
best constant is lost for want of information alone. Li and Janson 2024, arXiv:2409.09951. One
writer is replaced at a time here; `circuits.learning.optimal_outside` replaces many together.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor

from patching.ablations import Constants, mean
from patching.anatomy.blocks import EMBEDDING, Block
from patching.capture import Run, Writes, capture, indices
from patching.constants import Optimal, by_name, from_names
from patching.descent import LOSS, Parameter, Schedule, Step, descend
from patching.history import History
from patching.metrics import Metric, kl, measure, measure_sloped, require_slope
from patching.model import Hook, Model
from patching.modes import without_gradients
from patching.provenance import confirmed, describe
from patching.tasks.task import Batch, Task

SCHEDULE = Schedule(steps=150, rate=0.05)
ROWS = 256
"""Writers x examples that are run, and differentiated, together."""


def optimal(
    model: Model, task: Task, metric: Metric = kl, *, schedule: Schedule = SCHEDULE
) -> Optimal:
    """The best constant of every writer, learned from its mean on with nothing else replaced.

    Where training found nothing better on all examples together, the mean stays. Writers do not
    bear on each other; as many are learned at once as `ROWS` allow. Costs a forward and a backward
    a step for each writer. The rate is in units of how much a writer's writes vary.

    Raises:
        ValueError: if the metric has no gradient, the model cannot read the task, or the folder of
            the schedule holds another training.
    """
    require_slope(metric, "to learn by", at_clean=False)
    model.check(task, metric)
    space = open_space(model, task)
    (prompts,) = task.batches(len(task), model.device)
    facts = describe(
        model, task, metric, "optimal-ablation", schedule.options, facts={"replaced": "one writer"}
    )
    facts = confirmed(model, facts)
    job = _Job(model, metric, prompts, space)
    n_writers, size = len(model.graph.sources), min(schedule.batch_size, len(task))
    at_once = max(1, ROWS // size)
    chosen, losses, curves = space.start, [], []
    for first in range(0, n_writers, at_once):
        group = range(first, min(first + at_once, n_writers))
        values, history = job.learn(group, schedule, facts)
        found = space.constants(values)
        both = [job.losses(group, some, size) for some in (space.means, found)]
        losses.append(torch.stack(both))
        better = {
            i for i, (old, new) in zip(group, losses[-1].T.tolist(), strict=True) if new < old
        }
        chosen = _take(chosen, values, better, model)
        curves.append(history.curves[LOSS])
    mean_losses, learned_losses = torch.cat(losses, dim=1)
    name = f"optimal constants over {task.name} ({task.hash})"
    return Optimal(
        Constants(name, space.constants(chosen).map(lambda part: part.detach())),
        model.weights,
        torch.minimum(mean_losses, learned_losses),
        mean_losses,
        History({LOSS: _padded_mean(curves)}, "all steps done"),
        facts,
    )


@dataclass(frozen=True, eq=False)
class Space:
    """Where constants are looked for: at the means, in units of how much writes vary."""

    means: Writes
    scales: Writes

    @property
    def start(self) -> dict[str, Tensor]:
        """The means: no deviation, of any part."""
        return {name: torch.zeros_like(part) for name, part in by_name(self.means).items()}

    def constants(self, values: Mapping[str, Float[Tensor, "..."]]) -> Writes:
        """What deviations stand for."""
        means, scales = by_name(self.means), by_name(self.scales)
        moved = {name: means[name] + scales[name] * values[name] for name in means}
        return from_names(moved, len(self.means.heads))


def open_space(model: Model, task: Task) -> Space:
    """The means over a task's clean prompts, and the spread of each writer's writes there."""
    means = mean(task)(model)
    assert isinstance(means, Constants), "a mean is a constant"
    batch = next(iter(task.batches(min(64, len(task)), model.device)))
    seen = capture(model, batch.clean, batch, at=batch.up_to_answer).writes
    return Space(means.writes.to(model.device), seen.to(model.device).map(_spread))


@dataclass(frozen=True, eq=False)
class _Job:
    model: Model
    metric: Metric
    prompts: Batch
    space: Space

    def learn(
        self, group: Sequence[int], schedule: Schedule, facts: Mapping[str, object]
    ) -> tuple[dict[str, Tensor], History]:
        def objective(
            values: Mapping[str, Tensor], step: Step
        ) -> tuple[Float[Tensor, ""], Mapping[str, float]]:
            constants = self.space.constants(values)
            return self.distances(group, constants, step.rows).sum() / len(group), {}

        parameters = {
            name: Parameter(value, schedule.rate) for name, value in self.space.start.items()
        }
        if schedule.folder is not None:
            schedule = replace(schedule, folder=Path(schedule.folder) / f"writers-{group[0]}")
        facts = {**facts, "writers": [group[0], group[-1]]}
        return descend(
            parameters,
            objective,
            len(self.prompts),
            schedule,
            facts=facts,
            functions=self.metric,
        )

    def distances(
        self, group: Sequence[int], constants: Writes, rows: Int[Tensor, " batch"]
    ) -> Float[Tensor, " writer"]:
        """What replacing each writer alone costs, on some examples."""
        batch = self.prompts.at(rows.to(self.model.device))
        clean = capture(self.model, batch.clean, batch, at=batch.up_to_answer)
        batch = replace(batch, clean_logits=clean.logits)
        hooks = _Replacing(self.model, batch, clean, constants, group).hooks()
        tokens = batch.clean.repeat(len(group), 1)
        logits = self.model.answer_logits(tokens, batch, hooks).unflatten(0, (len(group), -1))
        whole = measure(self.metric, clean.logits, batch)
        values = [measure_sloped(self.metric, some, batch) for some in logits]
        return (whole - torch.stack(values)).abs().mean(dim=1)

    @without_gradients
    def losses(
        self, group: Sequence[int], constants: Writes, size: int
    ) -> Float[Tensor, " writer"]:
        """`distances` over all examples."""
        total = torch.zeros(len(group), dtype=torch.float64)
        for rows in torch.arange(len(self.prompts)).split(size):
            total += len(rows) * self.distances(group, constants, rows).double().cpu()
        return total / len(self.prompts)


@dataclass(frozen=True, eq=False)
class _Replacing:
    """Hooks for a run of writers x examples: in each block of rows one writer writes a constant."""

    model: Model
    batch: Batch
    clean: Run
    constants: Writes
    group: Sequence[int]

    def hooks(self) -> list[tuple[str, Hook]]:
        graph = self.model.graph
        hooks: list[tuple[str, Hook]] = []
        if 0 in self.group:
            hooks.append((EMBEDDING, self._on_embedding))
        for block in self.model.blocks:
            span = graph.head_sources(block.index)
            heads = [i for i in self.group if span.start <= i < span.stop]
            if heads:
                hooks += self._on_heads(block, heads, span.start)
            if graph.mlp_source(block.index) in self.group:
                hooks.append((block.mlp_out, self._on_mlp(block)))
        return hooks

    def _on_embedding(self, x: Float[Tensor, "row pos d_model"]) -> Float[Tensor, "..."]:
        tokens = self.batch.up_to_answer
        constant = self.clean.positions[tokens] + self.constants.embed.to(x.dtype)
        return self._changed(x, 0, constant)

    def _on_mlp(self, block: Block) -> Hook:
        constant = self.constants.mlps[block.index]
        writer = self.model.graph.mlp_source(block.index)
        return lambda x: self._changed(x, writer, constant.to(x.dtype))

    def _on_heads(self, block: Block, writers: list[int], first: int) -> list[tuple[str, Hook]]:
        """What a head writes is changed after the post-norm over all heads, where there is one."""
        kept: dict[str, Tensor] = {}

        def hook(x: Float[Tensor, "row pos d_model"]) -> Float[Tensor, "row pos d_model"]:
            z, total = kept["z"], kept.get("total")
            for writer in writers:
                tokens = self._tokens(writer)
                live = block.head_input(z[tokens], None if total is None else total[tokens])
                head = torch.tensor([writer - first], device=x.device)
                missing = (self.constants.heads[block.index] - live)[:, head]
                x = x.index_put(tokens, x[tokens] + block.head_writes(missing, heads=head)[0].to(x))
            return x

        hooks: list[tuple[str, Hook]] = [(block.z, lambda z: kept.update(z=z))]
        if block.post_attention_norm is not None:
            hooks.append((block.attention_sum, lambda total: kept.update(total=total)))
        return [*hooks, (block.attention_out, hook)]

    def _tokens(self, writer: int) -> tuple[Tensor, ...]:
        """Rows and positions of a writer's block of rows."""
        rows, places = indices(self.batch.up_to_answer)
        return rows + self.batch.n_rows * self.group.index(writer), places

    def _changed(
        self, x: Float[Tensor, "row pos d_model"], writer: int, constant: Float[Tensor, "..."]
    ) -> Float[Tensor, "row pos d_model"]:
        tokens = self._tokens(writer)
        return x.index_put(tokens, constant.expand_as(x[tokens]))


def _spread(x: Float[Tensor, "token *head d"]) -> Float[Tensor, "one *head one"]:
    """The root mean square deviation of each writer's writes, 1 where there is none."""
    found = x.double().var(dim=0, correction=0).mean(dim=-1, keepdim=True).sqrt()[None]
    return torch.where(found > 0, found, torch.ones_like(found))


def _take(
    chosen: Mapping[str, Tensor], values: Mapping[str, Tensor], better: set[int], model: Model
) -> dict[str, Tensor]:
    """The values of the better writers, and what was chosen before for all others."""
    graph, out = model.graph, {name: value.clone() for name, value in chosen.items()}
    if 0 in better:
        out["embed"] = values["embed"]
    for i in range(graph.n_layers):
        span = graph.head_sources(i)
        for writer in better & set(range(span.start, span.stop)):
            out[f"heads {i}"][:, writer - span.start] = values[f"heads {i}"][:, writer - span.start]
        if graph.mlp_source(i) in better:
            out[f"mlp {i}"] = values[f"mlp {i}"]
    return out


def _padded_mean(curves: Sequence[Float[Tensor, " step"]]) -> Float[Tensor, " step"]:
    """The mean of curves, of which shorter ones stay at their end."""
    longest = max(map(len, curves))
    padded = [torch.cat([curve, curve[-1:].expand(longest - len(curve))]) for curve in curves]
    return torch.stack(padded).mean(dim=0)
