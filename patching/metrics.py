"""Metrics: how well a run shows the behaviour. Larger is better, one value per example.

A metric takes the logits at the answer position and the batch, and returns shape `[batch]`.
"""

from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from patching.tasks.task import Batch


@runtime_checkable
class Metric(Protocol):
    """`(logits [batch, vocab] at the answer position, batch) -> [batch]`; larger is better."""

    __name__: str

    def __call__(
        self, logits: Float[Tensor, "batch vocab"], batch: Batch
    ) -> Float[Tensor, " batch"]:
        """One value per example."""
        ...


def logit_diff(logits: Float[Tensor, "batch vocab"], batch: Batch) -> Float[Tensor, " batch"]:
    """Mean logit of the answers minus mean logit of the wrong answers, in logits.

    Raises:
        ValueError: if a row has no wrong answers.
    """
    if batch.without_wrong is not None:
        raise ValueError(
            f"logit_diff compares with wrong answers, and row {batch.without_wrong} of a batch has "
            "none"
        )
    right = _sum_at(logits, batch.answers, batch.is_answer) / batch.is_answer.sum(1)
    wrong = _sum_at(logits, batch.wrong_answers, batch.is_wrong_answer)
    return right - wrong / batch.is_wrong_answer.sum(1)


def prob_diff(logits: Float[Tensor, "batch vocab"], batch: Batch) -> Float[Tensor, " batch"]:
    """Probability of all answers together minus that of all wrong answers, in [-1, 1].

    Hanna et al. 2023 (greater-than), arXiv:2305.00586.
    """
    probs = logits.softmax(dim=-1)
    right = _sum_at(probs, batch.answers, batch.is_answer)
    return right - _sum_at(probs, batch.wrong_answers, batch.is_wrong_answer)


def kl(logits: Float[Tensor, "batch vocab"], batch: Batch) -> Float[Tensor, " batch"]:
    """Minus KL(clean run || this run), in nats, over the whole vocabulary.

    Raises:
        ValueError: if the batch does not carry the logits of the clean run.
    """
    if batch.clean_logits is None:
        raise ValueError("kl compares with the clean run, whose logits this batch does not carry")
    clean = batch.clean_logits.log_softmax(dim=-1)
    return -(clean.exp() * (clean - logits.log_softmax(dim=-1))).sum(dim=-1)


def accuracy(logits: Float[Tensor, "batch vocab"], batch: Batch) -> Float[Tensor, " batch"]:
    """1 where the most likely token of the whole vocabulary is an answer, else 0."""
    best = logits.argmax(dim=-1)
    return ((batch.answers == best[:, None]) & batch.is_answer).any(dim=1).to(logits.dtype)


def measure(
    metric: Metric, logits: Float[Tensor, "batch vocab"], batch: Batch
) -> Float[Tensor, " batch"]:
    """The metric's values, after a check that there is one per example.

    Raises:
        ValueError: if the metric returns another shape, such as a mean over the batch.
    """
    values = metric(logits, batch)
    if values.shape != (len(batch),):
        raise ValueError(
            f"the metric {metric.__name__} returned shape {tuple(values.shape)} for "
            f"{len(batch)} examples; it must return one value per example, [{len(batch)}]"
        )
    return values


def measure_sloped(
    metric: Metric, logits: Float[Tensor, "batch vocab"], batch: Batch
) -> Float[Tensor, " batch"]:
    """`measure`, where the values are to be differentiated.

    Raises:
        ValueError: if a metric of one's own cuts its values off from the logits, or as `measure`.
    """
    values = measure(metric, logits, batch)
    if logits.requires_grad and not values.requires_grad:
        raise ValueError(
            f"the metric {metric.__name__} has no gradient: its values are cut off from the logits "
            "(by argmax, a comparison, .item() or .detach()); take logit_diff or prob_diff, or "
            "make it of steps that can be differentiated"
        )
    return values


def require_slope(metric: Metric, purpose: str, *, at_clean: bool, elsewhere: str = "") -> None:
    """Refuse a metric of ours that has no slope where it is needed, before any run.

    `at_clean`: a gradient is taken at the clean run itself. `elsewhere`: how to take it in another
    place. One's own metrics are told by their values: `measure_sloped`.

    Raises:
        ValueError: if it has none there, naming `purpose` ("to score edges by").
    """
    if metric in WITHOUT_GRADIENT:
        raise ValueError(
            f"{metric.__name__} has no gradient {purpose}; take logit_diff or prob_diff"
        )
    if at_clean and metric in FLAT_AT_THE_CLEAN_RUN:
        raise ValueError(
            f"{metric.__name__} has no slope at the clean run {purpose}; take logit_diff or "
            f"prob_diff{elsewhere}"
        )


METRICS: dict[str, Metric] = {
    "logit-diff": logit_diff,
    "prob-diff": prob_diff,
    "kl": kl,
    "accuracy": accuracy,
}
WITHOUT_GRADIENT: tuple[Metric, ...] = (accuracy,)
FLAT_AT_THE_CLEAN_RUN: tuple[Metric, ...] = (kl,)


def _sum_at(
    values: Float[Tensor, "batch vocab"],
    ids: Int[Tensor, "batch n"],
    counts: Bool[Tensor, "batch n"],
) -> Float[Tensor, " batch"]:
    chosen = values.gather(1, ids)
    return torch.where(counts, chosen, torch.zeros_like(chosen)).sum(dim=1)
