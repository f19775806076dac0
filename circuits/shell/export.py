"""The command `export`: circuits in other forms. Heavy imports when needed."""

from argparse import Namespace
from typing import TYPE_CHECKING

from circuits.shell.exchange import add_exchange, exchange
from circuits.shell.options import Parser, add_width_and_roles
from circuits.shell.reading import read_circuit
from circuits.shell.values import width

if TYPE_CHECKING:
    from circuits.circuit import Circuit
    from circuits.drawing.canvas import Picture


def add_options(parser: Parser) -> None:
    """Which circuit, and in which forms."""
    parser.add_argument(
        "files", metavar="FILE", nargs="+", help="a circuit; with --to, or scores, or nine circuits"
    )
    parser.add_argument(
        "--out",
        metavar="FILE",
        action="append",
        required=True,
        help="to write, say circuit.svg; may be given several times",
    )
    _add_looks(parser)
    add_exchange(parser)


def _add_looks(parser: Parser) -> None:
    """How a circuit is drawn, where the file is a picture."""
    group = parser.add_argument_group("pictures (.svg, .pdf, .png, .tikz, .tex)")
    add_width_and_roles(group)
    group.add_argument("--by-role", action="store_true", help="draw each role as one box")
    group.add_argument("--against", metavar="CIRCUIT", help="draw what differs from this circuit")
    group.add_argument("--title", metavar="TEXT", help="above the drawing")
    group.add_argument("--across", action="store_true", help="draw from left to right")
    group.add_argument("--height", metavar="INCHES", type=float, help="at most (8.5)")
    group.add_argument(
        "--without",
        choices=("legend", "caption"),
        action="append",
        help="a part to leave out; may be given twice",
    )


def export(args: Namespace) -> None:
    """Write a circuit in other forms, by suffix.

    Raises:
        ValueError: if the file is no circuit, a suffix is unknown, or the looks do not fit.
    """
    from circuits.export import FORMATS, format_of, save

    if args.to is not None:
        exchange(args)
        return
    if len(args.files) > 1 or any((args.scores, args.d_model, args.cell)):
        raise ValueError("one circuit is written; several, --scores, --d-model, --cell need --to")
    circuit = read_circuit(args.files[0])
    drawn = {path: format_of(path).paint is not None for path in args.out}
    picture = _picture(args, circuit)
    if picture is not None and not any(drawn.values()):
        known = ", ".join(suffix for suffix, entry in FORMATS.items() if entry.paint)
        raise ValueError(f"looks are for pictures ({known}); {args.out[0]} is none")
    for path, is_drawn in drawn.items():
        save(circuit if picture is None or not is_drawn else picture, path)
        print(f"{circuit.size:,} edges written to {path}")


def _picture(args: Namespace, circuit: "Circuit") -> "Picture | None":
    """The picture that the options ask for; None where they leave the usual look.

    Raises:
        ValueError: if options exclude each other, or do not fit the circuit.
    """
    looks = (args.width, args.height, args.without, args.roles, args.by_role, args.across)
    if not any((*looks, args.against, args.title)):
        return None
    return _drawn(args, circuit).without(*args.without or ())


def _drawn(args: Namespace, circuit: "Circuit") -> "Picture":
    """The circuit, its difference from another, or its roles.

    Raises:
        ValueError: if options exclude each other, or do not fit the circuit.
    """
    from circuits.drawing.pictures import picture, picture_difference
    from circuits.drawing.role_pictures import picture_roles
    from circuits.drawing.roles import load_roles

    size = {"width": width(args.width), "height": args.height, "across": args.across}
    if args.against is not None:
        if args.roles is not None or args.by_role:
            raise ValueError("--against draws two circuits; leave out --roles and --by-role")
        names = args.files[0], args.against
        other = read_circuit(args.against, circuit.graph)
        return picture_difference(circuit, other, names, title=args.title, **size)
    roles = None if args.roles is None else load_roles(args.roles)
    if args.by_role:
        if roles is None:
            raise ValueError("--by-role needs --roles FILE")
        if args.across or args.height is not None:
            raise ValueError("--by-role draws a few boxes; leave out --across and --height")
        return picture_roles(circuit, roles, title=args.title, width=size["width"])
    return picture(circuit, title=args.title, roles=roles, **size)
