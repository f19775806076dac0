"""The command `select`: a circuit from scores. Heavy imports when needed."""

from argparse import Namespace

from circuits.shell.inputs import open_selector
from circuits.shell.options import Parser, add_out
from circuits.shell.printing import say_idle
from circuits.shell.reading import read_scores


def add_options(parser: Parser) -> None:
    """Which scores, and where the circuit goes."""
    parser.add_argument("file", metavar="SCORES", help="what `circuits score` wrote")
    add_out(parser, "circuit.json")


def select(args: Namespace) -> None:
    """Choose edges from a file of scores.

    Raises:
        ValueError: if the file is no file of scores, or the graph has too few edges.
    """
    from circuits.export import save

    circuit = open_selector(args)(read_scores(args.file), args.size)
    save(circuit, args.out)
    print(
        f"{circuit.size:,} of {circuit.graph.n_edges:,} edges, chosen by {args.ranking} score "
        f"({args.selector}{', pruned' if args.prune else ''}), written to {args.out}"
    )
    say_idle(circuit)
