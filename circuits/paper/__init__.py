"""Paper bundle: figures, tables, a paragraph, references and a notebook, from a finished search."""

from circuits.paper.bundle import write_bundle
from circuits.paper.figures import plot_measurements
from circuits.paper.prose import methods_latex, methods_markdown
from circuits.paper.references import REFERENCES, bibtex
from circuits.paper.run import Run, open_run
from circuits.paper.tables import edges_frame, faithfulness_frame

__all__ = [
    "REFERENCES",
    "Run",
    "bibtex",
    "edges_frame",
    "faithfulness_frame",
    "methods_latex",
    "methods_markdown",
    "open_run",
    "plot_measurements",
    "write_bundle",
]
