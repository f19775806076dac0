"""The command `report`: all that a paper needs. Heavy imports when needed."""

from argparse import Namespace

from circuits.shell.options import Parser, add_width_and_roles
from circuits.shell.values import positive, width


def add_options(parser: Parser) -> None:
    """What goes into a bundle for a paper, and where."""
    parser.add_argument("run_dir", metavar="RUN_DIR", help="what `circuits discover` wrote")
    parser.add_argument("--out", metavar="DIR", help="folder to write to (RUN_DIR/paper)")
    parser.add_argument(
        "--top", type=positive, default=20, metavar="N", help="edges in the LaTeX table (20)"
    )
    add_width_and_roles(parser)


def report(args: Namespace) -> None:
    """Write figures, tables, methods, references and a notebook from a finished search.

    Raises:
        ValueError: if the folder is not that of a search, or the roles do not fit.
    """
    from circuits.drawing.roles import load_roles
    from circuits.paper import write_bundle

    roles = None if args.roles is None else load_roles(args.roles)
    drawn_at = width(args.width) or "column"
    written = write_bundle(args.run_dir, args.out, width=drawn_at, roles=roles, top=args.top)
    print(f"written to {written[0].parent}: {', '.join(path.name for path in written)}")
