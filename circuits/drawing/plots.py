"""Pictures of circuits as matplotlib figures. Nothing is shown, no global state is changed."""

import io
from collections.abc import Mapping, Sequence
from dataclasses import replace

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import FancyBboxPatch, PathPatch, Polygon, Rectangle
from matplotlib.path import Path as Curve

from circuits.circuit import Circuit
from circuits.drawing.canvas import Box, Key, Picture, Point, Stroke, Width, is_dark
from circuits.drawing.pictures import picture, picture_difference
from circuits.drawing.role_pictures import picture_roles
from circuits.drawing.roles import Roles
from patching.figures import Figure as ShownFigure

_HEAD = 0.055  # inches: an arrow's head


def draw(
    circuit: Circuit,
    *,
    title: str | None = None,
    most_edges: int | None = None,
    width: Width = None,
    height: float | int | None = None,
    labels: Mapping[str, str] | None = None,
    roles: Roles | None = None,
    across: bool = False,
) -> Figure:
    """The circuit from `embed` at the bottom to `logits` at the top, as `picture` describes.

    Blue edges help the metric in the clean run, vermillion dashed ones hurt it; the width is
    |score| relative to the strongest edge. Letters mark query, key and value inputs.

    Raises:
        ValueError: as `picture`.
    """
    size = {"width": width, "height": height}
    looks = {"title": title, "labels": labels, "roles": roles, "across": across}
    return paint(picture(circuit, most_edges=most_edges, **size, **looks))


def draw_difference(
    a: Circuit,
    b: Circuit,
    names: tuple[str, str] = ("A", "B"),
    *,
    title: str | None = None,
    most_edges: int | None = None,
    width: Width = None,
    height: float | int | None = None,
    across: bool = False,
) -> Figure:
    """Edges only in the first circuit, only in the second and in both, in three looks.

    Raises:
        ValueError: as `picture_difference`.
    """
    size = {"width": width, "height": height, "across": across}
    return paint(picture_difference(a, b, names, title=title, most_edges=most_edges, **size))


def draw_roles(
    circuit: Circuit, roles: Roles, *, title: str | None = None, width: Width = None
) -> Figure:
    """The circuit with each role as one box, and the edges between two roles as one arrow.

    Raises:
        ValueError: as `picture_roles`.
    """
    return paint(picture_roles(circuit, roles, title=title, width=width))


def paint(picture: Picture) -> Figure:
    """A picture as a figure of its size."""
    figure = ShownFigure(figsize=(picture.width, picture.height))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    axes.set_xlim(0, picture.width)
    axes.set_ylim(0, picture.height)
    for stroke in picture.strokes:
        _paint_stroke(axes, stroke)
    for box in picture.boxes:
        _paint_box(axes, box)
    for mark in picture.marks:
        look = {"fontsize": mark.size, "color": "#444444", "ha": "center", "va": "bottom"}
        axes.text(mark.x, mark.y, mark.text, zorder=4, parse_math=False, **look)
    for key in picture.legend:
        _paint_key(figure, key)
    if picture.title:
        top = 1 - 0.08 / picture.height
        size = picture.title_size
        figure.suptitle(picture.title, fontsize=size, y=top, va="top", parse_math=False)
    if picture.caption:
        foot = 0.07 / picture.height
        look = {"fontsize": picture.caption_size, "ha": "center", "va": "bottom"}
        figure.text(0.5, foot, picture.caption, parse_math=False, **look)
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


def _paint_stroke(axes: Axes, stroke: Stroke) -> None:
    points, corners = _with_head(stroke)
    path = PathPatch(
        _curve(replace(stroke, points=points)),
        fill=False,
        edgecolor=stroke.colour,
        linewidth=stroke.width,
        alpha=stroke.opacity,
        capstyle="butt",
    )
    if stroke.faint:
        path.set_linestyle((0, (2, 2)))
    elif stroke.dashed:
        path.set_linestyle((0, (4.5 / max(stroke.width, 0.8), 2 / max(stroke.width, 0.8))))
    axes.add_patch(path)
    if corners:
        axes.add_patch(Polygon(corners, facecolor=stroke.colour, linewidth=0, zorder=2.5))


def _with_head(stroke: Stroke) -> tuple[tuple[Point, ...], Sequence[Point]]:
    """The points of a line that ends inside its arrow's head, and the head's corners."""
    if not stroke.arrow:
        return stroke.points, ()
    at_end = stroke.arrow == "end"
    tip = stroke.points[-1 if at_end else 0]
    long = _HEAD + 1.2 * stroke.width / 72
    base = tip[1] - long if at_end else tip[1] + long
    inside = tip[0], (tip[1] + 3 * base) / 4
    points = (*stroke.points[:-1], inside) if at_end else (inside, *stroke.points[1:])
    return points, (tip, (tip[0] - 0.55 * long, base), (tip[0] + 0.55 * long, base))


def _paint_box(axes: Axes, box: Box) -> None:
    axes.add_patch(
        FancyBboxPatch(
            (box.x - box.width / 2, box.y - box.height / 2),
            box.width,
            box.height,
            boxstyle=f"round,pad=0,rounding_size={0.24 * min(box.height, 0.21)}",
            facecolor=box.fill,
            edgecolor="#555555",
            linewidth=0.6,
            zorder=3,
        )
    )
    ink = "white" if is_dark(box.fill) else "black"
    text = {"ha": "center", "va": "center", "zorder": 4, "color": ink, "parse_math": False}
    axes.text(box.x, box.y + box.lift, box.label, fontsize=box.size, **text)
    for y, line in box.lines():
        axes.text(box.x, y, line, fontsize=0.85 * box.pitch, **text)


def _paint_key(figure: Figure, key: Key) -> None:
    wide, high = figure.get_size_inches()
    y = (key.y + 0.045) / high
    if key.square:
        corner = key.x / wide, (key.y + 0.005) / high
        size = 0.16 / wide, 0.08 / high
        square = Rectangle(corner, *size, facecolor=key.colour, edgecolor="#555555", linewidth=0.5)
        square.set(transform=figure.transFigure, figure=figure)
        figure.patches.append(square)
    else:
        line = Line2D(
            [key.x / wide, (key.x + 0.18) / wide], [y, y], color=key.colour, linewidth=1.8
        )
        if key.faint:
            line.set(linewidth=0.5, linestyle=(0, (2, 2)))
        elif key.dashed:
            line.set_linestyle((0, (2.5, 1.1)))
        line.set(transform=figure.transFigure, figure=figure)
        figure.lines.append(line)
    look = {"fontsize": 6, "ha": "left", "va": "center_baseline", "parse_math": False}
    figure.text((key.x + 0.22) / wide, y, key.label, **look)


def _curve(stroke: Stroke) -> Curve:
    """Straight beside the boxes, in S-shaped curves from row to row."""
    vertices, codes = [stroke.points[0]], [Curve.MOVETO]
    for start, near, far, end in stroke.bends():
        if vertices[-1] != start:
            vertices.append(start)
            codes.append(Curve.LINETO)
        vertices += [near, far, end]
        codes += [Curve.CURVE4] * 3
    return Curve(vertices, codes)
