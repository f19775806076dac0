"""What the model is tried on: random tokens, or the first rows of the task."""

from dataclasses import replace

from patching.metrics import (
    COMPARING,
    FLAT_AT_THE_CLEAN_RUN,
    WITHOUT_GRADIENT,
    Metric,
    logit_diff,
    logprob_diff,
)
from patching.model import Model
from patching.tasks.random_tokens import random_tokens
from patching.tasks.task import Task

ROWS = 8
"""Prompts of a task that the checks of the model run on."""


def sample(model: Model, task: Task | None, metric: Metric) -> tuple[Task, Metric]:
    """A few prompts with a metric that has a slope at the clean run, for checks by gradients."""
    if metric in (*WITHOUT_GRADIENT, *FLAT_AT_THE_CLEAN_RUN, logit_diff):
        long = task is not None and any(prompt.is_long for prompt in task.prompts)
        metric = logprob_diff if long else logit_diff
    if task is None or task.is_text or (metric in COMPARING and not _all_wrong(task)):
        config = model.bridge.cfg
        n_answers = int(config.d_vocab_out)  # compiled programs give other words than they read
        vocab = min(int(config.d_vocab), n_answers) if n_answers > 0 else int(config.d_vocab)
        prompts = random_tokens(vocab, int(config.n_ctx))
        if model.two_way:
            prompts = replace(prompts.of_length(), two_way=True)
        return prompts, logit_diff
    return task.take(min(ROWS, len(task))), metric


def _all_wrong(task: Task) -> bool:
    return all(prompt.wrong_answers for prompt in task.prompts)
