"""`explore`: from circuits or scores to a page."""

from collections.abc import Mapping
from functools import partial

from circuits.circuit import Circuit
from circuits.drawing.plots import draw
from circuits.explorer.content import Ordered, edge_list, names, ordered
from circuits.explorer.insides import Insides
from circuits.explorer.levels import Measured, fitting_levels, level_rows, measured
from circuits.explorer.placing import Places, drawings, grid
from circuits.explorer.span_keys import span_keys
from circuits.judging.points import Curve
from circuits.judging.uncertain import Uncertain
from circuits.scores import Ranking, Scores
from circuits.spans import collapsed
from patching.files.parsing import provenance_json
from patching.graph import Graph
from patching.span_graph import require_whole
from patching.views.page import Page, Parts, assemble

PARTS = Parts(
    package="circuits.explorer",
    styles=("explorer.css",),
    scripts=(
        "choose.js",
        "route.js",
        "trace.js",
        "stage.js",
        "draw.js",
        "lines.js",
        "curve.js",
        "controls.js",
        "legend.js",
        "panel.js",
        "matrix.js",
        "inside.js",
        "heads.js",
        "spans.js",
        "search.js",
        "address.js",
        "seen.js",
        "explorer.js",
    ),
    body="explorer.html",
)
"""The files that make the page, in order."""

_STILL_EDGES = 60  # in the picture that stands in where scripts are not run


def explore(
    result: Circuit | Scores | Uncertain,
    *,
    scores: Scores | None = None,
    curve: Curve | Measured | None = None,
    other: Circuit | Scores | None = None,
    uncertain: Uncertain | None = None,
    insides: Insides | None = None,
    size: int | None = None,
    title: str | None = None,
) -> Page:
    """A page to explore a circuit, or all scored edges, with; it needs no network.

    A slider runs over the number of edges, best first, or over |score|; hovering names nodes and
    edges, a click on a node shows its up- and downstream paths. Blue edges help the metric in the
    clean run, vermillion ones hurt it. Where spans are kept apart, edges are shown without, and the
    prompt along the bottom lights up those of a span: a circuit's at its own, scores where they are
    largest.

    >>> from patching.graph import Graph
    >>> page = explore(Circuit.from_edges(Graph(1, 1, 1), [("embed", "m0"), ("m0", "logits")]))
    >>> page.title
    'Circuit of 2 edges'

    Args:
        result: what to show.
        scores: with a circuit, all edges: its own come first, then the others, best first.
        curve: the faithfulness to show at each size; only where it was measured on the very edges
            that are shown.
        other: a second circuit or file of scores of the same graph, to compare in colours.
        uncertain: standard errors and stability for the hover card.
        insides: what `look_inside` read on one prompt: a click on a node then shows its attention
            patterns, the tokens it promotes, and its exact effect where that was measured.
        size: how many edges are shown at first; a circuit is shown whole.
        title: of the page; else what the provenance says.

    Raises:
        ValueError: if graphs differ, uncertainty is by span, the size is out of range, or the curve
            is of other circuits.
    """
    if isinstance(result, Uncertain):
        result, uncertain = result.scores, uncertain or result
    _check_graphs(result.graph, other, uncertain)
    apart, result = result, _whole(result)
    scores = None if scores is None else collapsed(scores)
    other = None if other is None else _whole(other)
    found = measured(curve) if isinstance(curve, Curve) else curve
    ranking = _ranking(apart.provenance, found)
    order = ordered(result, scores, ranking)
    orders = [order] if other is None else [order, ordered(other, None, ranking)]
    start = max(one.start for one in orders) if size is None else size
    longest = max(len(one.edges) for one in orders)
    if not min(1, longest) <= start <= longest:
        raise ValueError(f"cannot show {start} edges at first; there are {longest}, 1 is the least")
    title = title or _title(result)
    data = {
        **_edges(orders, uncertain),
        **_positions(orders),
        "title": title,
        "start": start,
        "ranking": ranking,
        "curve": None if found is None else _curve(found, order),
        "insides": None if insides is None else insides.content(result),
        "spans": span_keys(apart, order),
        "subtitle": _subtitle(apart.provenance),
        "facts": _facts(apart, other),
    }
    picture = partial(draw, order.prefix(start), title=title, most_edges=_STILL_EDGES)
    return Page(title, assemble(title, PARTS, data), picture, height=680)


def _whole(result: Circuit | Scores) -> Circuit | Scores:
    return collapsed(result) if isinstance(result, Circuit) else collapsed(result)


def _edges(orders: list[Ordered], uncertain: Uncertain | None) -> dict[str, object]:
    lists = [edge_list("A", orders[0], uncertain), *(edge_list("B", one) for one in orders[1:])]
    return {"names": names(orders[0].graph), "lists": lists}


def _positions(orders: list[Ordered]) -> dict[str, object]:
    return {
        "drawings": [[size, _rounded(places)] for size, places in drawings(orders)],
        "grid": _rounded(grid(orders[0].graph)),
    }


def _rounded(places: Places) -> dict[str, list[float]]:
    return {name: [round(x, 3), round(y, 3)] for name, (x, y) in places.items()}


def _curve(found: Measured, order: Ordered) -> dict[str, object]:
    levels, others = fitting_levels(found, order)
    return {
        "levels": level_rows(levels),
        "others": others,
        "pruned": found.pruned,
        "metric": found.metric,
        "ablation": found.ablation,
        "examples": found.n_examples,
    }


def _ranking(provenance: Mapping[str, object], found: Measured | None) -> Ranking:
    """The curve's; else the one by which the circuit was chosen; else by absolute value."""
    selection = provenance.get("selection")
    chosen = selection.get("ranking") if isinstance(selection, Mapping) else None
    ranking = found.ranking if found is not None else chosen
    return "signed" if ranking == "signed" else "absolute"


def _check_graphs(
    graph: Graph, other: Circuit | Scores | None, uncertain: Uncertain | None
) -> None:
    if uncertain is not None:
        require_whole(uncertain.scores.graph, "uncertainty in the explorer")
    beside = {
        "the other circuit": None if other is None else other.graph,
        "the uncertainty": None if uncertain is None else uncertain.scores.graph,
    }
    for what, one in beside.items():
        if one is not None:
            graph.require_same(one, f"{what} is")


def _title(result: Circuit | Scores) -> str:
    n = result.size if isinstance(result, Circuit) else result.graph.n_edges
    what = "Circuit of" if isinstance(result, Circuit) else "Scores of"
    return f"{what} {n:,} edge{'' if n == 1 else 's'}"


def _subtitle(provenance: Mapping[str, object]) -> str:
    fields = ("model", "task", "method", "metric")
    return " · ".join(str(provenance[field]) for field in fields if field in provenance)


def _facts(result: Circuit | Scores, other: Circuit | Scores | None) -> dict[str, object]:
    """What is known of where the edges come from.

    Raises:
        ValueError: if a provenance does not fit into JSON.
    """
    results = {"A": result} if other is None else {"A": result, "B": other}
    for one in results.values():
        provenance_json(one.provenance)
    facts: dict[str, object] = {"graph": result.graph.describe()}
    if other is None:
        return facts | dict(result.provenance)
    return facts | {name: dict(one.provenance) for name, one in results.items()}
