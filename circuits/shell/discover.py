"""The command `discover`: the whole way from a model and a task to a report."""

from argparse import Namespace
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING

from circuits.shell.inputs import open_metric, open_model, open_selector, open_task
from circuits.shell.method_inputs import open_ablation, open_method
from circuits.shell.options import Parser, add_folder, add_resamples
from circuits.shell.printing import say_choice, say_compared, selector_of
from circuits.shell.run_options import leads_here, open_run
from circuits.shell.values import share

if TYPE_CHECKING:
    from circuits.reporting.report import Findings
    from patching.model import Model
    from patching.tasks import Task


def add_options(parser: Parser) -> None:
    """Where the results go, and what is judged on."""
    add_folder(parser, "folder for all results")
    judging = parser.add_argument_group("judging").add_mutually_exclusive_group()
    judging.add_argument(
        "--holdout",
        type=share,
        default=0.3,
        metavar="SHARE",
        help="share of the prompts kept from the search to judge on; 0: in-sample (0.3)",
    )
    judging.add_argument("--eval-task", metavar="TASK", help="judge on these prompts instead")
    add_resamples(
        parser,
        "find circuits on N resamples of the search's prompts too: an interval that contains "
        "the search, and how stable the circuit is; 100 are enough (0)",
    )


def discover(args: Namespace) -> None:
    """Score, select, judge on held-out prompts, draw and report.

    Raises:
        ValueError: if a name is unknown, or model, task, metric and method do not fit together.
    """
    from circuits.discover import FILES, Search
    from circuits.discover import discover as run
    from circuits.judging.smallest import ENOUGH

    metric, method, select = open_metric(args), open_method(args), open_selector(args)
    if Path(args.out).is_file():
        raise ValueError(f"--out {args.out} is a file; name a folder for the results")
    model = open_model(args)
    found, held_out = _prompts(args, model)
    search = Search(
        metric=metric,
        metric_name=args.metric,
        score=method,
        select=select,
        ranking=args.ranking,
        size=args.size,
        faithfulness=args.faithfulness or ENOUGH,
        ablation=open_ablation(args, model, found),
        seed=args.seed,
        batch_size=args.batch_size,
        run=open_run(args),
        resamples=args.resamples,
    )
    findings = run(model, found, held_out, search, args.out)
    if not leads_here(search.run):
        return
    _print_findings(args, findings)
    print(f"written to {args.out}: {', '.join(FILES)}")


def _prompts(args: Namespace, model: "Model") -> "tuple[Task, Task | None]":
    """The prompts to search on and those to judge on.

    Raises:
        ValueError: if a task cannot be opened, or holds too few prompts to split.
    """
    task = open_task(args.task, model, args, seed=args.seed)
    if args.eval_task is not None:
        return task, open_task(args.eval_task, model, args, seed=args.seed + 1)
    if args.holdout == 0:
        return task, None
    if len(task) < 2:
        raise ValueError(
            f"one prompt cannot be split; give more, or --holdout 0 to judge {task.name} in-sample"
        )
    n_held_out = min(max(round(args.holdout * len(task)), 1), len(task) - 1)
    return task.split(1 - n_held_out / len(task), seed=args.seed)


def _print_findings(args: Namespace, findings: "Findings") -> None:
    from circuits.reporting.report import percent, readable, title

    name, found = args.metric, findings.found
    print(findings.verdict.sentence)
    print(f"{title(name)} on {findings.prompts}:")
    print(f"  clean run       {readable(name, findings.clean)}")
    print(f"  no edge         {readable(name, findings.corrupt)}")
    print(
        f"  circuit         {readable(name, found.metric)}  ({found.edges:,} of "
        f"{findings.circuit.graph.n_edges:,} edges by {args.ranking} score, "
        f"{selector_of(findings.circuit)}{'' if args.no_prune else ', pruned'})"
    )
    chance = ", ".join(percent(measured.faithfulness) for measured in findings.random)
    say_choice(findings.circuit)
    say_compared(findings.circuit.provenance)
    print(f"faithfulness {percent(found.faithfulness)}; as many edges on random paths: {chance}")
    if findings.resampled is not None:
        print(fill(findings.resampled.sentence, 88))
