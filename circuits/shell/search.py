"""The command `search`: circuits found by running candidates."""

from argparse import ArgumentTypeError, Namespace
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from circuits.shell.inputs import open_metric, open_model, open_task
from circuits.shell.method_inputs import open_ablation
from circuits.shell.names import choose
from circuits.shell.options import Parser, add_overwrite
from circuits.shell.own_methods import find_method
from circuits.shell.printing import print_columns
from circuits.shell.reading import read_circuit
from circuits.shell.recording import recorded
from circuits.shell.values import positive

if TYPE_CHECKING:
    from circuits.scores import Scores
    from patching.metrics import Metric
    from patching.model import Model
    from patching.tasks import Task

SearchRun = Callable[["Model", "Task", "Metric", Namespace], None]


def search(args: Namespace) -> None:
    """Search for a circuit and write it to a file.

    Raises:
        ValueError: if a name is unknown, or model, task, metric and method do not fit together.
    """
    from patching.memory import budget

    metric, run = open_metric(args), choose("search", args.method, SEARCHES)
    if args.method == "budgeted":
        for name in args.start.split(","):
            find_method(name)
    model = open_model(args)
    with budget(args.memory):
        run(model, open_task(args.task, model, args, seed=args.seed), metric, args)


def add_options(parser: Parser) -> None:
    """The options of `circuits search`, beside those of the model, the task and the ablation."""
    add_overwrite(parser)
    parser.set_defaults(metric="kl")
    parser.add_argument("--method", default="acdc", help=f"{', '.join(SEARCHES)} (acdc)")
    acdc = parser.add_argument_group("acdc")
    acdc.add_argument(
        "--threshold",
        type=thresholds,
        metavar="T,T,...",
        help="metric that an edge may cost and still go; several: a sweep (--metric is kl here)",
    )
    acdc.add_argument(
        "--change",
        choices=("signed", "absolute"),
        default="signed",
        help="an edge goes if the metric falls by less, or moves by less either way (signed)",
    )
    acdc.add_argument("--shuffle", action="store_true", help="edges into a reader by --seed")
    acdc.add_argument("--guess", metavar="CIRCUIT", help="edges that are expected to stay")
    acdc.add_argument(
        "--scores", metavar="FILE", help="write the largest threshold that each edge survives"
    )
    budgeted = parser.add_argument_group("budgeted")
    budgeted.add_argument("--size", type=positive, metavar="N", help="edges of the circuit")
    budgeted.add_argument(
        "--budget", type=positive, default=400, metavar="N", help="circuits to run (400)"
    )
    budgeted.add_argument(
        "--start",
        default="eap-ig",
        metavar="METHOD,...",
        help="cheap scores to start from, see `circuits methods` (eap-ig)",
    )
    parser.add_argument("--log", metavar="FILE", help="keep runs here, and go on from there")
    parser.add_argument(
        "--out",
        metavar="FILE",
        required=True,
        help="circuit to write, say circuit.json; of a sweep, that of the smallest threshold",
    )


def thresholds(text: str) -> tuple[float, ...]:
    """Numbers above 0, with commas between.

    Raises:
        ArgumentTypeError: for anything else.
    """
    try:
        values = tuple(float(part) for part in text.split(","))
    except ValueError:
        values = (-1.0,)
    if not all(0 < value < float("inf") for value in values):
        raise ArgumentTypeError(f"thresholds are numbers above 0, say 0.01,0.1; got {text!r}")
    return values


def _acdc(model: "Model", task: "Task", metric: "Metric", args: Namespace) -> None:
    from circuits.search import Walk, acdc_sweep

    if args.threshold is None:
        raise ValueError("acdc goes by a threshold: give --threshold 0.01, or several")
    walk = Walk(
        change=args.change,
        seed=args.seed if args.shuffle else None,
        guess=None if args.guess is None else read_circuit(args.guess, model.graph),
        log=args.log,
    )
    found = acdc_sweep(
        model,
        task,
        metric,
        args.threshold,
        ablation=open_ablation(args, model, task),
        batch_size=args.batch_size,
        walk=walk,
    )
    first = found.circuits[0]
    replace(first, provenance=_with_command(first.provenance, args)).save(args.out)
    if args.scores is not None:
        scores = found.scores
        replace(scores, provenance=_with_command(scores.provenance, args)).save(args.scores)
    rows = [
        (f"{threshold:g}", f"{circuit.size:,}")
        for threshold, circuit in zip(found.thresholds, found.circuits, strict=True)
    ]
    print_columns(("threshold", "edges"), rows)
    n_edges = first.graph.n_edges * len(found.thresholds)
    print(
        f"\n{found.cost.circuits:,} circuits run on {len(task)} prompts, as much as "
        f"{found.cost.forwards:,.1f} whole forwards; one edge at a time: {n_edges:,} circuits"
    )
    print(f"written to {args.out}")


def _budgeted(model: "Model", task: "Task", metric: "Metric", args: Namespace) -> None:
    from circuits.search import Budget, budgeted_search

    if args.size is None:
        raise ValueError("a budgeted search makes a circuit of a given size: give --size 50")
    ablation = open_ablation(args, model, task)
    found = budgeted_search(
        model,
        task,
        metric,
        [_scores(name, model, task, metric, args) for name in args.start.split(",")],
        size=args.size,
        budget=Budget(args.budget, args.log),
        ablation=ablation,
        batch_size=args.batch_size,
    )
    replace(found, provenance=_with_command(found.provenance, args)).save(args.out)
    steps, runs = found.provenance["steps"], found.provenance["runs"]
    assert isinstance(steps, list) and isinstance(runs, dict), "written by the search"
    rows = [(step["what"], f"{step['size']:,}", f"{step['distance']:.3f}") for step in steps]
    print_columns(("after", "edges", "distance from the model"), rows)
    print(
        f"\n{runs['circuits']:,} circuits run on {len(task)} prompts; distance is the mean of "
        f"|model - circuit| in shares of the clean-corrupt gap\nwritten to {args.out}"
    )


def _scores(name: str, model: "Model", task: "Task", metric: "Metric", args: Namespace) -> "Scores":
    """Cheap scores to start from."""
    method = find_method(name)
    options = {"ablation": open_ablation(args, model, task)} if method.takes_ablation else {}
    return method.function(model, task, metric, batch_size=args.batch_size, **options)


def _with_command(provenance: Mapping[str, object], args: Namespace) -> dict[str, object]:
    """Provenance that tells the command by which a result can be repeated."""
    return {**provenance, "seed": args.seed, **recorded(args)}


SEARCHES: dict[str, SearchRun] = {"acdc": _acdc, "budgeted": _budgeted}
