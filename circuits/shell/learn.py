"""`circuits learn`: masks of edges or nodes by gradient descent, stoppable at any step."""

from argparse import Namespace
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from circuits.shell import options, values
from circuits.shell.inputs import open_metric, open_model, open_task
from circuits.shell.method_inputs import open_ablation
from circuits.shell.names import choose
from circuits.shell.own_methods import find_method
from circuits.shell.printing import print_edges
from circuits.shell.reading import read_scores
from circuits.shell.recording import recorded

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from circuits.circuit import Circuit
    from circuits.learning import Learned
    from patching.ablations import Ablation
    from patching.descent import Schedule
    from patching.metrics import Metric
    from patching.model import Model
    from patching.tasks import Task

EDGE_PRUNING, PROBING, UGS = "edge-pruning", "subnetwork-probing", "ugs"
HYBRID = "hybrid"
FILES = ("circuit.json", "scores.safetensors", "loss.svg")


def add_options(parser: options.Parser) -> None:
    """The options of `circuits learn`."""
    group = parser.add_argument_group("learning")
    group.add_argument(
        "--method",
        default=EDGE_PRUNING,
        metavar="NAME",
        help=f"{EDGE_PRUNING}, {UGS}, {HYBRID} for scores and masks together, or {PROBING} for "
        f"heads and MLPs ({EDGE_PRUNING})",
    )
    group.add_argument(
        "--size",
        type=values.positive,
        required=True,
        metavar="N",
        help="edges to keep, or heads and MLPs",
    )
    group.add_argument(
        "--steps", type=values.positive, metavar="N", help="steps of training (400; probing 300)"
    )
    group.add_argument("--rate", type=float, metavar="R", help="learning rate of the log-odds")
    group.add_argument(
        "--penalty", type=float, metavar="P", help=f"price of an edge or node ({UGS}, {PROBING})"
    )
    group.add_argument(
        "--patience",
        type=values.positive,
        metavar="N",
        help="stop when so many steps gain nothing over as many before (never)",
    )
    group.add_argument("--start", metavar="SCORES", help="scores whose order masks start from")
    group.add_argument(
        "--members", type=_names, metavar="NAMES", help=f"methods of a {HYBRID} (eap,eap-ig)"
    )
    group.add_argument(
        "--score-by", metavar="NAME", help=f"metric of a {HYBRID}'s members (logit-diff)"
    )
    options.add_folder(group, "folder for all results, and to go on from")
    parser.set_defaults(metric="kl")


def _names(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(","))


def learn(args: Namespace) -> None:
    """Learn a circuit; interrupted, the same command goes on from the last state kept.

    Raises:
        ValueError: if a name is unknown, options do not fit the method, or model, task, metric and
            method do not fit together.
    """
    from circuits.export import save
    from circuits.learning.setting import prepare
    from patching.history import plot_history
    from patching.memory import budget

    _check(args)
    metric, model = open_metric(args), open_model(args)
    task = open_task(args.task, model, args, seed=args.seed)
    ablation = _ablation(args, model, task)
    _forget(args)
    with budget(args.memory):
        if args.method == HYBRID:
            learned = _learn_hybrid(args, model, task, metric)
        else:
            learned = _learn(args, model, task, metric, ablation)
    said = {**learned.scores.provenance, "seed": args.seed, **recorded(args)}
    learned = replace(learned, scores=replace(learned.scores, provenance=said))
    circuit, out = learned.circuit(), Path(args.out)
    learned.scores.save(out / "scores.safetensors")
    circuit.save(out / "circuit.json")
    figure = plot_history(learned.history, title=f"{args.method}, {task.name}")
    _write_figure(figure, out / "loss.svg")
    save(circuit, out / "circuit.svg")
    setting = prepare(model, task, metric, ablation)
    with budget(args.memory):
        distance = setting.mean_distance(setting.outside(circuit.mask), args.batch_size)
    _print(args, learned, circuit, f"{distance:.4g} ({metric.__name__}, mean of all prompts)")


def _forget(args: Namespace) -> None:
    """With `--overwrite`, the state of a training that stopped is none to go on from."""
    from patching.descent import STATE

    if args.overwrite:
        (Path(args.out) / "state" / STATE).unlink(missing_ok=True)


def _print(args: Namespace, learned: "Learned", circuit: "Circuit", distance: str) -> None:
    from circuits.reporting.report import strongest

    history, graph = learned.history, circuit.graph
    print(
        f"{circuit.size:,} of {graph.n_edges:,} edges kept by {args.method} after {history.steps} "
        f"steps ({history.stopped}); distance from the full model: {distance}"
    )
    print_edges(strongest(circuit, 10, "absolute"))
    print(f"written to {args.out}: {', '.join((*FILES, 'circuit.svg'))}")


def _learn(
    args: Namespace, model: "Model", task: "Task", metric: "Metric", ablation: "Ablation"
) -> "Learned":
    from circuits.learning import (
        PROBING as NODES,
    )
    from circuits.learning import (
        PRUNING,
        SAMPLING,
        edge_pruning,
        subnetwork_probing,
        uniform_sampling,
    )

    start = None if args.start is None else read_scores(args.start, model.graph)
    price = {} if args.penalty is None else {"penalty": args.penalty}
    if args.method == UGS:
        plan = _schedule(args, SAMPLING)
        return uniform_sampling(
            model, task, metric, size=args.size, start=start, schedule=plan, **price
        )
    if args.method == PROBING:
        plan = _schedule(args, NODES)
        return subnetwork_probing(
            model, task, metric, size=args.size, schedule=plan, ablation=ablation, **price
        )
    plan = _schedule(args, PRUNING)
    return edge_pruning(
        model, task, metric, size=args.size, start=start, schedule=plan, ablation=ablation
    )


def _learn_hybrid(args: Namespace, model: "Model", task: "Task", metric: "Metric") -> "Learned":
    from circuits.ensembles import hybrid
    from circuits.learning import PRUNING, connected
    from patching.metrics import METRICS

    names = args.members or ("eap", "eap-ig")
    functions = [find_method(name).function for name in names]
    members = [partial(function, batch_size=args.batch_size) for function in functions]
    score_by = choose("metric", args.score_by or "logit-diff", METRICS)
    plan = _schedule(args, PRUNING)
    found = hybrid(
        model, task, score_by, size=args.size, members=members, learn_by=metric, schedule=plan
    )
    select = partial(connected, ranking="absolute")
    return replace(found.learned, scores=found.scores, select=select)


def _ablation(args: Namespace, model: "Model", task: "Task") -> "Ablation":
    """What removed edges carry; UGS and what is learned beside scores know corrupt prompts only."""
    from patching.ablations import resample

    return resample if args.method in (UGS, HYBRID) else open_ablation(args, model, task)


def _schedule(args: Namespace, usual: "Schedule") -> "Schedule":
    return replace(
        usual,
        steps=args.steps or usual.steps,
        rate=usual.rate if args.rate is None else args.rate,
        batch_size=args.batch_size,
        seed=args.seed,
        patience=args.patience,
        folder=Path(args.out) / "state",
    )


def _check(args: Namespace) -> None:
    """Refuse options that a method would leave unread.

    Raises:
        ValueError: naming the option and the method.
    """
    choose("method", args.method, dict.fromkeys((EDGE_PRUNING, UGS, PROBING, HYBRID)))
    if args.penalty is not None and args.method in (EDGE_PRUNING, HYBRID):
        raise ValueError(f"{args.method} has a budget and no price; leave out --penalty")
    if args.start is not None and args.method == HYBRID:
        raise ValueError(f"{HYBRID} starts from its --members; leave out --start")
    if args.method != HYBRID and (args.members or args.score_by):
        raise ValueError(f"{args.method} has no members; leave out --members and --score-by")
    for name in args.members or ():
        find_method(name)
    if args.start is not None and args.method == PROBING:
        raise ValueError(
            f"{PROBING} learns nodes, and --start gives an order of edges; leave it out"
        )
    if args.ablation not in ("resample", "random") and args.method in (UGS, HYBRID):
        raise ValueError(f"{args.method} works with corrupt prompts alone; leave out --ablation")


def _write_figure(figure: "Figure", path: Path) -> None:
    from io import BytesIO

    from patching.files.whole import write_bytes

    content = BytesIO()
    figure.savefig(content, format="svg", metadata={"Date": None})
    write_bytes(path, content.getvalue())
