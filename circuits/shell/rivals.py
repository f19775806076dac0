"""The commands `rivals`, `clusters`, `transfer`: what else could have been found.

Heavy imports when needed.
"""

import json
from argparse import Namespace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from circuits.shell.inputs import open_metric, open_model, open_selector, open_task
from circuits.shell.method_inputs import open_ablation, open_method
from circuits.shell.options import Parser, add_folder
from circuits.shell.printing import print_columns
from circuits.shell.reading import read_scores
from circuits.shell.values import goal, natural, positive, share

if TYPE_CHECKING:
    import pandas

    from circuits.running.trial import Trial
    from circuits.scores import Scores
    from patching.model import Model
    from patching.tasks import Task


def add_rivals_options(parser: Parser) -> None:
    """Which scores, how many circuits, how much they may share."""
    parser.add_argument("file", metavar="SCORES", help="what `circuits score` wrote")
    add_folder(parser, "folder for the circuits")
    group = parser.add_argument_group("rivals")
    group.add_argument(
        "--faithfulness", type=goal, default=0.8, metavar="SHARE", help="what each must keep (0.8)"
    )
    group.add_argument("--most", type=positive, default=10, metavar="N", help="circuits (10)")
    group.add_argument(
        "--overlap",
        type=share,
        default=0.1,
        metavar="SHARE",
        help="of the smaller one's edges, how many two may have in common (0.1)",
    )
    group.add_argument(
        "--rescore",
        type=natural,
        default=5,
        metavar="STEPS",
        help="score anew where edges found so far are removed, in so many steps; 0: do not (5)",
    )


def rivals(args: Namespace) -> None:
    """Find circuits that keep as much and share hardly an edge.

    Raises:
        ValueError: if the file holds no scores, or those of another graph.
    """
    from circuits.judging.rivals import rivals as find
    from circuits.scoring import scores_within
    from patching.files.whole import write_text

    model, task, scores = _opened(args)
    ablation, metric = open_ablation(args, model, task), open_metric(args)
    within = partial(
        scores_within,
        model,
        task,
        metric,
        steps=args.rescore,
        ablation=ablation,
        batch_size=args.batch_size,
    )
    found = find(
        _trial(args, model, task),
        scores,
        args.faithfulness,
        ranking=args.ranking,
        n=args.most,
        overlap=args.overlap,
        rescore=(lambda circuit: within(circuit=circuit)) if args.rescore else None,
    )
    out = Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    for i, circuit in enumerate(found.circuits, start=1):
        circuit.save(out / f"circuit-{i}.json")
    table = found.to_dataframe()
    write_text(out / "rivals.csv", table.to_csv(index=False))
    print(found.sentence)
    _print_table(table, args)


def add_clusters_options(parser: Parser) -> None:
    """Which scores, in how many groups."""
    parser.add_argument("file", metavar="SCORES", help="what `circuits score --by-prompt` wrote")
    parser.add_argument("--groups", type=positive, default=2, metavar="N", help="groups (2)")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")


def clusters(args: Namespace) -> None:
    """Group the prompts of a search by their own scores; judge a circuit of each on all.

    Raises:
        ValueError: if the scores were not kept by prompt, or are of other prompts.
    """
    from circuits.judging.clusters import clusters as group

    model, task, scores = _opened(args)
    select = open_selector(args)
    trial = partial(_trial, args, model)
    found = group(task, scores, lambda one: select(one, args.size), trial, n=args.groups)
    if not args.json:
        print(found.sentence)
    _print_table(found.to_dataframe(), args)


def add_transfer_options(parser: Parser) -> None:
    """Which other tasks."""
    parser.add_argument(
        "--to",
        required=True,
        metavar="TASK,...",
        help="the other tasks: names or files, with commas between",
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")


def transfer(args: Namespace) -> None:
    """Find a circuit on each of several tasks, and judge it on held-out prompts of all.

    Raises:
        ValueError: if a task cannot be opened, or is named twice.
    """
    from circuits.judging.transfer import transfer as carry

    metric, method, select = open_metric(args), open_method(args), open_selector(args)
    names = [args.task, *args.to.split(",")]
    if len(set(names)) < len(names):
        raise ValueError(f"a task is named twice: {', '.join(names)}")
    model = open_model(args)
    tasks = {name: open_task(name, model, args, seed=args.seed) for name in names}
    found = carry(
        tasks,
        lambda task: select(method(model, task, metric), args.size),
        partial(_trial, args, model),
        seed=args.seed,
    )
    _print_table(found.to_dataframe(), args)


def _opened(args: Namespace) -> "tuple[Model, Task, Scores]":
    from circuits.grouping import join_scores

    scores, model = read_scores(args.file), open_model(args)
    scores = join_scores(scores, model.graph, f"{args.file} holds scores")
    return model, open_task(args.task, model, args, seed=args.seed), scores


def _trial(args: Namespace, model: "Model", task: "Task") -> "Trial":
    from circuits.running.trial import prepare

    ablation = open_ablation(args, model, task)
    return prepare(model, task, open_metric(args), ablation=ablation, batch_size=args.batch_size)


def _print_table(table: "pandas.DataFrame", args: Namespace) -> None:
    """Every number in three digits, or all of them as JSON."""
    if getattr(args, "json", False):
        print(json.dumps(json.loads(str(table.to_json(orient="records"))), indent=1))
        return
    rows = [
        [f"{cell:.3f}" if isinstance(cell, float) else str(cell) for cell in row]
        for row in table.itertuples(index=False)
    ]
    print_columns([str(name) for name in table.columns], rows)
