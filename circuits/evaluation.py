"""Evaluation: what a model still does when everything outside a circuit is corrupted."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.circuit import Circuit
from circuits.intervention import Pair, run_circuits, run_pair
from circuits.progress import track
from patching.ablations import Ablation, Prepared, resample
from patching.graph import Graph
from patching.memory import current
from patching.metrics import Metric, measure
from patching.model import Model
from patching.tasks.task import Batch, Task

CHUNK_BYTES = 2**28
MAX_ROWS = 1024


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


@torch.no_grad()
def evaluate(
    model: Model,
    task: Task,
    circuits: Sequence[Circuit],
    metric: Metric,
    *,
    ablation: Ablation = resample,
    batch_size: int = 16,
) -> Evaluation:
    """Run many circuits at once and measure each on every example.

    Outside a circuit every edge carries what the ablation replaces its writer by (the write on the
    paired corrupt prompt, unless told otherwise), writers inside being recomputed live: the full
    circuit is the clean run and, under resampling, the empty one the corrupt run. Circuits and
    examples share the batch axis, in passes that fit in `CHUNK_BYTES`. Miller et al. 2024,
    arXiv:2407.08734, on what this does and does not say.

    Raises:
        ValueError: if there is no circuit, a circuit is of another graph, the model cannot read
            the task, or pairs do not differ.
    """
    _check(model, task, circuits)
    prepared = ablation(model)
    parts = []
    batches = task.batches(batch_size, model.device)
    for batch in track(batches, "evaluating", task.n_batches(batch_size)):
        parts.append(_evaluate_batch(model, batch, circuits, metric, prepared))
    return Evaluation(
        torch.cat([part.values for part in parts], dim=1),
        torch.cat([part.clean for part in parts]),
        torch.cat([part.corrupt for part in parts]),
    )


def _evaluate_batch(
    model: Model, batch: Batch, circuits: Sequence[Circuit], metric: Metric, ablation: Prepared
) -> Evaluation:
    pair = run_pair(model, batch, ablation)
    batch = replace(batch, clean_logits=pair.clean.logits)
    empty = pair.corrupt.logits if pair.corrupt else _run_empty(model, batch, pair)
    values = torch.empty(len(circuits), len(batch), dtype=torch.float64)
    for chunk in _chunks(model.graph, pair.replaced.embed, len(batch), circuits):
        kept = torch.stack([circuits[i].mask for i in chunk]).to(model.device)
        removed = (model.graph.exists.to(model.device) & ~kept).to(empty.dtype)
        for i, logits in zip(chunk, run_circuits(model, batch, pair, removed), strict=True):
            values[i] = measure(metric, logits, batch).double().cpu()
    return Evaluation(
        values,
        measure(metric, pair.clean.logits, batch).double().cpu(),
        measure(metric, empty, batch).double().cpu(),
    )


def _run_empty(model: Model, batch: Batch, pair: Pair) -> Float[Tensor, "batch vocab"]:
    """What is left when every edge is removed, where that is no run of the corrupt prompts."""
    everything = model.graph.exists.to(pair.replaced.embed)[None]
    return run_circuits(model, batch, pair, everything)[0]


def _chunks(
    graph: Graph,
    like: Float[Tensor, "token d_model"],
    n_examples: int,
    circuits: Sequence[Circuit],
) -> Iterator[list[int]]:
    """Circuits to be run together: of similar size, as many as memory and rows allow.

    A circuit takes one row of `like` per writer, and a few per reader of the layer at hand.
    """
    memory = current()
    limit = memory.bytes_on(like.device) if memory.limit else CHUNK_BYTES
    per_circuit = (len(graph.sources) + 4 * graph.n_heads) * like.numel() * like.element_size()
    n = max(1, min(limit // max(1, per_circuit), MAX_ROWS // n_examples))
    order = sorted(range(len(circuits)), key=lambda i: len(circuits[i]))
    for start in range(0, len(order), n):
        yield order[start : start + n]


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
