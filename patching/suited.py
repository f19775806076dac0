"""Which metric suits a task: what its rows must have, and what tells right from wrong."""

import math
from collections.abc import Iterable

from jaxtyping import Float
from torch import Tensor

from patching.metrics import (
    COMPARING,
    Metric,
    accuracy,
    choice,
    kl,
    logit_diff,
    logprob,
    logprob_diff,
    logprob_per_token,
)
from patching.tasks.batch import Batch
from patching.tasks.prompt import Prompt
from patching.tasks.task import Task, refuse_rows
from patching.values import refuse_names

WITHOUT_SIGN: tuple[Metric, ...] = (kl, logprob, logprob_per_token, choice)
"""Metrics whose sign does not say whether the answer is preferred."""


def telling(metric: Metric, prompts: Iterable[Prompt]) -> Metric:
    """The metric itself, or for one without a sign one that is positive where the answer is.

    The difference from the wrong answers; where there are none `above_chance` on texts, and
    accuracy on others.
    """
    if metric not in WITHOUT_SIGN:
        return metric
    prompts = list(prompts)
    if not all(prompt.wrong_answers for prompt in prompts):
        return above_chance if all(prompt.is_text for prompt in prompts) else accuracy
    return logprob_diff if any(prompt.is_long for prompt in prompts) else logit_diff


def above_chance(logits: Float[Tensor, "asked vocab"], batch: Batch) -> Float[Tensor, " batch"]:
    """How much better than a guess among all tokens: `logprob_per_token` + log(vocab), in nats."""
    return logprob_per_token(logits, batch) + math.log(logits.shape[-1])


def require_answers(task: Task, *metrics: Metric) -> None:
    """Refuse a task that a metric of ours cannot be measured on, before any run.

    Raises:
        ValueError: if rows lack the wrong answers that it compares with, or have answers of several
            tokens where it takes single ones; they are named. Or if a metric is a name.
    """
    for metric in metrics:
        refuse_names(metric=metric)
        who = metric.__name__
        if metric in COMPARING:
            what = f"no wrong answers, which {who} compares with,"
            refuse_rows(task, lambda p: not p.wrong_answers, what)
        if metric is logit_diff:
            what = f"answers of several tokens ({who} compares single ones; take logprob_diff, "
            hint = "which adds up their log-probabilities and is the same for answers of one token)"
            refuse_rows(task, lambda p: p.is_long, what + hint)
