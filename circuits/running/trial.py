"""A trial: where circuits are run. One model, some prompts, a metric and what removed edges carry.

Judgements that run circuits more than once take a trial, so that all runs are alike.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from circuits.circuit import Circuit
from circuits.running.evaluation import Evaluation, evaluate_all
from patching.ablations import Ablation, Prepared, prepared_for, resample
from patching.metrics import Metric
from patching.model import Model
from patching.paths import Direction
from patching.tasks.task import Task
from patching.work import Run


@dataclass(frozen=True, eq=False)
class Trial:
    """What a circuit is run on; `prepare` makes one."""

    model: Model
    task: Task
    metric: Metric
    ablation: Prepared
    direction: Direction
    batch_size: int
    kept_in: Run | None = None


def prepare(
    model: Model,
    task: Task,
    metric: Metric,
    *,
    ablation: Ablation = resample,
    direction: Direction = "noising",
    batch_size: int = 16,
    kept_in: Run | None = None,
) -> Trial:
    """A trial whose ablation (the means of mean ablation, say) is worked out once for all runs.

    `kept_in` is the `run` of its evaluations.
    """
    return Trial(model, task, metric, prepared_for(model, ablation), direction, batch_size, kept_in)


def run(trial: Trial, circuits: Sequence[Circuit]) -> Evaluation:
    """`evaluate` on a trial, with circuits of the same edges run only once.

    Raises:
        ValueError: as `evaluate` does.
    """
    return run_all(trial, circuits, (trial.metric,))[0]


def run_all(
    trial: Trial, circuits: Sequence[Circuit], metrics: Sequence[Metric]
) -> list[Evaluation]:
    """`run` with other metrics, all of the same runs.

    Raises:
        ValueError: as `evaluate` does.
    """
    distinct = {circuit: i for i, circuit in enumerate(dict.fromkeys(circuits))}
    found = evaluate_all(
        trial.model,
        trial.task,
        list(distinct),
        metrics,
        ablation=lambda model: trial.ablation,
        direction=trial.direction,
        batch_size=trial.batch_size,
        run=trial.kept_in,
    )
    rows = torch.tensor([distinct[circuit] for circuit in circuits])
    return [Evaluation(one.values[rows], one.clean, one.corrupt) for one in found]


def require_gap(found: Evaluation, metric: Metric, *, wrong_sign: bool = False) -> None:
    """Refuse runs on which faithfulness means nothing: no gap, or one of the wrong sign.

    Raises:
        ValueError: saying which, and what could be done.
    """
    clean, corrupt = float(found.clean.mean()), float(found.corrupt.mean())
    runs = f"{metric.__name__} is {clean:.4g} in the clean and {corrupt:.4g} in the corrupt run"
    if not math.isfinite(clean - corrupt):
        raise ValueError(f"{runs}; most likely the weights or the metric hold NaN")
    if clean == corrupt:
        raise ValueError(
            f"{runs}: there is no gap that a circuit could keep a share of; "
            "give other prompts or another metric"
        )
    if clean < corrupt and not wrong_sign:
        raise ValueError(
            f"{runs}: the gap has the wrong sign, for larger is better, so the model does not do "
            "what the metric asks; wrong_sign=True judges circuits all the same"
        )
