"""The command `show`: what a file holds. Heavy imports when needed."""

from argparse import Namespace
from pathlib import Path

from circuits.shell.options import Parser, add_top
from circuits.shell.printing import print_edges, print_provenance


def add_options(parser: Parser) -> None:
    """Which file."""
    parser.add_argument("file", metavar="FILE", help="scores or a circuit")
    add_top(parser, 20)


def show(args: Namespace) -> None:
    """Print what a file of scores or a circuit holds.

    Raises:
        ValueError: if the file is neither.
    """
    from circuits.circuit import load_circuit
    from circuits.reporting.report import strongest
    from circuits.scores import load_scores

    if _holds_scores(Path(args.file)):
        scores = load_scores(args.file)
        graph, provenance = scores.graph, scores.provenance
        edges = scores.top(args.top, ranking=args.ranking)
        print(f"scores of {graph.n_edges:,} edges: {graph.describe()}")
    else:
        circuit = load_circuit(args.file)
        graph, provenance = circuit.graph, circuit.provenance
        edges = strongest(circuit, args.top, args.ranking)
        print(f"circuit of {circuit.size:,} of {graph.n_edges:,} edges: {graph.describe()}")
    print_provenance(provenance)
    print(f"strongest edges by {args.ranking} score (positive: helps the metric in the clean run):")
    print_edges(edges)


def _holds_scores(path: Path) -> bool:
    """Whether a file holds scores (safetensors: a length, then a JSON header) or a circuit.

    Raises:
        ValueError: if it looks like neither.
    """
    with path.open("rb") as file:
        start = file.read(9)
    is_scores, is_json = start[8:] == b"{", start.lstrip().startswith(b"{")
    if path.suffix not in (".json", ".safetensors") and not is_scores and not is_json:
        raise ValueError(f"{path} is neither scores (safetensors) nor a circuit (JSON)")
    return path.suffix == ".safetensors" or (is_scores and path.suffix != ".json")
