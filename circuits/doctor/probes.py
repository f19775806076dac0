"""What the model is tried on: random tokens, or the first rows of the task."""

from collections.abc import Sequence

import torch

from patching.metrics import FLAT_AT_THE_CLEAN_RUN, WITHOUT_GRADIENT, Metric, logit_diff
from patching.model import Model
from patching.tasks.task import Prompt, Task

ROWS = 8
"""Prompts of a task that the checks of the model run on."""

LENGTHS = (9, 9, 6, 6)


def random_task(model: Model, seed: int = 0) -> Task:
    """Random tokens in two lengths; clean and corrupt differ at one or two of them.

    Raises:
        ValueError: if the vocabulary has fewer than three tokens.
    """
    vocab, longest = int(model.bridge.cfg.d_vocab), int(model.bridge.cfg.n_ctx)
    if vocab < 3:
        raise ValueError(f"{model.name} has {vocab} tokens; random tasks need at least 3")
    generator = torch.Generator().manual_seed(seed)
    return Task("random tokens", tuple(_prompt(min(n, longest), vocab, generator) for n in LENGTHS))


def sample(model: Model, task: Task | None, metric: Metric) -> tuple[Task, Metric]:
    """A few prompts with a metric that has a slope at the clean run, for checks by gradients."""
    sloped = metric not in (*WITHOUT_GRADIENT, *FLAT_AT_THE_CLEAN_RUN)
    metric = metric if sloped else logit_diff
    if task is None or (metric is logit_diff and not _all_wrong(task.prompts)):
        return random_task(model), logit_diff
    return task.take(min(ROWS, len(task))), metric


def _all_wrong(prompts: Sequence[Prompt]) -> bool:
    return all(prompt.wrong_answers for prompt in prompts)


def _prompt(length: int, vocab: int, generator: torch.Generator) -> Prompt:
    def draw(n: int) -> list[int]:
        return torch.randint(vocab, (n,), generator=generator).tolist()

    clean = draw(length)
    corrupt = list(clean)
    for position in {length // 4, length // 2}:
        corrupt[position] = (clean[position] + 1 + draw(1)[0] % (vocab - 1)) % vocab
    (answer,) = draw(1)
    wrong = (answer + 1 + draw(1)[0] % (vocab - 1)) % vocab
    return Prompt(tuple(clean), tuple(corrupt), (answer,), (wrong,))
