"""Tables of a search, as data frames, CSV and LaTeX.

The LaTeX needs no package: its rules are those of booktabs where a document loads that, and plain
lines otherwise.
"""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from circuits.drawing.latex import escaped
from circuits.paper.run import Run
from circuits.reporting.report import of_edge, percent, readable, strongest, title
from circuits.scores import Ranking

if TYPE_CHECKING:
    import pandas

_RULES = r"""\providecommand{\toprule}{\hline}
\providecommand{\midrule}{\hline}
\providecommand{\bottomrule}{\hline}
"""
_KINDS = {"circuit": "this circuit", "size": "same scores", "random": "random"}


def edges_frame(run: Run) -> "pandas.DataFrame":
    """All edges of the circuit, best first, with the columns rank, source, dest and score."""
    import pandas  # slow to import, and seldom needed

    rows = strongest(run.circuit, run.circuit.size, _ranking(run))
    frame = pandas.DataFrame(rows, columns=["source", "dest", "score"])
    frame.insert(0, "rank", range(1, len(rows) + 1))
    return frame


def faithfulness_frame(run: Run) -> "pandas.DataFrame":
    """All circuits that were run, with the fields of `measurements.Row` as columns."""
    import pandas  # slow to import, and seldom needed

    return pandas.DataFrame(run.measurements.rows())


def edges_latex(run: Run, top: int) -> str:
    """The strongest edges of the circuit."""
    rows = [
        (
            str(i),
            rf"\texttt{{{escaped(source)}}}",
            rf"\texttt{{{escaped(dest)}}}",
            _math(of_edge(s)),
        )
        for i, (source, dest, s) in enumerate(strongest(run.circuit, top, _ranking(run)), 1)
    ]
    return _tabular("rllr", ("", "from", "to", "score"), rows)


def faithfulness_latex(run: Run) -> str:
    """Circuits by size, with the interval over prompts; of random ones the least and the most."""
    measured, metric = run.measurements, run.measurements.metric
    rows = []
    for row in measured.rows():
        if row.kind != "random":
            ends = f"{_share(row.low)} to {_share(row.high)}" if not math.isnan(row.low) else "--"
            mark = r"\textbf{this circuit}" if row.kind == "circuit" else ""
            reached = _math(readable(metric, row.metric))
            rows.append((mark, f"{row.edges:,}", reached, _share(row.faithfulness), ends))
    chance = [row for row in measured.rows(n_bootstrap=0) if row.kind == "random"]
    if chance:
        kept = [row.faithfulness for row in chance]
        reached = [row.metric for row in chance]
        rows.append(
            (
                f"random paths, mean of {len(chance)}",
                f"{chance[0].edges:,}",
                _math(readable(metric, sum(reached) / len(reached))),
                _share(sum(kept) / len(kept)),
                f"range {_share(min(kept))} to {_share(max(kept))}",
            )
        )
    head = ("", "edges", escaped(title(metric)), "faithfulness", r"95\% interval")
    return _tabular("lrrrr", head, rows)


def _tabular(columns: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [
        rf"\begin{{tabular}}{{{columns}}}",
        r"\toprule",
        " & ".join(head) + r" \\",
        r"\midrule",
    ]
    lines += [" & ".join(row) + r" \\" for row in rows]
    return _RULES + "\n".join([*lines, r"\bottomrule", r"\end{tabular}", ""])


def _ranking(run: Run) -> Ranking:
    return "signed" if run.measurements.ranking == "signed" else "absolute"


def _math(number: str) -> str:
    """A number with a minus sign that is one."""
    return f"${number}$" if number else ""


def _share(faithfulness: float) -> str:
    return escaped(percent(None if math.isnan(faithfulness) else faithfulness))
