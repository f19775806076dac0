"""The command `show`: what a result holds. Heavy imports when needed."""

from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

from circuits.shell.kinds import CIRCUIT, SCORES, kind_of
from circuits.shell.options import Parser, add_top
from circuits.shell.printing import print_columns, print_edges, print_provenance
from circuits.shell.reading import read_result


def add_options(parser: Parser) -> None:
    """Which result."""
    parser.add_argument(
        "file", metavar="FILE", help="scores, a circuit, any other result, or a folder of results"
    )
    add_top(parser, 20)


def show(args: Namespace) -> None:
    """Print what a result holds; of a folder, what lies in it and the circuit there.

    Raises:
        ValueError: if it is no result.
    """
    path = Path(args.file)
    path = _list(path) if path.is_dir() else path
    kind = kind_of(path)
    if kind in (SCORES, CIRCUIT):
        _show_edges(args, path)
    elif kind is not None and path.suffix == ".safetensors":
        _show_tensors(path, kind)
    elif kind is not None:
        _show_numbers(path, kind)
    else:
        _show_unknown(args, path)


def _list(folder: Path) -> Path:
    """Print what lies in a folder; the circuit in it, or else the scores, or another result.

    Raises:
        ValueError: if none is there.
    """
    files = [path for path in sorted(folder.iterdir()) if path.is_file()]
    kinds = {path: kind_of(path) for path in files}
    found = [path for kind in (CIRCUIT, SCORES) for path in files if kinds[path] == kind]
    found += [path for path in files if kinds[path] is not None]
    if not found:
        names = ", ".join(path.name for path in files) or "no file"
        raise ValueError(f"{folder} holds no result that can be shown, but {names}")
    print_columns(("file", "holds"), [(path.name, kind or "") for path, kind in kinds.items()])
    print(f"\n{found[0]}:")
    return found[0]


def _show_edges(args: Namespace, path: Path) -> None:
    """Scores or a circuit, ours or another tool's: where they come from, the strongest edges."""
    from circuits.reporting.report import strongest
    from circuits.scores import Scores

    result = read_result(str(path))
    graph = result.graph
    if isinstance(result, Scores):
        edges = result.top(args.top, ranking=args.ranking)
        print(f"scores of {graph.n_edges:,} edges: {graph.describe()}")
    else:
        edges = strongest(result, args.top, args.ranking)
        print(f"circuit of {result.size:,} of {graph.n_edges:,} edges: {graph.describe()}")
    print_provenance(result.provenance)
    if isinstance(result, Scores) and result.caution is not None:
        print(f"caution: {result.caution}")
    print(f"strongest edges by {args.ranking} score (positive: helps the metric in the clean run):")
    print_edges(edges)


def _show_unknown(args: Namespace, path: Path) -> None:
    """What another tool wrote, or a result of which nothing but its numbers is known.

    Raises:
        ValueError: if it is neither.
    """
    try:
        _show_edges(args, path)
    except ValueError as error:
        try:
            _show_numbers(path, "numbers")
        except ValueError:
            raise error from None


def _show_tensors(path: Path, kind: str) -> None:
    """The shapes of tensors, and the facts beside them."""
    from patching.files.parsing import parse_json
    from patching.files.tensors import read_tensor_file

    tensors, texts = read_tensor_file(path)
    facts = parse_json(texts.get("facts", "{}"))
    print(kind)
    if isinstance(facts, dict):
        print_provenance(facts)
    shapes = [(name, " x ".join(map(str, tensor.shape))) for name, tensor in tensors.items()]
    print_columns(("tensor", "shape"), shapes)


def _show_numbers(path: Path, kind: str) -> None:
    """How many numbers of each name there are, and how they lie."""
    from circuits.repeating.recorded import read_result as read_numbers

    result = read_numbers(path)
    print(kind)
    print_provenance(result.provenance)
    rows = [(name, *_spread(list(numbers.values()))) for name, numbers in result.numbers.items()]
    print_columns(("numbers", "how many", "least", "mean", "most"), rows)


def _spread(numbers: Sequence[float]) -> tuple[str, str, str, str]:
    """How many, the least, the mean and the largest of those that are numbers."""
    told = [number for number in numbers if number == number]
    if not told:
        return f"{len(numbers):,}", "-", "-", "-"
    most = (min(told), fmean(told), max(told))
    least, mean, largest = (f"{number:.4g}" for number in most)
    return f"{len(numbers):,}", least, mean, largest
