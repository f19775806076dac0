"""Scores within a circuit: what each of its edges is worth where all others are gone already.

An edge that only backs another up has no score in the whole model, and all of it once the other
is gone. Shares of the circuit's edges are removed together, from none to all, and the metric's
slope along the way is each edge's score: integrated gradients over edges instead of embeddings.
"""

from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.circuit import Circuit
from circuits.provenance import describe
from circuits.running.masked import run_ends, run_masked
from circuits.scores import Scores
from patching.ablations import Ablation, Prepared, prepared_for, resample
from patching.metrics import Metric, measure_sloped, require_slope
from patching.model import Model
from patching.progress import track, within
from patching.span_graph import kept_apart, plain_of, spans_last, spans_of
from patching.tasks.task import Batch, Task


def scores_within(
    model: Model,
    task: Task,
    metric: Metric,
    circuit: Circuit,
    *,
    steps: int = 5,
    ablation: Ablation = resample,
    batch_size: int = 16,
) -> Scores:
    """Scores of a circuit's edges in the model that has no others; 0 for edges outside.

        score[e] = - integral over a from 0 to 1 of d metric / d removed[e]

    where a is the share to which all of the circuit's edges are removed, by the midpoint rule. They
    add up to what the circuit keeps beyond the empty one, as steps grow. Costs two forwards, then a
    masked forward and backward a step; all prompts of a batch are in memory.

    Raises:
        ValueError: if there are fewer than 1 steps, the circuit is of another graph, the metric has
            no slope, the model cannot read the task, or pairs do not differ.
    """
    if steps < 1:
        raise ValueError(f"an integral needs at least 1 step, got {steps}")
    model.graph.require_same(plain_of(circuit.graph), "the circuit is")
    task = task.with_spans_of(spans_of(circuit.graph))
    kept_apart(model.graph, task.apart).require_same(circuit.graph, "the circuit is")
    require_slope(metric, "to score edges by", at_clean=False)
    model.check(task)
    prepared = prepared_for(model, ablation)
    if prepared.paired:
        task.require_contrast()
    total = torch.zeros(circuit.mask.shape, dtype=torch.float64)
    batches = task.batches(batch_size, model.device)
    for batch in track(batches, "scoring within", task.n_batches(batch_size)):
        total += _of_batch(model, batch, metric, circuit, steps, prepared)
    options = {"steps": steps, "quadrature": "midpoint", "within": circuit.size}
    said = describe(model, task, metric, "within a circuit", options, ablation=prepared.name)
    matrix = (total / len(task)).where(circuit.mask, 0.0)
    return Scores(matrix, circuit.graph, said)


def _of_batch(
    model: Model, batch: Batch, metric: Metric, circuit: Circuit, steps: int, ablation: Prepared
) -> Float[Tensor, "source dest"]:
    """Summed over the examples of a batch."""
    ends = run_ends(model, batch, ablation)
    batch = replace(batch, clean_logits=ends.clean.logits)
    inside = circuit.mask.to(model.device, torch.float64)
    outside = (circuit.graph.exists & ~circuit.mask).to(inside)
    total = torch.zeros(circuit.mask.shape, dtype=torch.float64)
    for k in within(range(steps)):
        removed = (outside + (k + 0.5) / steps * inside).requires_grad_()
        with torch.enable_grad():
            logits = run_masked(model, batch, ends, spans_last(removed, circuit.graph))
            value = measure_sloped(metric, logits, batch).sum()
        (slope,) = torch.autograd.grad(value, removed)
        total -= slope.cpu() / steps
    return total
