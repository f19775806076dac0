"""The command `select`: a circuit from scores. Heavy imports when needed."""

from argparse import Namespace
from functools import partial
from typing import TYPE_CHECKING

from circuits.shell.inputs import open_metric, open_model, open_selector, open_task
from circuits.shell.method_inputs import open_ablation
from circuits.shell.options import Parser, add_out, add_overwrite
from circuits.shell.printing import say_choice, selector_of
from circuits.shell.reading import read_scores

if TYPE_CHECKING:
    from circuits.circuit import Circuit
    from circuits.scores import Scores


def add_options(parser: Parser) -> None:
    """Which scores, and where the circuit goes."""
    parser.add_argument("file", metavar="SCORES", help="what `circuits score` wrote")
    add_out(parser, "circuit.json")
    add_overwrite(parser)


def select(args: Namespace) -> None:
    """Choose edges from a file of scores.

    Raises:
        ValueError: if the file is no file of scores, or the graph has too few edges, or circuits
            are to be run and there is no model or task to run them on.
    """
    from circuits.export import save

    scores = read_scores(args.file)
    by_goal = args.faithfulness is not None
    circuit = _smallest(args, scores) if by_goal else open_selector(args)(scores, args.size)
    save(circuit, args.out)
    print(
        f"{circuit.size:,} of {circuit.graph.n_edges:,} edges, chosen by {args.ranking} score "
        f"({selector_of(circuit)}{', pruned' if args.prune else ''}), written to {args.out}"
    )
    say_choice(circuit)


def _smallest(args: Namespace, scores: "Scores") -> "Circuit":
    """The smallest circuit that keeps enough of what the model does on the task.

    Raises:
        ValueError: if the model or the task is not given, or the scores are of another graph.
    """
    from circuits.grouping import join_scores
    from circuits.judging.smallest import smallest_of
    from circuits.running.trial import prepare

    if args.model is None or args.task is None:
        raise ValueError("--faithfulness runs circuits: give --model and --task too, or --size N")
    metric, select, model = open_metric(args), open_selector(args), open_model(args)
    scores = join_scores(scores, model.graph, f"{args.file} holds scores")
    task = open_task(args.task, model, args, seed=args.seed)
    ablation = open_ablation(args, model, task)
    trial = prepare(model, task, metric, ablation=ablation, batch_size=args.batch_size)
    return smallest_of(trial, partial(select, scores), args.faithfulness)
