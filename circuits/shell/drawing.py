"""The commands `export` and `report`: circuits in other forms, and all that a paper needs."""

from argparse import Namespace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from circuits.circuit import Circuit
    from circuits.drawing.canvas import Picture, Width


def export(args: Namespace) -> None:
    """Write a circuit in other forms, by suffix.

    Raises:
        ValueError: if the file is no circuit, a suffix is unknown, or the looks do not fit.
    """
    from circuits.export import FORMATS, format_of, load, save

    circuit = load(args.file)
    drawn = {path: format_of(path).paint is not None for path in args.out}
    picture = _picture(args, circuit)
    if picture is not None and not any(drawn.values()):
        known = ", ".join(suffix for suffix, entry in FORMATS.items() if entry.paint)
        raise ValueError(f"looks are for pictures ({known}); {args.out[0]} is none")
    for path, is_drawn in drawn.items():
        save(circuit if picture is None or not is_drawn else picture, path)
        print(f"{circuit.size:,} edges written to {path}")


def report(args: Namespace) -> None:
    """Write figures, tables, methods, references and a notebook from a finished search.

    Raises:
        ValueError: if the folder is not that of a search, or the roles do not fit.
    """
    from circuits.drawing.roles import load_roles
    from circuits.paper import write_bundle

    roles = None if args.roles is None else load_roles(args.roles)
    width = _width(args.width) or "column"
    written = write_bundle(args.run_dir, args.out, width=width, roles=roles, top=args.top)
    print(f"written to {written[0].parent}: {', '.join(path.name for path in written)}")


def _picture(args: Namespace, circuit: "Circuit") -> "Picture | None":
    """The picture that the options ask for; None where they leave the usual look.

    Raises:
        ValueError: if options exclude each other, or do not fit the circuit.
    """
    if not any((args.width, args.roles, args.by_role, args.against, args.title)):
        return None
    from circuits.drawing.pictures import picture, picture_difference
    from circuits.drawing.role_pictures import picture_roles
    from circuits.drawing.roles import load_roles
    from circuits.export import load

    width = _width(args.width)
    if args.against is not None:
        if args.roles is not None or args.by_role:
            raise ValueError("--against draws two circuits; leave out --roles and --by-role")
        names = args.file, args.against
        return picture_difference(
            circuit, load(args.against, circuit.graph), names, title=args.title, width=width
        )
    roles = None if args.roles is None else load_roles(args.roles)
    if args.by_role:
        if roles is None:
            raise ValueError("--by-role needs --roles FILE")
        return picture_roles(circuit, roles, title=args.title, width=width)
    return picture(circuit, title=args.title, width=width, roles=roles)


def _width(text: str | None) -> "Width":
    """A width from the command line: a name, or a number of inches."""
    try:
        return None if text is None else float(text)
    except ValueError:
        return text
