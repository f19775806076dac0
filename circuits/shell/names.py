"""Names of tasks, metrics and methods, looked at before any work. Heavy imports when needed."""

from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from patching.files.meant import meant

if TYPE_CHECKING:
    from patching.tasks.generators import Generator

T = TypeVar("T")

METRIC_NAMES = (
    *("logit-diff", "prob-diff", "kl", "accuracy", "logprob", "logprob-per-token"),
    *("logprob-diff", "logprob-diff-per-token", "choice"),
)
"""The names of `patching.metrics.METRICS`, for help that must not wait for torch."""

TASK_FILES = (".json", ".jsonl", ".csv", ".parquet", ".txt")


def choose(kind: str, name: str, table: Mapping[str, T]) -> T:
    """The entry of a table of names.

    Raises:
        ValueError: if there is none of this name.
    """
    if name not in table:
        raise ValueError(
            f"no {kind} named {name!r}; there are {', '.join(table)}{meant(name, table)}"
        )
    return table[name]


def check_names(args: Namespace) -> None:
    """Refuse names of tasks and metrics that there are not, before a model is loaded.

    A metric that is not given is the task's usual one.

    Raises:
        OSError: if a file cannot be found.
        ValueError: naming those that there are, and the one that was probably meant.
    """
    if getattr(args, "metric", "") is None:
        args.metric = usual_metric(getattr(args, "task", None) or "")
    if args.run.__name__ not in ("neurons", "rerun"):  # other tasks; as recorded
        for option in ("task", "eval_task", "ablation_task"):
            name = getattr(args, option, None)
            if name is not None:
                check_task_name(name)
    if getattr(args, "metric", None) is not None:
        from patching.metrics import METRICS

        choose("metric", args.metric, METRICS)


def usual_metric(task: str) -> str:
    """The metric of a task of this name, unless told otherwise.

    >>> usual_metric("ioi"), usual_metric("facts:any"), usual_metric("novel.txt")
    ('logit-diff', 'logprob-diff', 'logprob-per-token')
    """
    if Path(task).suffix == ".txt":
        return "logprob-per-token"
    long = {"any", "three-digits"} & {*task.replace("_", "-").split(":")[1:]}
    return "logprob-diff" if long else "logit-diff"


def check_task_name(name: str) -> None:
    """Refuse a task that is neither generated nor a file.

    Raises:
        OSError: if its file cannot be found.
        ValueError: naming those that there are, and the one that was probably meant.
    """
    from patching.tasks.generators import GENERATORS, unknown_task

    if is_file(name):
        Path(name).stat()  # its own words where there is none
        return
    family = name.replace("_", "-").partition(":")[0]
    if family in GENERATORS:  # without the embedded models, which take seconds to import
        return
    known = generators()
    if family not in known:
        raise ValueError(unknown_task(name, known, f", or give a file ({', '.join(TASK_FILES)})"))


def generators() -> "dict[str, Generator]":
    """All generated tasks by name: the library, and those that embedded models are made for."""
    from patching.models import TOY_GENERATORS, TRUTH_GENERATORS
    from patching.tasks import GENERATORS

    return {**GENERATORS, **TOY_GENERATORS, **TRUTH_GENERATORS}


def is_file(name: str) -> bool:
    """Whether a task's name is that of a file of prompts."""
    return Path(name).suffix in TASK_FILES or Path(name).is_file()
