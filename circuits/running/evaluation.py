"""Evaluation: what a model still does when everything outside a circuit is corrupted."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial, reduce

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from circuits.circuit import Circuit
from circuits.provenance import describe
from circuits.running.many import measure_circuits, run_circuits
from circuits.running.pair import Pair, run_pair
from patching.ablations import Ablation, Prepared, prepared_for, resample
from patching.files.brief import as_table, briefly
from patching.metrics import Metric, measure, name_of
from patching.model import Model
from patching.modes import without_gradients
from patching.paths import Direction
from patching.runs.batches import Doing, Keeping, in_batches
from patching.span_graph import plain_of, spans_last, spans_of
from patching.tasks.task import Batch, Task
from patching.work import Done, Parts, Run

AT_ONCE = 64
"""Circuits planned together; passes take as many of them as memory allows."""

CIRCUITS_A_CHUNK = 4 * AT_ONCE
"""So many that the two runs each chunk starts with do not count."""


@briefly
@dataclass(frozen=True)
class Evaluation:
    """The metric of each circuit on each example, with that of the clean and the corrupt run."""

    values: Float[Tensor, "circuit example"]
    clean: Float[Tensor, " example"]
    corrupt: Float[Tensor, " example"]

    @property
    def faithfulness(self) -> Float[Tensor, " circuit"]:
        """Share of the clean-corrupt gap that each circuit keeps: a ratio of means.

        1 is as good as the clean run, 0 as bad as the corrupt one; NaN where there is no gap.
        """
        corrupt = self.corrupt.mean()
        gap = self.clean.mean() - corrupt
        kept = self.values.mean(dim=1) - corrupt
        return torch.where(gap == 0, torch.full_like(kept, torch.nan), kept / gap)

    def _repr_html_(self) -> str:
        """Every circuit's mean and faithfulness, for notebooks."""
        import pandas

        columns = {"metric": self.values.mean(dim=1), "faithfulness": self.faithfulness}
        clean, corrupt = float(self.clean.mean()), float(self.corrupt.mean())
        frame = pandas.DataFrame({name: column.tolist() for name, column in columns.items()})
        frame.index.name = "circuit"
        runs = f"clean run {clean:.4g}, corrupt run {corrupt:.4g}"
        return as_table(f"Means over {len(self.clean)} prompts; {runs}:", frame)


def evaluate(
    model: Model,
    task: Task,
    circuits: Sequence[Circuit],
    metric: Metric,
    *,
    ablation: Ablation = resample,
    direction: Direction = "noising",
    batch_size: int = 16,
    run: Run | None = None,
) -> Evaluation:
    """Run many circuits at once and measure each on every example.

    `noising`: the clean prompt runs; every edge outside the circuit carries what the ablation
    replaces its writer by (the write on the paired corrupt prompt, unless told otherwise), writers
    inside are recomputed live. `denoising`: the corrupt prompt runs, and the circuit's edges carry
    the clean run's writes. Either way the full circuit is the clean run and, under resampling, the
    empty one the corrupt run. The complement `~circuit` ablates the circuit itself. Circuits and
    examples share the batch axis, in passes that fit in memory. Miller et al. 2024,
    arXiv:2407.08734, on what this does and does not say. Circuits that keep spans apart
    (`circuits.by_span`) remove an edge at the tokens of a span. A `run` keeps what is done, by
    batches and circuits, and says who does it.

    Raises:
        ValueError: if there is no circuit, a circuit is of another graph, the model cannot read
            the task, prompts have none of a circuit's spans, pairs do not differ, or a run is to be
            denoised without a paired one.
    """
    (found,) = evaluate_all(
        model,
        task,
        circuits,
        (metric,),
        ablation=ablation,
        direction=direction,
        batch_size=batch_size,
        run=run,
    )
    return found


@without_gradients
def evaluate_all(
    model: Model,
    task: Task,
    circuits: Sequence[Circuit],
    metrics: Sequence[Metric],
    *,
    ablation: Ablation = resample,
    direction: Direction = "noising",
    batch_size: int = 16,
    run: Run | None = None,
) -> list[Evaluation]:
    """`evaluate` with several metrics of the same runs, one result for each.

    Raises:
        ValueError: as `evaluate` does.
    """
    prepared = prepared_for(model, ablation)
    task = _check(model, task, circuits, metrics, prepared)
    if direction == "denoising" and not prepared.paired:
        raise ValueError(
            f"denoising restores the clean run in the paired corrupt one, and the ablation "
            f"{prepared.name!r} has no corrupt run; resample would be right"
        )
    job = _Job(model, metrics, prepared, direction)
    starts = range(0, len(circuits), CIRCUITS_A_CHUNK)
    blocks = [partial(job, circuits[start : start + CIRCUITS_A_CHUNK]) for start in starts]
    described = job.describe(task, circuits) if run else {}
    doing = Doing(batch_size, run)
    keeping = Keeping("evaluating", described, (*metrics, prepared), doing, "the metric")
    measures = blocks * task.n_batches(batch_size)
    axes = partial(_lengths, len(metrics), len(circuits))
    batches = in_batches(model, task, measures, keeping, join=_one_after_the_other, axes=axes)
    whole = reduce(_one_after_the_other, map(_side_by_side, batches))
    ends = whole["values"], whole["clean"], whole["corrupt"]
    return [Evaluation(*one) for one in zip(*ends, strict=True)]


def _lengths(
    n_metrics: int, n_circuits: int, part: str, block: int, n_examples: int
) -> Mapping[int, int]:
    """`[metric, circuit, example]`, and without circuits for the two ends."""
    of_block = min(n_circuits - block * CIRCUITS_A_CHUNK, CIRCUITS_A_CHUNK)
    return dict(enumerate((n_metrics, *((of_block,) if part == "values" else ()), n_examples)))


def _side_by_side(blocks: Sequence[Done]) -> Parts:
    """One batch, run on all circuits."""
    values = [block.parts["values"] for block in blocks]
    return {**blocks[0].parts, "values": torch.cat(values, dim=1)}


@dataclass(frozen=True)
class _Job:
    """How circuits are run. A chunk is one batch run on some of them, by all metrics."""

    model: Model
    metrics: Sequence[Metric]
    ablation: Prepared
    direction: Direction

    @without_gradients
    def __call__(self, circuits: Sequence[Circuit], batch: Batch) -> Parts:
        runs = _run(self.model, batch, self.ablation, self.direction)
        return _measure(self.model, runs, circuits, self.metrics)

    def describe(self, task: Task, circuits: Sequence[Circuit]) -> dict[str, object]:
        """What decides the result, for a run."""
        masks = torch.stack([circuit.mask for circuit in circuits]).numpy()
        options = {
            "circuits": hashlib.sha256(np.packbits(masks).tobytes()).hexdigest(),
            "n_circuits": len(circuits),
            "metrics": [name_of(metric) for metric in self.metrics],
            "direction": self.direction,
        }
        return describe(
            self.model, task, self.metrics[0], "evaluate", options, ablation=self.ablation.name
        )


def _one_after_the_other(first: Parts, second: Parts) -> Parts:
    """The same circuits on more examples."""
    return {name: torch.cat([first[name], second[name]], dim=-1) for name in first}


@dataclass(frozen=True)
class _Runs:
    """What circuits are run on: `live` prompts, and for each edge outside what it is given.

    `batch` is what metrics see. In the other direction, everything but the edges inside is live.
    """

    batch: Batch
    live: Batch
    pair: Pair
    corrupt: Float[Tensor, "asked vocab"]
    direction: Direction


def _run(model: Model, batch: Batch, ablation: Prepared, direction: Direction) -> _Runs:
    if direction == "denoising":
        live = replace(batch, clean=batch.corrupt, corrupt=batch.clean)
        pair = run_pair(model, live, ablation)
        assert pair.corrupt is not None, "only paired ablations are denoised"
        batch = replace(batch, clean_logits=pair.corrupt.logits)
        return _Runs(batch, live, pair, pair.clean.logits, direction)
    pair = run_pair(model, batch, ablation)
    batch = replace(batch, clean_logits=pair.clean.logits)
    corrupt = pair.corrupt.logits if pair.corrupt else _run_empty(model, batch, pair)
    return _Runs(batch, batch, pair, corrupt, direction)


def _measure(
    model: Model, runs: _Runs, circuits: Sequence[Circuit], metrics: Sequence[Metric]
) -> Parts:
    """`values` [metric, circuit, example], and those of the `clean` and the `corrupt` run."""
    batch, clean = runs.batch, runs.batch.clean_logits
    assert clean is not None, "filled in by `_run`"
    values = torch.empty(len(metrics), len(circuits), len(batch), dtype=torch.float64)
    for start in range(0, len(circuits), AT_ONCE):
        inside = torch.stack([circuit.mask for circuit in circuits[start : start + AT_ONCE]])
        exists = circuits[0].graph.exists
        replaced = inside if runs.direction == "denoising" else exists & ~inside
        removed = spans_last(replaced.to(runs.corrupt.dtype), circuits[0].graph)
        found = measure_circuits(model, runs.live, runs.pair, removed, metrics, seen=batch)
        values[:, start : start + AT_ONCE] = found
    ends = {"clean": clean, "corrupt": runs.corrupt}
    return {"values": values} | {
        name: _by_all(metrics, logits, batch) for name, logits in ends.items()
    }


def _by_all(
    metrics: Sequence[Metric], logits: Float[Tensor, "asked vocab"], batch: Batch
) -> Float[Tensor, "metric batch"]:
    return torch.stack([measure(metric, logits, batch).double().cpu() for metric in metrics])


def _run_empty(model: Model, batch: Batch, pair: Pair) -> Float[Tensor, "asked vocab"]:
    """What is left when every edge is removed, where that is no run of the corrupt prompts."""
    everything = model.graph.exists.to(pair.replaced.embed)[None]
    return next(run_circuits(model, batch, pair, everything))[1][0]


def _check(
    model: Model,
    task: Task,
    circuits: Sequence[Circuit],
    metrics: Sequence[Metric],
    ablation: Prepared,
) -> Task:
    """The task, with spans apart where the circuits keep some.

    Raises:
        ValueError: as `evaluate`.
    """
    if not circuits:
        raise ValueError("no circuits to evaluate; give at least one")
    graph = circuits[0].graph
    model.graph.require_same(plain_of(graph), "circuit 0 is")
    for i, circuit in enumerate(circuits):
        graph.require_same(circuit.graph, f"circuit {i} is")
    task = task.with_spans_of(spans_of(graph))
    model.check(task, *metrics)
    if ablation.paired:
        task.require_contrast()
    return task
