r"""Pictures as TikZ: for `\input` into a paper, or as a document of its own.

Drawn from the same coordinates as every other picture. Needs the package `tikz` only; the document
is of the class `standalone` where LaTeX has it, and otherwise an article of the picture's size.
"""

from circuits.drawing.canvas import Box, Key, Picture, Point, Stroke, is_dark
from circuits.drawing.latex import PREAMBLE, escaped

_DOCUMENT = r"""%% One picture; compile with pdflatex, or \input the .tikz file into a paper.
\IfFileExists{standalone.cls}{\documentclass[tikz]{standalone}}{\documentclass{article}
\usepackage{tikz}
\paperwidth=%(width)sin \paperheight=%(height)sin
\ifdefined\pdfpagewidth \pdfpagewidth=\paperwidth \pdfpageheight=\paperheight \fi
\hoffset=-1in \voffset=-1in \oddsidemargin=0pt \topmargin=0pt \headheight=0pt \headsep=0pt
\textwidth=\paperwidth \textheight=\paperheight \topskip=0pt \parindent=0pt \pagestyle{empty}}
%(preamble)s\begin{document}%%
%(picture)s\end{document}
"""


def tikz(picture: Picture) -> str:
    """The picture as a `tikzpicture`, to be input into a document that loads `tikz`."""
    colours = sorted(_colours(picture))
    lines = [r"\begin{tikzpicture}[x=1in,y=1in,line cap=butt,inner sep=0pt,font=\sffamily]"]
    lines += [rf"\definecolor{{{_name(c)}}}{{HTML}}{{{c[1:]}}}" for c in colours]
    lines.append(
        rf"\useasboundingbox (0,0) rectangle ({_number(picture.width)},"
        rf"{_number(picture.height)});"
    )
    lines += [_stroke(stroke) for stroke in picture.strokes]
    lines += [line for box in picture.boxes for line in _box(box)]
    lines += [
        _text((mark.x, mark.y + mark.size / 400), mark.text, mark.size, "anchor=base,text=black!75")
        for mark in picture.marks
    ]
    lines += [line for key in picture.legend for line in _key(key)]
    middle = picture.width / 2
    if picture.caption:
        lines.append(_text((middle, 0.08), picture.caption, picture.caption_size, "anchor=base"))
    if picture.title:
        lines.append(
            _text(
                (middle, picture.height - 0.08), picture.title, picture.title_size, "anchor=north"
            )
        )
    return "\n".join([*lines, r"\end{tikzpicture}%", ""])


def tikz_document(picture: Picture) -> str:
    """The picture as a LaTeX document whose one page is as large as the picture."""
    return _DOCUMENT % {
        "width": _number(picture.width),
        "height": _number(picture.height),
        "preamble": PREAMBLE,
        "picture": tikz(picture),
    }


def _colours(picture: Picture) -> set[str]:
    drawn = {stroke.colour for stroke in picture.strokes} | {key.colour for key in picture.legend}
    return {colour.upper() for colour in drawn | {box.fill for box in picture.boxes}}


def _stroke(stroke: Stroke) -> str:
    options = [_name(stroke.colour), f"line width={_number(stroke.width)}pt"]
    if stroke.opacity < 1:
        options.append(f"draw opacity={_number(stroke.opacity)}")
    if stroke.faint:
        options.append("dash pattern=on 1pt off 1pt")
    elif stroke.dashed:
        options.append("dash pattern=on 4pt off 2pt")
    if stroke.arrow:
        options.append("-latex" if stroke.arrow == "end" else "latex-")
    return rf"\draw[{','.join(options)}] {_route(stroke)};"


def _route(stroke: Stroke) -> str:
    """Straight between pairs of points, in an S within a pair."""
    at = stroke.points[0]
    said = [_point(at)]
    for start, near, far, end in stroke.bends():
        if start != at:
            said.append(f"-- {_point(start)}")
        said.append(f".. controls {_point(near)} and {_point(far)} .. {_point(end)}")
        at = end
    return " ".join(said)


def _box(box: Box) -> list[str]:
    low = box.x - box.width / 2, box.y - box.height / 2
    high = box.x + box.width / 2, box.y + box.height / 2
    look = f"fill={_name(box.fill)},draw=black!67,line width=0.6pt,rounded corners=2.5pt"
    ink = "text=white" if is_dark(box.fill) else "text=black"
    lines = [rf"\filldraw[{look}] {_point(low)} rectangle {_point(high)};"]
    lines.append(_text((box.x, box.y + box.lift), box.label, box.size, f"anchor=mid,{ink}"))
    for y, detail in box.lines():
        lines.append(_text((box.x, y), detail, 0.85 * box.pitch, f"anchor=mid,{ink}"))
    return lines


def _key(key: Key) -> list[str]:
    y = key.y + 0.045
    if key.square:
        corners = f"{_point((key.x, key.y + 0.005))} rectangle {_point((key.x + 0.16, y + 0.04))}"
        sample = rf"\filldraw[fill={_name(key.colour)},draw=black!67,line width=0.5pt] {corners};"
    else:
        look = "line width=1.8pt"
        if key.faint:
            look = "line width=0.5pt,dash pattern=on 1pt off 1pt"
        elif key.dashed:
            look += ",dash pattern=on 4.5pt off 2pt"
        ends = f"{_point((key.x, y))} -- {_point((key.x + 0.18, y))}"
        sample = rf"\draw[{_name(key.colour)},{look}] {ends};"
    return [sample, _text((key.x + 0.22, y), key.label, 6.0, "anchor=mid west")]


def _text(at: Point, text: str, size: float, options: str) -> str:
    font = rf"\fontsize{{{_number(size)}}}{{{_number(1.2 * size)}}}\selectfont"
    return rf"\node[{options}] at {_point(at)} {{{font} {escaped(text)}}};"


def _name(colour: str) -> str:
    return f"c{colour[1:].upper()}"


def _point(point: Point) -> str:
    return f"({_number(point[0])},{_number(point[1])})"


def _number(value: float) -> str:
    return f"{value:.4f}".rstrip("0").rstrip(".")
