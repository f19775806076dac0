"""Evaluation: what a model still does when everything outside a circuit is corrupted."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.circuit import Circuit
from circuits.intervention import run_circuits
from circuits.pair import Pair, run_pair
from circuits.progress import track
from patching.ablations import Ablation, Prepared, resample
from patching.metrics import Metric, measure
from patching.model import Model
from patching.tasks.task import Batch, Task

Direction = Literal["noising", "denoising"]

AT_ONCE = 64
"""Circuits planned together; passes take as many of them as memory allows."""


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


def evaluate(
    model: Model,
    task: Task,
    circuits: Sequence[Circuit],
    metric: Metric,
    *,
    ablation: Ablation = resample,
    direction: Direction = "noising",
    batch_size: int = 16,
) -> Evaluation:
    """Run many circuits at once and measure each on every example.

    `noising`: the clean prompt runs; every edge outside the circuit carries what the ablation
    replaces its writer by (the write on the paired corrupt prompt, unless told otherwise), writers
    inside are recomputed live. `denoising`: the corrupt prompt runs, and the circuit's edges carry
    the clean run's writes. Either way the full circuit is the clean run and, under resampling, the
    empty one the corrupt run. The complement `~circuit` ablates the circuit itself. Circuits and
    examples share the batch axis, in passes that fit in memory. Miller et al. 2024,
    arXiv:2407.08734, on what this does and does not say.

    Raises:
        ValueError: if there is no circuit, a circuit is of another graph, the model cannot read
            the task, pairs do not differ, or a run is to be denoised without a paired one.
    """
    (found,) = evaluate_all(
        model,
        task,
        circuits,
        (metric,),
        ablation=ablation,
        direction=direction,
        batch_size=batch_size,
    )
    return found


@torch.no_grad()
def evaluate_all(
    model: Model,
    task: Task,
    circuits: Sequence[Circuit],
    metrics: Sequence[Metric],
    *,
    ablation: Ablation = resample,
    direction: Direction = "noising",
    batch_size: int = 16,
) -> list[Evaluation]:
    """`evaluate` with several metrics of the same runs, one result for each.

    Raises:
        ValueError: as `evaluate` does.
    """
    _check(model, task, circuits)
    prepared = ablation(model)
    if direction == "denoising" and not prepared.paired:
        raise ValueError(
            f"denoising restores the clean run in the paired corrupt one, and the ablation "
            f"{prepared.name!r} has no corrupt run; resample would be right"
        )
    parts = []
    batches = task.batches(batch_size, model.device)
    for batch in track(batches, "evaluating", task.n_batches(batch_size)):
        runs = _run(model, batch, prepared, direction)
        parts.append(_measure(model, runs, circuits, metrics))
    return [_joined(one) for one in zip(*parts, strict=True)]


def _joined(parts: Sequence[Evaluation]) -> Evaluation:
    return Evaluation(
        torch.cat([part.values for part in parts], dim=1),
        torch.cat([part.clean for part in parts]),
        torch.cat([part.corrupt for part in parts]),
    )


@dataclass(frozen=True)
class _Runs:
    """What circuits are run on: `live` prompts, and for each edge outside what it is given.

    `batch` is what metrics see. In the other direction, everything but the edges inside is live.
    """

    batch: Batch
    live: Batch
    pair: Pair
    corrupt: Float[Tensor, "batch vocab"]
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
) -> list[Evaluation]:
    batch, clean = runs.batch, runs.batch.clean_logits
    assert clean is not None, "filled in by `_run`"
    values = torch.empty(len(metrics), len(circuits), len(batch), dtype=torch.float64)
    for start in range(0, len(circuits), AT_ONCE):
        inside = torch.stack([circuit.mask for circuit in circuits[start : start + AT_ONCE]])
        replaced = inside if runs.direction == "denoising" else model.graph.exists & ~inside
        removed = replaced.to(runs.corrupt.dtype)
        for chunk, some in run_circuits(model, runs.live, runs.pair, removed):
            for i, logits in zip(chunk, some, strict=True):
                for row, metric in zip(values, metrics, strict=True):
                    row[start + i] = measure(metric, logits, batch).double().cpu()
    return [
        Evaluation(
            row,
            measure(metric, clean, batch).double().cpu(),
            measure(metric, runs.corrupt, batch).double().cpu(),
        )
        for row, metric in zip(values, metrics, strict=True)
    ]


def _run_empty(model: Model, batch: Batch, pair: Pair) -> Float[Tensor, "batch vocab"]:
    """What is left when every edge is removed, where that is no run of the corrupt prompts."""
    everything = model.graph.exists.to(pair.replaced.embed)[None]
    return next(run_circuits(model, batch, pair, everything))[1][0]


def _check(model: Model, task: Task, circuits: Sequence[Circuit]) -> None:
    if not circuits:
        raise ValueError("no circuits to evaluate; give at least one")
    for i, circuit in enumerate(circuits):
        if circuit.graph != model.graph:
            raise ValueError(
                f"circuit {i} is of another graph ({circuit.graph.describe()}) than "
                f"{model.name} ({model.graph.describe()})"
            )
    model.check(task)
    task.require_contrast()
