"""The command `rerun`: make a result again and say what came out differently."""

import json
import shlex
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence

from circuits.shell.printing import complain


def rerun(args: Namespace) -> int:
    """Repeat a result, print how the two compare and return the exit code.

    Raises:
        ValueError: if it cannot be repeated; the message says what is missing.
    """
    from circuits.repeating import Elsewhere, Permitted, summary
    from circuits.repeating import rerun as repeat

    comparison = repeat(
        args.result,
        elsewhere=Elsewhere(args.model, args.task, args.device),
        permitted=Permitted(tuple(args.allow), args.trust_remote_code, args.trust_functions),
        tolerance=args.tolerance,
        announce=_announce,
    )
    print(json.dumps(comparison.to_dict(), indent=1) if args.json else summary(comparison))
    return comparison.exit_code


def _announce(words: Sequence[str]) -> None:
    """Say on stderr what is about to be run."""
    from circuits.repeating import downloads

    complain(f"running: circuits {shlex.join(words)}")
    model = downloads(words)
    if model is not None:
        complain(f"the model {model} is no folder: it comes from the hub")


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
    trust = parser.add_argument_group("what the file may do (it is read, and no more)")
    trust.add_argument(
        "--allow",
        metavar="FOLDER",
        action="append",
        default=[],
        help="read models and files there, too, beside the current folder and that of the result",
    )
    trust.add_argument(
        "--trust-remote-code",
        action="store_true",
        help="run code that comes with the model, if the result was made so",
    )
    trust.add_argument(
        "--trust-functions",
        action="store_true",
        help="import functions that it names by module:function, if the result was made so",
    )
    parser.add_argument(
        "--tolerance",
        type=float,
        metavar="SHARE",
        help="difference that counts as rounding, of the largest number (1e-4 in float32)",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    codes = "exit code: 0 the same, 1 it differs, 2 it cannot be repeated"
    parser.epilog = f"{codes}\n\n{parser.epilog}"
