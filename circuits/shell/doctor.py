"""The command `doctor`: is this model, and this task, fit for finding circuits?"""

import json
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import TYPE_CHECKING

from circuits.shell.inputs import open_metric, open_model, open_task
from circuits.shell.names import is_file
from circuits.shell.options import add_metric, add_rows
from circuits.shell.values import positive

if TYPE_CHECKING:
    from circuits.doctor import Reading
    from patching.model import Model
    from patching.tasks import Task


def doctor(args: Namespace) -> int:
    """Examine a model and a task, print what was found and return the exit code.

    Raises:
        ValueError: if a name is unknown, or the model or the whole file cannot be read.
    """
    from circuits.doctor import examine, summary

    metric = open_metric(args)
    model = open_model(args)
    task = None if args.task is None else _open(args, model)
    report = examine(model, task, metric, batch_size=args.batch_size)
    print(json.dumps(report.to_dict(), indent=1) if args.json else summary(report))
    return report.exit_code


def add_options(parser: ArgumentParser) -> None:
    """What is examined, beside the model."""
    group = parser.add_argument_group("task")
    group.add_argument(
        "--task",
        metavar="TASK",
        help="a name (ioi, ...) or a .json, .jsonl, .csv or .txt file; may be absent",
    )
    group.add_argument("--n", type=positive, default=64, help="prompts to generate (64)")
    add_rows(group)
    add_metric(group)
    group.add_argument(
        "--batch-size", type=positive, default=16, metavar="N", help="to predict memory for (16)"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    codes = "exit code: 0 good or doubtful, 3 unusable, 2 nothing could be examined"
    parser.epilog = f"{codes}\n\n{parser.epilog}"


def _open(args: Namespace, model: "Model") -> "Task | Reading":
    """A file row by row, so that bad rows are found and not refused; else a generated task."""
    from circuits.doctor import read_rows

    if is_file(args.task) and Path(args.task).suffix != ".txt":
        options = {"first_token": args.first_token, "limit": args.limit}
        return read_rows(args.task, model.tokenizer, **options)
    return open_task(args.task, model, args, seed=args.seed)
