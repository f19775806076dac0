"""The tasks of the page, and which prompts of them are scored and which are judged."""

import random
from collections.abc import Iterable
from dataclasses import dataclass, replace

from patching.metrics import Metric, logit_diff, logprob_diff
from patching.model import Model
from patching.tasks import Task, generate
from patching.tasks.prompt import Answer, Prompt

TASKS = (
    "ioi",
    "ioi:swap",
    "facts",
    "gendered-pronouns",
    "subject-verb-agreement",
    "docstring",
    "induction",
    "greater-than:any",
)
SPLITS = 3
FEW = 3
"""Answers, and wrong ones, of a prompt with more of several tokens: each is a row of its own."""


@dataclass(frozen=True)
class Subject:
    """One split of a task: prompts to score and others to judge on, and the metric that fits."""

    name: str
    split: int
    found: Task
    judged: Task
    metric: Metric

    @property
    def slug(self) -> str:
        """In names of files."""
        return self.name.replace(":", "-")


def subjects(model: Model, name: str, n: int) -> list[Subject]:
    """The splits of a task: no prompt is in two of them, nor is one both scored and judged."""
    assert model.tokenizer is not None, "a real model has one"
    task = generate(name, model.tokenizer, SPLITS * 2 * n, 0)
    prompts = [_with_few(prompt) for prompt in _distinct(task.prompts)]
    is_long = any(prompt.is_long for prompt in prompts)
    each = min(n // 3 if is_long else n, len(prompts) // (2 * SPLITS))
    parts = [prompts[i * each : (i + 1) * each] for i in range(2 * SPLITS)]
    tasks = [replace(task, prompts=tuple(part)) for part in parts]
    metric = logprob_diff if is_long else logit_diff
    halves = zip(tasks[::2], tasks[1::2], strict=True)
    return [Subject(name, i, found, judged, metric) for i, (found, judged) in enumerate(halves)]


def _distinct(prompts: Iterable[Prompt]) -> list[Prompt]:
    """The first of all that begin alike."""
    return list({prompt.clean: prompt for prompt in reversed([*prompts])}.values())[::-1]


def _with_few(prompt: Prompt) -> Prompt:
    if not prompt.is_long:
        return prompt
    few = [_some(answers, prompt.clean) for answers in (prompt.answers, prompt.wrong_answers)]
    return replace(prompt, answers=few[0], wrong_answers=few[1])


def _some(answers: tuple[Answer, ...], seed: tuple[int, ...]) -> tuple[Answer, ...]:
    """A few at random, the same for the same prompt."""
    return tuple(random.Random(str(seed)).sample(answers, min(FEW, len(answers))))
