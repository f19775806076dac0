"""The command `rerun`: make a result again and say what came out differently."""

import json
from argparse import ArgumentParser, Namespace


def rerun(args: Namespace) -> int:
    """Repeat a result, print how the two compare and return the exit code.

    Raises:
        ValueError: if it cannot be repeated; the message says what is missing.
    """
    from circuits.repeating import Elsewhere, summary
    from circuits.repeating import rerun as repeat

    elsewhere = Elsewhere(args.model, args.task, args.device)
    comparison = repeat(args.result, elsewhere=elsewhere, tolerance=args.tolerance)
    print(json.dumps(comparison.to_dict(), indent=1) if args.json else summary(comparison))
    return comparison.exit_code


def add_options(parser: ArgumentParser) -> None:
    """Which result, and what has moved since."""
    parser.add_argument(
        "result",
        metavar="RESULT",
        help="scores, a circuit, the folder of a search, or a .json that a command wrote",
    )
    group = parser.add_argument_group("where things are now")
    group.add_argument("--model", metavar="NAME", help="the model, if it has moved")
    group.add_argument("--task", metavar="TASK", help="the task, if its file has moved")
    group.add_argument("--device", metavar="DEVICE", help="cpu, cuda, ... (as recorded)")
    parser.add_argument(
        "--tolerance",
        type=float,
        metavar="SHARE",
        help="difference that counts as rounding, of the largest number (1e-4 in float32)",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.epilog = "exit code: 0 the same, 1 it differs, 2 it cannot be repeated"
