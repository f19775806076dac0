"""The figure of a search's measurements: faithfulness by size, with intervals."""

from matplotlib.figure import Figure

from circuits.reporting.measurements import Measurements
from patching.figures import COLOURS, blank, legend_below, log_ticks


def plot_measurements(measurements: Measurements, *, title: str | None = None) -> Figure:
    """Faithfulness by the number of edges, shaded by its 95 % interval over prompts.

    The ring is the circuit that was asked for, crosses are random paths of as many edges. A size of
    0 has no place on the logarithmic axis.
    """
    figure, axes = blank(width=3.25, height=2.4, title=title)
    rows = [row for row in measurements.rows() if row.edges]
    nested = sorted((row for row in rows if row.kind != "random"), key=lambda row: row.edges)
    edges = [row.edges for row in nested]
    low, high = [row.low for row in nested], [row.high for row in nested]
    axes.fill_between(edges, low, high, color=COLOURS[0], alpha=0.2, linewidth=0)
    kept = [row.faithfulness for row in nested]
    axes.plot(edges, kept, color=COLOURS[0], marker="o", markersize=3, linewidth=1, label="by size")
    for kind, look, label in (
        ("circuit", {"marker": "o", "markersize": 8, "markerfacecolor": "none"}, "this circuit"),
        ("random", {"marker": "x", "markersize": 4, "linestyle": "none"}, "random paths"),
    ):
        chosen = [row for row in rows if row.kind == kind]
        colour = COLOURS[1] if kind == "circuit" else "#666666"
        points = [row.edges for row in chosen], [row.faithfulness for row in chosen]
        axes.plot(*points, color=colour, label=label, **{"linestyle": "none", **look})
    for level in (0, 1):
        axes.axhline(level, color="#BBBBBB", linewidth=0.6, zorder=0)
    log_ticks(axes, [row.edges for row in rows])
    axes.set_xlabel("edges")
    axes.set_ylabel(f"faithfulness ({measurements.metric})")
    legend_below(figure)
    return figure
