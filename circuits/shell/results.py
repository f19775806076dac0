"""What `curve` and `compare` write: tables and figures. Heavy imports when needed."""

from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING

from circuits.shell.inputs import require_room

if TYPE_CHECKING:
    import pandas
    from matplotlib.figure import Figure

FIGURES = (".svg", ".pdf", ".png")


def check_outputs(args: Namespace) -> None:
    """Refuse what could not be written, before anything is run.

    Raises:
        ValueError: if a file is given twice, an output is a folder or no kind of figure.
    """
    if len(set(args.files)) < len(args.files):
        raise ValueError(f"a file is given twice: {', '.join(args.files)}")
    for path in (args.csv, args.plot):
        if path is None:
            continue
        if Path(path).is_dir():
            raise ValueError(f"{path} is a folder; name the file to write")
        require_room(Path(path))
    if args.plot is not None and Path(args.plot).suffix.lower() not in FIGURES:
        raise ValueError(f"cannot draw {args.plot!r}: the name should end in {', '.join(FIGURES)}")


def write_csv(table: "pandas.DataFrame", path: str) -> None:
    """Write a table, whole or not at all."""
    from patching.files.whole import write_text

    write_text(path, table.to_csv(index=False))


def write_figure(figure: "Figure", path: str) -> None:
    """Draw a figure into a file, by its suffix."""
    from circuits.drawing.plots import render
    from patching.files.whole import write_bytes

    write_bytes(path, render(figure, Path(path).suffix.lower()[1:]))
