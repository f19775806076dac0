"""Metrics: how well a run shows the behaviour. Larger is better, one value per example.

A metric takes the logits at all that is asked and the batch, and returns shape `[batch]`. Of each
example one thing is asked, the token behind its prompt, unless the batch has `several` of them.
"""

from collections.abc import Mapping
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from patching.tasks.asked import Options
from patching.tasks.batch import Batch


@runtime_checkable
class Metric(Protocol):
    """`(logits [asked, vocab] at answer positions, batch) -> [batch]`; larger is better."""

    __name__: str

    def __call__(
        self, logits: Float[Tensor, "asked vocab"], batch: Batch
    ) -> Float[Tensor, " batch"]:
        """One value per example."""
        ...


def logit_diff(logits: Float[Tensor, "asked vocab"], batch: Batch) -> Float[Tensor, " batch"]:
    """Mean logit of the answers minus mean logit of the wrong answers, in logits.

    With answer positions, the mean over them.

    Raises:
        ValueError: if a row has no wrong answers, or an answer has several tokens.
    """
    _require_wrong(batch, "logit_diff")
    if batch.several is None:
        right = _sum_at(logits, batch.answers, batch.is_answer) / batch.is_answer.sum(1)
        wrong = _sum_at(logits, batch.wrong_answers, batch.is_wrong_answer)
        return right - wrong / batch.is_wrong_answer.sum(1)
    if batch.several.long is not None:
        raise ValueError(
            f"logit_diff compares single tokens, and an answer in row {batch.several.long} of a "
            "batch has several; take logprob_diff, which adds up their log-probabilities (the same "
            "for answers of one token)"
        )
    right, wrong = (
        _mean(_mean(batch.several.looked_up(logits, some), some.is_token), some.is_option)
        for some in (batch.right, batch.wrong)
    )
    return right - wrong


def logprob(logits: Float[Tensor, "asked vocab"], batch: Batch) -> Float[Tensor, " batch"]:
    """Log-probability of an answer in nats, summed over its tokens; mean over a row's answers."""
    return _mean(_log_probabilities(logits, batch, batch.right), batch.right.is_option)


def logprob_per_token(
    logits: Float[Tensor, "asked vocab"], batch: Batch
) -> Float[Tensor, " batch"]:
    """`logprob` with each answer divided by its number of tokens: minus the loss, in nats."""
    found = _log_probabilities(logits, batch, batch.right, per_token=True)
    return _mean(found, batch.right.is_option)


def logprob_diff(logits: Float[Tensor, "asked vocab"], batch: Batch) -> Float[Tensor, " batch"]:
    """Mean log-probability of the answers minus that of the wrong answers, in nats.

    Each is summed over its tokens. `logit_diff`, where all have one token.

    Raises:
        ValueError: if a row has no wrong answers.
    """
    _require_wrong(batch, "logprob_diff")
    wrong = _log_probabilities(logits, batch, batch.wrong)
    return logprob(logits, batch) - _mean(wrong, batch.wrong.is_option)


def logprob_diff_per_token(
    logits: Float[Tensor, "asked vocab"], batch: Batch
) -> Float[Tensor, " batch"]:
    """`logprob_diff` with each answer divided by its number of tokens, in nats per token.

    Raises:
        ValueError: if a row has no wrong answers.
    """
    _require_wrong(batch, "logprob_diff_per_token")
    wrong = _log_probabilities(logits, batch, batch.wrong, per_token=True)
    return logprob_per_token(logits, batch) - _mean(wrong, batch.wrong.is_option)


def choice(logits: Float[Tensor, "asked vocab"], batch: Batch) -> Float[Tensor, " batch"]:
    """Probability of the answers when one of the given options must be taken, in [0, 1].

    A softmax over the log-probabilities of answers and wrong answers.

    Raises:
        ValueError: if a row has no wrong answers.
    """
    _require_wrong(batch, "choice")
    both = batch.right, batch.wrong
    sides = [(_log_probabilities(logits, batch, some), some.is_option) for some in both]
    right, every = (
        torch.cat([values.masked_fill(~there, -torch.inf) for values, there in some], dim=1)
        for some in (sides[:1], sides)
    )
    return (right.logsumexp(dim=1) - every.logsumexp(dim=1)).exp()


def prob_diff(logits: Float[Tensor, "asked vocab"], batch: Batch) -> Float[Tensor, " batch"]:
    """Probability of all answers together minus that of all wrong answers, in [-1, 1].

    With answer positions, the mean over them. Hanna et al. 2023 (greater-than), arXiv:2305.00586.
    """
    if batch.several is None:
        probs = logits.softmax(dim=-1)
        right = _sum_at(probs, batch.answers, batch.is_answer)
        return right - _sum_at(probs, batch.wrong_answers, batch.is_wrong_answer)
    logs, inside = logits.log_softmax(dim=-1), batch.several.inside[:, None]
    chances = []
    for some in (batch.right, batch.wrong):
        tokens = batch.several.looked_up(logs, some)
        mean, whole = _mean(tokens.exp(), some.is_token), _sum(tokens, some.is_token).exp()
        chances.append(_sum(torch.where(inside, mean, whole), some.is_option))
    return chances[0] - chances[1]


def kl(logits: Float[Tensor, "asked vocab"], batch: Batch) -> Float[Tensor, " batch"]:
    """Minus KL(clean run || this run), in nats, over the whole vocabulary.

    The mean over all that an example is asked: its answer positions, or its answers' tokens.

    Raises:
        ValueError: if the batch does not carry the logits of the clean run.
    """
    if batch.clean_logits is None:
        raise ValueError("kl compares with the clean run, whose logits this batch does not carry")
    clean = batch.clean_logits.log_softmax(dim=-1)
    found = -(clean.exp() * (clean - logits.log_softmax(dim=-1))).sum(dim=-1)
    return batch.over_asked(found)


def accuracy(logits: Float[Tensor, "asked vocab"], batch: Batch) -> Float[Tensor, " batch"]:
    """1 where the most likely token of the whole vocabulary is an answer, else 0.

    Of an answer of several tokens each must be the most likely after those before it. With answer
    positions, the share of those where it is right.
    """
    if batch.several is None:
        best = logits.argmax(dim=-1)
        return ((batch.answers == best[:, None]) & batch.is_answer).any(dim=1).to(logits.dtype)
    some = batch.right
    hit = batch.several.best(logits, some) == some.ids
    whole = ((hit | ~some.is_token).all(dim=2) & some.is_option).any(dim=1).to(logits.dtype)
    share = _mean(hit.to(logits.dtype), some.is_token)[:, 0]
    return torch.where(batch.several.inside, share, whole)


def name_of(metric: Metric) -> str:
    """A metric's name in files and in the shell: one's own has that of its function.

    >>> name_of(logit_diff)
    'logit-diff'
    """
    return next((name for name, one in METRICS.items() if one is metric), metric.__name__)


def respelled(said: Mapping[str, object]) -> dict[str, object]:
    """What a file says, with the metric's name as it is now: older files have `logit_diff`.

    >>> respelled({"metric": "prob_diff", "n": 3})
    {'metric': 'prob-diff', 'n': 3}
    """
    name = str(said.get("metric", "")).replace("_", "-")
    return {**said, "metric": name} if name in METRICS else dict(said)


def measure(
    metric: Metric, logits: Float[Tensor, "asked vocab"], batch: Batch
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
    metric: Metric, logits: Float[Tensor, "asked vocab"], batch: Batch
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
    "logprob": logprob,
    "logprob-per-token": logprob_per_token,
    "logprob-diff": logprob_diff,
    "logprob-diff-per-token": logprob_diff_per_token,
    "choice": choice,
}

WITHOUT_GRADIENT: tuple[Metric, ...] = (accuracy,)
FLAT_AT_THE_CLEAN_RUN: tuple[Metric, ...] = (kl,)


COMPARING: tuple[Metric, ...] = (logit_diff, logprob_diff, logprob_diff_per_token, choice)
"""Metrics that need a wrong answer in every row."""


def _sum_at(
    values: Float[Tensor, "asked vocab"],
    ids: Int[Tensor, "batch n"],
    counts: Bool[Tensor, "batch n"],
) -> Float[Tensor, " batch"]:
    chosen = values.gather(1, ids)
    return torch.where(counts, chosen, torch.zeros_like(chosen)).sum(dim=1)


def _require_wrong(batch: Batch, who: str) -> None:
    if batch.without_wrong is not None:
        raise ValueError(
            f"{who} compares with wrong answers, and row {batch.without_wrong} of a batch has none"
        )


def _log_probabilities(
    logits: Float[Tensor, "asked vocab"], batch: Batch, some: Options, *, per_token: bool = False
) -> Float[Tensor, "batch option"]:
    """Of each answer: the sum over its tokens, or their mean."""
    logs = logits.log_softmax(dim=-1)
    if batch.several is None:
        return logs.gather(1, some.ids[..., 0])
    tokens = batch.several.looked_up(logs, some)
    return (_mean if per_token else _sum)(tokens, some.is_token)


def _sum(values: Float[Tensor, "*some n"], counts: Bool[Tensor, "*some n"]) -> Tensor:
    """The sum of those that count."""
    return torch.where(counts, values, torch.zeros_like(values)).sum(dim=-1)


def _mean(values: Float[Tensor, "*some n"], counts: Bool[Tensor, "*some n"]) -> Tensor:
    """The mean of those that count, 0 where none does."""
    return _sum(values, counts) / counts.sum(dim=-1).clamp(min=1)
