"""The command `compare`: what circuits or scores share. Heavy imports when needed."""

import json
from argparse import Namespace
from typing import TYPE_CHECKING

from circuits.shell.options import Parser
from circuits.shell.printing import print_columns
from circuits.shell.reading import read_result
from circuits.shell.results import refuse_twice, write_csv, write_figure

if TYPE_CHECKING:
    import pandas

    from circuits.judging.compare import CircuitComparison, ScoreComparison


def add_options(parser: Parser) -> None:
    """Which files."""
    parser.add_argument("files", metavar="FILE", nargs="+", help="circuits, or scores")
    parser.add_argument(
        "--difference", metavar="FILE", help="write the first circuit without the second's edges"
    )


def compare(args: Namespace) -> None:
    """Say what circuits share, or how far files of scores rank the edges alike.

    Raises:
        ValueError: if there are fewer than two files, or they are of both kinds or of different
            graphs.
    """
    refuse_twice(args.files)
    comparison = _compare_files(args)
    table = comparison.to_dataframe()
    if args.json:
        print(json.dumps(_records(table), indent=1))
    else:
        print_columns(list(table.columns), _cells(table))
    if args.csv is not None:
        write_csv(table, args.csv)
    if args.plot is not None:
        from circuits.judging.curves import plot_comparison

        write_figure(plot_comparison(comparison), args.plot)


def _compare_files(args: Namespace) -> "CircuitComparison | ScoreComparison":
    from circuits.judging.compare import compare_circuits, compare_scores
    from circuits.scores import Scores

    results = {path: read_result(path) for path in args.files}
    scores = {path: one for path, one in results.items() if isinstance(one, Scores)}
    circuits = {path: one for path, one in results.items() if not isinstance(one, Scores)}
    if scores and circuits:
        raise ValueError("circuits and scores cannot be compared; give files of one kind")
    if circuits:
        found = compare_circuits(circuits)
        if args.difference is not None:
            found.difference(*found.names[:2]).save(args.difference)
        return found
    if args.difference is not None:
        raise ValueError("--difference writes a circuit, and these are files of scores")
    return compare_scores(scores, ranking=args.ranking)


def _records(table: "pandas.DataFrame") -> list[object]:
    from circuits.judging.points import plain

    return [plain(row) for row in table.to_dict("records")]


def _cells(table: "pandas.DataFrame") -> list[list[str]]:
    rows = table.to_dict("records")
    return [[f"{x:.3f}" if isinstance(x, float) else str(x) for x in row.values()] for row in rows]
