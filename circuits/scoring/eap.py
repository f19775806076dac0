"""Edge attribution patching, at the clean run and integrated over inputs."""

from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.provenance import describe
from circuits.scores import Scores
from circuits.scoring.batches import BatchScores, score_batches
from circuits.scoring.contract import edge_scores
from circuits.scoring.quadrature import QUADRATURES, Quadrature, midpoint
from patching.capture import Recorder, Run, capture
from patching.gradients import GradientSum
from patching.metrics import FLAT_AT_THE_CLEAN_RUN, Metric, measure
from patching.model import Model
from patching.tasks.task import Batch, Task


def eap(model: Model, task: Task, metric: Metric, *, batch_size: int = 16) -> Scores:
    """Edge attribution patching: (clean - corrupt write) times the reader's gradient, clean run.

    First-order estimate of what the metric loses when one edge is corrupted. Costs two forwards
    and one backward. Syed et al. 2023, arXiv:2310.10348.

    Raises:
        ValueError: if the metric is flat at the clean run (kl), and as `score_batches`.
    """
    if metric in FLAT_AT_THE_CLEAN_RUN:
        raise ValueError(
            f"{metric.__name__} has no slope at the clean run, where eap takes gradients; "
            "use eap_ig, or another metric"
        )

    def score_batch(batch: Batch) -> BatchScores:
        return _score_at_clean(model, batch, metric)

    found = score_batches(model, task, metric, score_batch, batch_size=batch_size)
    provenance = describe(model, task, metric, "eap", {})
    return Scores(found.matrix, model.graph, provenance, found.completeness)


def eap_ig(
    model: Model,
    task: Task,
    metric: Metric,
    *,
    steps: int = 5,
    quadrature: Quadrature = midpoint,
    batch_size: int = 16,
) -> Scores:
    """EAP with gradients integrated over embeddings between the corrupt and the clean prompt.

    Position embeddings and everything else are those of the clean run. The completeness delta
    (the embedding's scores minus the clean-corrupt gap) of each example comes with the scores
    and shrinks with the number of steps. Costs two forwards, then one forward and one backward a
    step. Hanna et al. 2024, arXiv:2403.17806, whose code takes `quadrature=left`.

    Raises:
        ValueError: if there are fewer than 1 steps, and as `score_batches`.
    """
    if steps < 1:
        raise ValueError(f"integrated gradients need at least 1 step, got {steps}")
    points, weights = quadrature(steps)

    def score_batch(batch: Batch) -> BatchScores:
        return _score_on_path(model, batch, metric, list(zip(points, weights, strict=True)))

    found = score_batches(model, task, metric, score_batch, batch_size=batch_size)
    options = {"steps": steps, "quadrature": _name(quadrature)}
    provenance = describe(model, task, metric, "eap-ig", options)
    return Scores(found.matrix, model.graph, provenance, found.completeness)


def _score_at_clean(model: Model, batch: Batch, metric: Metric) -> BatchScores:
    corrupt = capture(model, batch.corrupt, batch)
    recorder, gradients = Recorder(model, batch.can_differ), GradientSum(model, batch)
    point = gradients.add(metric, hooks=recorder.hooks)
    clean = recorder.finish(point.logits)
    return BatchScores(
        edge_scores(model, clean.writes - corrupt.writes, gradients.finish()),
        _delta(clean, corrupt, point.embedding_gradient, metric, batch),
    )


def _score_on_path(
    model: Model, batch: Batch, metric: Metric, path: list[tuple[float, float]]
) -> BatchScores:
    clean, corrupt = capture(model, batch.clean, batch), capture(model, batch.corrupt, batch)
    batch = replace(batch, clean_logits=clean.logits)
    gradients = GradientSum(model, batch)
    at_embedding = torch.zeros_like(clean.embedding)
    for position, weight in path:
        embedding = torch.lerp(corrupt.embedding, clean.embedding, position)
        point = gradients.add(metric, weight=weight, embedding=embedding)
        at_embedding += weight * point.embedding_gradient
    return BatchScores(
        edge_scores(model, clean.writes - corrupt.writes, gradients.finish()),
        _delta(clean, corrupt, at_embedding, metric, batch),
    )


def _delta(
    clean: Run,
    corrupt: Run,
    gradient: Float[Tensor, "batch pos d_model"],
    metric: Metric,
    batch: Batch,
) -> Float[Tensor, " batch"]:
    """What the embedding's scores add up to beyond the clean-corrupt gap, per example.

    The stream is a sum, so the scores of all edges out of the embedding are the difference of
    embeddings times the gradient at the embedding.
    """
    embed_score = ((clean.embedding - corrupt.embedding) * gradient).flatten(1).sum(dim=1)
    gap = measure(metric, clean.logits, batch) - measure(metric, corrupt.logits, batch)
    return embed_score.to(gap.dtype) - gap


def _name(quadrature: Quadrature) -> str:
    names = {rule: name for name, rule in QUADRATURES.items()}
    return names.get(quadrature, getattr(quadrature, "__name__", "own rule"))
