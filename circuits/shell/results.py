"""What `curve` and `compare` write: tables and figures. Heavy imports when needed."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas
    from matplotlib.figure import Figure


def refuse_twice(files: Sequence[str]) -> None:
    """Refuse a file that is given twice, before anything is run.

    Raises:
        ValueError: naming all that were given.
    """
    if len(set(files)) < len(files):
        raise ValueError(f"a file is given twice: {', '.join(files)}")


def write_csv(table: "pandas.DataFrame", path: str) -> None:
    """Write a table, whole or not at all."""
    from patching.files.whole import write_text

    write_text(path, table.to_csv(index=False))


def write_figure(figure: "Figure", path: str) -> None:
    """Draw a figure into a file, by its suffix."""
    from circuits.drawing.plots import render
    from patching.files.whole import write_bytes

    write_bytes(path, render(figure, Path(path).suffix.lower()[1:]))
