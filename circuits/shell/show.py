"""The command `show`: what a file holds. Heavy imports when needed."""

from argparse import Namespace

from circuits.shell.options import Parser, add_top
from circuits.shell.printing import print_edges, print_provenance
from circuits.shell.reading import read_result


def add_options(parser: Parser) -> None:
    """Which file."""
    parser.add_argument("file", metavar="FILE", help="scores or a circuit")
    add_top(parser, 20)


def show(args: Namespace) -> None:
    """Print what a file of scores or a circuit holds.

    Raises:
        ValueError: if the file is neither.
    """
    from circuits.reporting.report import strongest
    from circuits.scores import Scores

    result = read_result(args.file)
    graph = result.graph
    if isinstance(result, Scores):
        edges = result.top(args.top, ranking=args.ranking)
        print(f"scores of {graph.n_edges:,} edges: {graph.describe()}")
    else:
        edges = strongest(result, args.top, args.ranking)
        print(f"circuit of {result.size:,} of {graph.n_edges:,} edges: {graph.describe()}")
    print_provenance(result.provenance)
    print(f"strongest edges by {args.ranking} score (positive: helps the metric in the clean run):")
    print_edges(edges)
