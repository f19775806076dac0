"""What answers of three tokens cost beside answers of one, in as many rows of the same length."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

from benchmarks.jobs import N_CIRCUITS, random_circuits
from benchmarks.subject import Subject
from circuits.running.evaluation import evaluate
from circuits.scoring import eap, eap_ig
from patching.metrics import logprob
from patching.model import Model
from patching.tasks.task import Task

N_TOKENS = 3


def with_answers(task: Task, n_tokens: int) -> Task:
    """The task's prompts, of which the last tokens are given as all but the last of an answer.

    Rows are those of the task itself, and are asked at their last `n_tokens` positions.
    """
    given = n_tokens - 1
    prompts = (
        replace(
            prompt,
            clean=prompt.clean[: len(prompt.clean) - given],
            corrupt=prompt.corrupt[: len(prompt.corrupt) - given],
            answers=((*prompt.clean[len(prompt.clean) - given :], *prompt.answers[:1]),),
            wrong_answers=(),
        )
        for prompt in task.prompts
    )
    return replace(task, prompts=tuple(prompts))


def _evaluated(model: Model, task: Task) -> object:
    return evaluate(model, task, random_circuits(model.graph, 0.5, N_CIRCUITS), logprob)


def _eap(model: Model, task: Task) -> object:
    return eap(model, task, logprob)


def _eap_ig(model: Model, task: Task) -> object:
    return eap_ig(model, task, logprob)


WORKS: dict[str, Callable[[Model, Task], object]] = {
    "EAP": _eap,
    "EAP-IG, 5 steps": _eap_ig,
    f"{N_CIRCUITS} random circuits of 50 % of the edges": _evaluated,
}


def jobs(subject: Subject) -> dict[str, tuple[Callable[[], object], Callable[[], object]]]:
    """Each work on answers of one token, and on those of three."""
    one, three = (with_answers(subject.task, n) for n in (1, N_TOKENS))
    return {
        name: (partial(work, subject.model, one), partial(work, subject.model, three))
        for name, work in WORKS.items()
    }
