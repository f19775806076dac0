"""The command `compare`: what circuits or scores share. Heavy imports when needed."""

import json
from argparse import Namespace
from typing import TYPE_CHECKING

from circuits.shell.options import Parser, add_resamples
from circuits.shell.printing import print_columns
from circuits.shell.reading import read_result
from circuits.shell.results import refuse_twice, write_csv, write_figure
from circuits.shell.values import natural, positive

if TYPE_CHECKING:
    import pandas

    from circuits.judging.compare import CircuitComparison, ResampledComparison, ScoreComparison
    from circuits.scores import Scores


def add_options(parser: Parser) -> None:
    """Which files."""
    parser.add_argument("files", metavar="FILE", nargs="+", help="circuits, or scores")
    parser.add_argument(
        "--difference", metavar="FILE", help="write the first circuit without the second's edges"
    )
    add_resamples(
        parser,
        "choose circuits on N resamples of the search's prompts, for scores kept by prompt: "
        "what methods share with each other beside what each shares with itself (0)",
    )
    parser.add_argument(
        "--size", type=positive, default=100, metavar="N", help="edges of those circuits (100)"
    )
    parser.add_argument("--seed", type=natural, default=0, metavar="N", help="of the resamples (0)")


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


def _compare_files(
    args: Namespace,
) -> "CircuitComparison | ScoreComparison | ResampledComparison":
    from circuits.judging.compare import compare_circuits
    from circuits.scores import Scores

    results = {path: read_result(path) for path in args.files}
    scores = {path: one for path, one in results.items() if isinstance(one, Scores)}
    circuits = {path: one for path, one in results.items() if not isinstance(one, Scores)}
    if scores and circuits:
        raise ValueError("circuits and scores cannot be compared; give files of one kind")
    if circuits:
        if args.resamples:
            raise ValueError("--resamples chooses circuits from scores, and these are circuits")
        found = compare_circuits(circuits)
        if args.difference is not None:
            found.difference(*found.names[:2]).save(args.difference)
        return found
    if args.difference is not None:
        raise ValueError("--difference writes a circuit, and these are files of scores")
    return _compare_scores(args, scores)


def _compare_scores(
    args: Namespace, scores: "dict[str, Scores]"
) -> "ScoreComparison | ResampledComparison":
    from circuits.judging.compare import compare_resampled, compare_scores

    if not args.resamples:
        return compare_scores(scores, ranking=args.ranking)
    return compare_resampled(
        scores, args.size, ranking=args.ranking, n=args.resamples, seed=args.seed
    )


def _records(table: "pandas.DataFrame") -> list[object]:
    from circuits.judging.points import plain

    return [plain(row) for row in table.to_dict("records")]


def _cells(table: "pandas.DataFrame") -> list[list[str]]:
    rows = table.to_dict("records")
    return [[f"{x:.3f}" if isinstance(x, float) else str(x) for x in row.values()] for row in rows]
