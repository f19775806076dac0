"""The bundle: everything of a search that goes into a paper, in one folder."""

import json
import os
from pathlib import Path

from circuits.drawing.canvas import Picture, Width, inches
from circuits.drawing.latex import PREAMBLE, escaped
from circuits.drawing.pictures import picture
from circuits.drawing.plots import render
from circuits.drawing.role_pictures import picture_roles
from circuits.drawing.roles import Roles
from circuits.export import save
from circuits.paper.figures import plot_measurements
from circuits.paper.notebook import notebook
from circuits.paper.prose import citations, methods_latex, methods_markdown
from circuits.paper.references import bibtex
from circuits.paper.run import Run, open_run
from circuits.paper.tables import edges_frame, edges_latex, faithfulness_frame, faithfulness_latex
from patching.files.whole import write_bytes

_HEIGHT = 7.0  # inches of a figure that has a caption below it, in LaTeX's own article as well
_PICTURES = (".pdf", ".svg", ".tikz")
_OF_CIRCUIT = (
    "The circuit, from the embedding at the bottom to the logits at the top. a$L$.h$H$ is head $H$ "
    "of layer $L$, m$L$ its MLP. Blue solid edges help the metric in the clean run, vermillion "
    "dashed ones hurt it; the width is the size of the score relative to the largest."
)
_PAPER = r"""%% All parts of the bundle in one document; take what you need.
\documentclass{article}
\usepackage{tikz}
\textwidth=6.75in \oddsidemargin=-0.125in \evensidemargin=-0.125in
\textheight=9in \topmargin=-0.5in
\IfFileExists{booktabs.sty}{\usepackage{booktabs}}{}
%(preamble)s\title{%(title)s}
\author{}\date{}
\begin{document}
\maketitle
\section*{Methods}
\input{methods.tex}
%(figures)s\begin{table}[htp]\centering\footnotesize
\input{faithfulness.tex}
\caption{What circuits keep of the model's metric: faithfulness by number of edges, with its 95\%%
percentile bootstrap interval over prompts. The control, circuits of as many edges drawn as random
paths from the embedding to the logits, has its mean and its range.}
\end{table}
\begin{table}[htp]\centering\footnotesize
\input{edges.tex}
\caption{The strongest edges. A positive score means that the edge helps the metric in the clean
run.}
\end{table}
\bibliographystyle{plain}
\bibliography{references}
\end{document}
"""


def write_bundle(
    run: str | Path,
    out: str | Path | None = None,
    *,
    width: Width = "column",
    roles: Roles | None = None,
    top: int = 20,
    with_notebook: bool = True,
) -> list[Path]:
    """Write figures, tables, methods, references and a notebook from a finished search.

    Figures as PDF, SVG and TikZ (the curve without), tables as LaTeX and CSV, the paragraph as
    LaTeX and Markdown; `paper.tex` shows how they go together. Files of an older bundle are
    replaced.

    Args:
        run: the folder that `circuits discover` wrote.
        out: the folder to write to; `paper` in the folder of the run, if not given.
        width: of the figures: "column", "page" or inches.
        roles: colours for heads, and one figure more in which each role is one box.
        top: how many edges the table in LaTeX has; the CSV has all.
        with_notebook: also write `regenerate.ipynb`.

    Raises:
        ValueError: if the folder is not that of a search, `out` is a file, or the roles do not fit
            the model or are not legible at that width.
    """
    inches(width)
    if width is None or top < 1:
        raise ValueError(f"a bundle needs a width and at least one edge, got {width} and {top}")
    opened, out = open_run(run), Path(run) / "paper" if out is None else Path(out)
    if out.is_file():
        raise ValueError(f"{out} is a file; name a folder for the bundle")
    files = _pictures(opened, width, roles) | _texts(opened, top, roles)
    if with_notebook:
        text = notebook(_title(opened), _way(run, out), width=width, top=top)
        files["regenerate.ipynb"] = text.encode()
    for name, content in files.items():
        if isinstance(content, Picture):
            save(content, out / name)
        else:
            write_bytes(out / name, content)
    return [out / name for name in files]


def _pictures(run: Run, width: Width, roles: Roles | None) -> dict[str, Picture | bytes]:
    drawn = {"circuit": picture(run.circuit, width=width, height=_HEIGHT, roles=roles)}
    if roles is not None:
        drawn["roles"] = picture_roles(run.circuit, roles, width=width)
    files: dict[str, Picture | bytes] = {
        f"{name}{suffix}": made for name, made in drawn.items() for suffix in _PICTURES
    }
    curve = plot_measurements(run.measurements)
    return files | {f"curve.{kind}": render(curve, kind) for kind in ("pdf", "svg")}


def _texts(run: Run, top: int, roles: Roles | None) -> dict[str, bytes]:
    figures = [
        (r"\input{circuit.tikz}", _OF_CIRCUIT),
        (
            r"\includegraphics{curve.pdf}",
            "Faithfulness by size, with 95\\% intervals over prompts.",
        ),
    ]
    files = {
        "edges.csv": edges_frame(run).to_csv(index=False, lineterminator="\n"),
        "edges.tex": edges_latex(run, top),
        "faithfulness.csv": faithfulness_frame(run).to_csv(index=False, lineterminator="\n"),
        "faithfulness.tex": faithfulness_latex(run),
        "methods.md": methods_markdown(run),
        "methods.tex": methods_latex(run),
        "references.bib": bibtex(citations(run)),
    }
    if roles is not None:
        members = {role: list(nodes) for role, nodes in roles.members.items()}
        content = {"members": members, "colours": dict(roles.colours)}
        files["roles.json"] = json.dumps(content, indent=1) + "\n"
        figures.insert(1, (r"\input{roles.tikz}", "The circuit by role."))
    files["paper.tex"] = _PAPER % {
        "preamble": PREAMBLE,
        "title": escaped(_title(run)),
        "figures": "".join(
            f"\\begin{{figure}}[htp]\\centering\n{body}\n\\caption{{{said}}}\n\\end{{figure}}\n"
            for body, said in figures
        ),
    }
    return {name: text.encode("utf-8") for name, text in files.items()}


def _title(run: Run) -> str:
    task, model = run.stated("task") or "a task", run.stated("model") or "a model"
    return f"{task} in {model}: a circuit of {run.circuit.size:,} edges"


def _way(run: str | Path, out: Path) -> str:
    """The folder of the run as seen from the bundle's."""
    return Path(os.path.relpath(Path(run).resolve(), out.resolve())).as_posix()
