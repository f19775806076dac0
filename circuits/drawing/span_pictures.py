"""Pictures of circuits by span whose arrows between columns are as wide as heads attend."""

from collections.abc import Callable
from dataclasses import replace

from circuits.circuit import Circuit
from circuits.drawing.canvas import Picture, Stroke, Width
from circuits.drawing.pictures import picture
from patching.span_graph import AT

LEAST = 0.05
"""Attention below which no arrow is drawn."""

Attention = Callable[[str, str, str], float]
"""How much a head attends: `(head, span of the query, span of the key) -> share`."""


def picture_spans(
    circuit: Circuit,
    attention: Attention,
    *,
    title: str | None = None,
    most_edges: int | None = None,
    width: Width = None,
) -> Picture:
    """`picture` of a circuit by span, where attention says which arrows between columns there are.

    `attention` is `patching.attention.attention_between_spans(model, task).of`. An arrow from where
    a head's keys or values read to where it writes is as wide as tokens there attend, and left out
    below `LEAST`.

    Raises:
        ValueError: as `picture`.
    """
    drawn = picture(circuit, title=title, most_edges=most_edges, width=width)
    strokes = (_weighed(stroke, attention) for stroke in drawn.strokes)
    caption = f"{drawn.caption}; arrows between spans: attention"
    return replace(drawn, strokes=tuple(s for s in strokes if s is not None), caption=caption)


def _weighed(stroke: Stroke, attention: Attention) -> Stroke | None:
    if stroke.ends is None:
        return stroke
    (_, _, key), (head, _, query) = (end.partition(AT) for end in stroke.ends)
    share = attention(head, query, key)
    if share < LEAST:
        return None
    return replace(stroke, width=0.3 + 2.0 * share, opacity=0.3 + 0.7 * share)
