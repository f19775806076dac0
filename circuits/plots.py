"""Pictures of circuits, as matplotlib figures. Nothing is shown and no global state is changed."""

import io
from collections.abc import Sequence

import matplotlib
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import FancyBboxPatch, PathPatch
from matplotlib.path import Path as Curve

from circuits.circuit import Circuit
from circuits.layout import BOX_HEIGHT, BOX_WIDTH, PORTS, Layout, Placed, Point, lay_out

MOST_EDGES = 100
"""More edges than this are not readable; the strongest are drawn, and the caption says so."""

POSITIVE, NEGATIVE, NEUTRAL = "#0072B2", "#D55E00", "#666666"  # safe for colour-blind readers
FILLS = {
    "embed": "#ECECEC",
    "logits": "#ECECEC",
    "head": "#E3EDF7",
    "group": "#F4F4F4",
    "mlp": "#FBEFD9",
}

_UNIT = 0.42  # inches per box width
_MARGIN = 0.15  # box widths
_FOOT = 0.42  # inches for legend and caption
_LEAST_WIDTH = 3.3  # inches: one column of a paper


def draw(circuit: Circuit, *, title: str | None = None, most_edges: int = MOST_EDGES) -> Figure:
    """The circuit from `embed` at the bottom to `logits` at the top.

    Blue edges help the metric in the clean run, vermillion ones hurt it; the width is |score|
    relative to the strongest edge. Letters mark query, key and value inputs.

    Raises:
        ValueError: if `most_edges` is less than 1.
    """
    if most_edges < 1:
        raise ValueError(f"cannot draw at most {most_edges} edges; 1 is the least")
    shown = _strongest(circuit, most_edges)
    layout = lay_out(shown)
    left, right, bottom, top = layout.bounds()
    head = 0.26 if title else 0.05
    width = max((right - left + 2 * _MARGIN) * _UNIT, _LEAST_WIDTH)
    drawing = (top - bottom + 2 * _MARGIN) * _UNIT
    height = drawing + head + _FOOT
    figure = Figure(figsize=(width, height))
    axes = figure.add_axes((0, _FOOT / height, 1, drawing / height))
    axes.set_axis_off()
    middle, reach = (left + right) / 2, width / _UNIT / 2
    axes.set_xlim(middle - reach, middle + reach)
    axes.set_ylim(bottom - _MARGIN, top + _MARGIN)
    _draw_arcs(axes, layout)
    for node in layout.nodes:
        _draw_node(axes, node)
    _draw_letters(axes, layout)
    if title:
        figure.suptitle(title, fontsize=8, y=1 - 0.08 / height, va="top")
    _draw_legend(figure, shown, _caption(circuit, shown))
    return figure


def render(figure: Figure, kind: str) -> bytes:
    """The figure as the bytes of an svg, pdf or png file; equal figures give equal bytes."""
    metadata = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(kind)
    buffer = io.BytesIO()
    with matplotlib.rc_context(
        {
            "pdf.fonttype": 42,  # text stays text in both
            "svg.fonttype": "none",
            "svg.hashsalt": "circuits",
        }
    ):
        figure.savefig(buffer, format=kind, metadata=metadata, dpi=300)
    return buffer.getvalue()


def _strongest(circuit: Circuit, n: int) -> Circuit:
    """The n edges with the largest |score|; without scores, the first n."""
    if circuit.size <= n:
        return circuit
    size = circuit.mask.double() if circuit.scores is None else circuit.scores.abs()
    size = size.where(circuit.mask, -1.0).flatten()
    mask = torch.zeros_like(circuit.mask)
    mask.view(-1)[size.sort(descending=True, stable=True).indices[:n]] = True
    return Circuit(mask, circuit.graph, circuit.scores, circuit.provenance)


def _caption(circuit: Circuit, shown: Circuit) -> str:
    if circuit.size == shown.size:
        return f"{circuit.size} edges" if circuit.size != 1 else "1 edge"
    which = "first" if circuit.scores is None else "strongest"
    return f"{shown.size} of {circuit.size} edges shown (the {which})"


def _draw_arcs(axes: Axes, layout: Layout) -> None:
    for link in layout.links:
        path = PathPatch(_curve(link.points), fill=False, edgecolor="#999999", linewidth=0.5)
        path.set_linestyle((0, (2, 2)))
        axes.add_patch(path)
    largest = max((abs(arc.score or 0.0) for arc in layout.arcs), default=0.0)
    for arc in sorted(layout.arcs, key=lambda arc: abs(arc.score or 0.0)):
        share = abs(arc.score) / largest if arc.score is not None and largest else 0.3
        axes.add_patch(
            PathPatch(
                _curve(arc.points),
                fill=False,
                edgecolor=_colour(arc.score),
                linewidth=0.4 + 2.0 * share,
                alpha=0.55 + 0.45 * share,
                capstyle="butt",
            )
        )


def _draw_letters(axes: Axes, layout: Layout) -> None:
    """Mark the query, key and value inputs that are used."""
    nodes = {node.name: node for node in layout.nodes}
    readers = {arc.reader: nodes[arc.dest_node] for arc in layout.arcs}
    for reader, node in readers.items():
        if reader != node.name:
            x, y = node.x + PORTS[reader[-1]], node.y - BOX_HEIGHT / 2 + 0.02
            letter = axes.text(x, y, reader[-1], fontsize=4.5, color="#444444", zorder=4)
            letter.set(horizontalalignment="center", verticalalignment="bottom")


def _draw_node(axes: Axes, node: Placed) -> None:
    box = FancyBboxPatch(
        (node.x - BOX_WIDTH / 2, node.y - BOX_HEIGHT / 2),
        BOX_WIDTH,
        BOX_HEIGHT,
        boxstyle="round,pad=0,rounding_size=0.12",
        facecolor=FILLS[node.kind],
        edgecolor="#555555",
        linewidth=0.6,
        zorder=3,
    )
    axes.add_patch(box)
    lift = 0.06 if node.kind in ("head", "group") else 0.0
    axes.text(node.x, node.y + lift, node.label, fontsize=6.5, ha="center", va="center", zorder=4)


def _draw_legend(figure: Figure, shown: Circuit, caption: str) -> None:
    if shown.scores is not None:
        handles = [
            Line2D([], [], color=POSITIVE, linewidth=1.8),
            Line2D([], [], color=NEGATIVE, linewidth=1.8),
        ]
        labels = ["positive: helps the metric in the clean run", "negative: hurts it"]
        figure.legend(
            handles,
            labels,
            loc="lower center",
            bbox_to_anchor=(0.5, 0.17 / figure.get_figheight()),
            ncols=2,
            frameon=False,
            fontsize=6,
            handlelength=1.5,
            columnspacing=1.2,
        )
        caption += "; width: |score|"
    figure.text(0.5, 0.07 / figure.get_figheight(), caption, fontsize=6, ha="center", va="bottom")


def _curve(points: Sequence[Point]) -> Curve:
    """Straight up beside the boxes, in S-shaped curves from row to row."""
    vertices, codes = [points[0]], [Curve.MOVETO]
    for (x0, y0), (x1, y1) in zip(points[0::2], points[1::2], strict=True):
        if vertices[-1] != (x0, y0):
            vertices.append((x0, y0))
            codes.append(Curve.LINETO)
        middle = (y0 + y1) / 2
        vertices += [(x0, middle), (x1, middle), (x1, y1)]
        codes += [Curve.CURVE4] * 3
    return Curve(vertices, codes)


def _colour(score: float | None) -> str:
    if not score:
        return NEUTRAL
    return POSITIVE if score > 0 else NEGATIVE
