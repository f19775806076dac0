"""The command `features few`: a few heads and neurons that do a task. Heavy imports when needed."""

import json
from argparse import Namespace
from dataclasses import asdict
from typing import TYPE_CHECKING

from circuits.shell.inputs import open_metric, open_model, open_task
from circuits.shell.options import Parser
from circuits.shell.printing import print_columns
from circuits.shell.values import positive, share

if TYPE_CHECKING:
    from circuits.features import FewUnits
    from patching.tasks import Task


def add_options(parser: Parser) -> None:
    """How many are kept, how long is searched, what is judged on, and where the result goes."""
    parser.add_argument(
        "--keep", type=positive, default=20, metavar="N", help="heads and neurons kept (20)"
    )
    parser.add_argument(
        "--steps", type=positive, default=60, metavar="N", help="of the search (60)"
    )
    parser.add_argument(
        "--holdout",
        type=share,
        default=0.3,
        metavar="SHARE",
        help="share of the prompts kept from the search to judge on; 0: in-sample (0.3)",
    )
    parser.add_argument("--out", dest="few_out", metavar="FILE", help="units.json")
    parser.add_argument("--json", action="store_true", help="print JSON instead of text")


def few(args: Namespace) -> None:
    """Search for a few heads and neurons, judge them on other prompts, print and write them.

    Raises:
        ValueError: if model, task and options do not fit together.
    """
    from circuits.features import few_units, judge_units
    from patching.files.whole import write_text
    from patching.memory import budget

    metric, model = open_metric(args), open_model(args)
    whole = open_task(args.task, model, args, seed=args.seed)
    search, others = _prompts(whole, args)
    with budget(args.memory):
        options = {"steps": args.steps, "batch_size": args.batch_size, "seed": args.seed}
        found = few_units(model, search, metric, args.keep, **options)
        judged = found if others is None else judge_units(model, others, metric, found.names)
    content = {
        "units": list(found.names),
        "searched": _told(found, search),
        "judged": _told(judged, others or search),
        "model": model.name,
        "options": {**options, "keep": args.keep, "holdout": args.holdout},
    }
    if args.few_out is not None:
        write_text(args.few_out, json.dumps(content, indent=1))
    if args.json:
        print(json.dumps(content, indent=1))
    else:
        _say(found, judged, (whole, search, others), args)


def _prompts(task: "Task", args: Namespace) -> "tuple[Task, Task | None]":
    """Prompts of one length, those to search on and those to judge on.

    Raises:
        ValueError: if there are too few to split.
    """
    task = task.of_length()
    if args.holdout == 0:
        return task, None
    if len(task) < 2:
        raise ValueError(
            f"{len(task)} prompt of one length cannot be split; give more, or --holdout 0 to judge "
            f"{task.name} in-sample"
        )
    n_others = min(max(round(args.holdout * len(task)), 1), len(task) - 1)
    return task.split(1 - n_others / len(task), seed=args.seed)


def _told(found: "FewUnits", task: "Task") -> dict[str, object]:
    numbers = {name: value for name, value in asdict(found).items() if name != "names"}
    prompts = {"task": task.name, "hash": task.hash, "prompts": len(task)}
    return {**prompts, **numbers, "faithfulness": found.faithfulness}


def _say(
    found: "FewUnits",
    judged: "FewUnits",
    prompts: "tuple[Task, Task, Task | None]",
    args: Namespace,
) -> None:
    whole, search, others = prompts
    used = len(search) + (0 if others is None else len(others))
    if used < len(whole):
        length = search.prompts[0].n_tokens
        print(f"{used} of {len(whole)} prompts are used, those of {length} tokens")
    where = f"the {len(search)} prompts of the search"
    if others is not None:
        where = f"{len(others)} prompts that were not searched"
    print(
        f"{len(found.names)} heads and neurons keep {judged.faithfulness:.3f} of the gap on "
        f"{where}, all others replaced by means ({found.faithfulness:.3f} in the search)\n"
    )
    places: dict[str, list[str]] = {}
    for name in found.names:
        place, _, unit = name.partition(".")
        places.setdefault(place, []).append(unit)
    print_columns(("place", "units"), [(place, " ".join(own)) for place, own in places.items()])
    if args.few_out is not None:
        print(f"written to {args.few_out}")
