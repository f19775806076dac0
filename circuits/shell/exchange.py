"""`export --to`: scores and circuits in the forms of other tools. Heavy imports when needed."""

import warnings
from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING

from circuits.shell.options import Parser
from circuits.shell.reading import read_circuit, read_result, read_scores
from circuits.shell.values import positive

if TYPE_CHECKING:
    from circuits.circuit import Circuit
    from circuits.scores import Scores

SUFFIXES = (".json", ".pt")
"""Of EAP-IG's graph files."""


def add_exchange(parser: Parser) -> None:
    """Which tool the file is for, and what that needs."""
    group = parser.add_argument_group("other tools (scores, or circuits)")
    group.add_argument(
        "--to",
        choices=("eap-ig", "mib"),
        help="write EAP-IG's graph file (FILE.json or FILE.pt), or the folder of one cell of a "
        "submission to MIB: a file of scores or nine circuits",
    )
    group.add_argument("--scores", metavar="FILE", help="of all edges, to go with the circuit")
    group.add_argument("--d-model", type=positive, metavar="N", help="width of the model's stream")
    group.add_argument("--cell", metavar="CELL", help="task and model of MIB's, say ioi_gpt2")


def exchange(args: Namespace) -> None:
    """Write scores or circuits for another tool.

    Raises:
        ValueError: if a file holds something else, or options do not fit.
    """
    if args.d_model is None:
        raise ValueError(f"--to {args.to} needs --d-model, the width of the model's stream")
    if (args.cell is None) == (args.to == "mib"):
        raise ValueError("--to mib needs --cell, the task and model it is for; --to eap-ig none")
    if args.to == "mib":
        _submit(args)
    else:
        _write(args)


def _write(args: Namespace) -> None:
    from circuits.export import to_mib_json, to_mib_pt
    from circuits.scores import Scores

    if len(args.files) > 1:
        raise ValueError("one file of scores or one circuit goes into a graph file")
    result = read_result(args.files[0])
    scores = None if args.scores is None else read_scores(args.scores)
    if scores is not None and isinstance(result, Scores):
        raise ValueError(f"{args.files[0]} holds scores already; leave out --scores")
    _warn_of_shares(result if scores is None else scores)
    for path in args.out:
        write = to_mib_pt if Path(path).suffix == ".pt" else to_mib_json
        write(result, path, d_model=args.d_model, scores=scores)
        print(f"{_what(result)} written to {path}, a graph file of EAP-IG's")


def _submit(args: Namespace) -> None:
    from circuits.export import write_submission

    if args.scores is not None or len(args.out) > 1:
        raise ValueError("a submission is one folder of scores or circuits; leave out --scores")
    one = read_result(args.files[0]) if len(args.files) == 1 else None
    result = [read_circuit(path) for path in args.files] if one is None else _scores(args, one)
    if one is not None:
        _warn_of_shares(one)
    for path in write_submission(result, args.out[0], args.cell, d_model=args.d_model):
        print(f"written to {path}")


def _scores(args: Namespace, result: "Scores | Circuit") -> "Scores":
    from circuits.scores import Scores

    if not isinstance(result, Scores):
        raise ValueError(f"{args.files[0]} is one circuit; a submission is scores or nine circuits")
    return result


def _what(result: "Scores | Circuit") -> str:
    from circuits.scores import Scores

    if isinstance(result, Scores):
        return f"scores of {result.graph.n_edges:,} edges"
    return f"{result.size:,} edges"


def _warn_of_shares(result: "Scores | Circuit") -> None:
    """Say that query heads get equal shares of a score that they do not have in equal parts."""
    from circuits.scores import Scores

    scored = isinstance(result, Scores) or result.scores is not None
    if scored and result.graph.n_kv_heads < result.graph.n_heads:
        warnings.warn(
            "these scores are of keys and values that query heads share, and each head gets an "
            "equal part of them; for each head's own, score with --ungroup",
            stacklevel=1,
        )
