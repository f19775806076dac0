"""Pictures of a circuit and of a graph of features: places upwards, positions to the right."""

from collections.abc import Iterator, Mapping, Sequence

import torch
from matplotlib.figure import Figure

from circuits.drawing.canvas import Key, Picture, Width
from circuits.drawing.pictures import NEGATIVE, POSITIVE, signs
from circuits.drawing.plots import paint
from circuits.features.circuit import METRIC, FeatureCircuit
from circuits.features.graph import FEATURE, LOGIT, FeatureGraph
from circuits.features.labelled import labels_of
from circuits.features.pictured import MOST_EDGES, MOST_NODES, Scene, Shown, pictured
from patching.attribution.features.nodes import EVERYWHERE
from patching.files.visible import visible


def draw_feature_circuit(
    circuit: FeatureCircuit,
    *,
    tokens: tuple[str, ...] = (),
    title: str | None = None,
    width: Width = None,
) -> Figure:
    """`picture_features` as a figure.

    Raises:
        ValueError: if there are no nodes, or the width is none.
    """
    return paint(picture_features(circuit, tokens=tokens, title=title, width=width))


def picture_features(
    circuit: FeatureCircuit,
    *,
    tokens: tuple[str, ...] = (),
    title: str | None = None,
    width: Width = None,
) -> Picture:
    """The 120 strongest nodes and 400 strongest edges of a circuit: blue helps, vermillion hurts.

    `tokens` are written below the positions, where these are kept. `width` is "column", "page" or
    inches; as wide as needed, if not given.

    Raises:
        ValueError: if there are no nodes, or the width is none.
    """
    if not len(circuit):
        raise ValueError("a circuit without nodes cannot be drawn")
    shown = circuit
    if len(circuit) > MOST_NODES:
        shown = circuit.only([name for name, _ in circuit.top(MOST_NODES)])
    nodes, most = shown.nodes, float(shown.effects.abs().max()) or 1.0
    positions = sorted(set(nodes.positions.tolist()))
    boxes = []
    rows = zip(shown.names, nodes.sites.tolist(), nodes.positions.tolist(), strict=True)
    for (name, site, position), effect in zip(rows, shown.effects.tolist(), strict=True):
        label = name.removeprefix(f"{nodes.places[site]}.").partition("@")[0]
        boxes.append(Shown(label, site, positions.index(position), effect / most))
    weights, best = shown.weights, _strongest(shown.weights)
    if bool((shown.targets == len(shown)).any()):
        boxes.append(Shown(METRIC, len(nodes.places), len(positions) - 1, 0.0))
    edges = _edges(shown.sources[best], shown.targets[best], weights[best])
    columns = tuple("" if p == EVERYWHERE else _at(p, tokens) for p in positions)
    whole = circuit.provenance.get("of", len(circuit))
    said = f"{len(shown)} of {whole} nodes, {len(edges)} edges; fill: effect, width: |weight|"
    legend = tuple(signs([weight for *_, weight in edges]))
    scene = Scene((*nodes.places, METRIC), columns, tuple(boxes), edges, legend, said)
    return pictured(scene, title=title, width=width)


def picture_graph(graph: FeatureGraph, *, title: str | None = None, width: Width = None) -> Picture:
    """The 120 nodes of most influence of one prompt's graph, its logits and 400 strongest edges.

    Raises:
        ValueError: if the width is none.
    """
    nodes = graph.nodes
    merit = nodes.influences.double() + 1e9 * (nodes.kinds == LOGIT)
    chosen = merit.argsort(descending=True, stable=True)[:MOST_NODES].sort().values
    layers = sorted(set(nodes.layers[chosen].tolist()))
    positions = sorted(set(nodes.positions[chosen].tolist()))
    inner = nodes.influences[chosen][nodes.kinds[chosen] != LOGIT].tolist()
    most = max(inner, default=0.0) or 1.0
    boxes = tuple(
        Shown(
            label,
            layers.index(int(nodes.layers[i])),
            positions.index(int(nodes.positions[i])),
            min(1.0, float(nodes.influences[i]) / most),
        )
        for i, label in zip(chosen.tolist(), _labels(graph, chosen.tolist()), strict=True)
    )
    number = {i: k for k, i in enumerate(chosen.tolist())}
    inside = torch.isin(graph.sources, chosen) & torch.isin(graph.targets, chosen)
    best = _strongest(graph.weights.where(inside, 0))
    best = best[inside[best]]
    found = _edges(graph.sources[best], graph.targets[best], graph.weights[best])
    edges = tuple((number[source], number[target], weight) for source, target, weight in found)
    rows = tuple("embed" if x < 0 else "logits" if x == layers[-1] else f"m{x}" for x in layers)
    columns = tuple(_at(position, graph.texts) for position in positions)
    said = f"{len(boxes)} of {len(graph)} nodes, {len(edges)} edges; fill: influence"
    scene = Scene(rows, columns, boxes, edges, _RAISES, said)
    return pictured(scene, title=title, width=width)


def _labels(graph: FeatureGraph, chosen: Sequence[int]) -> Iterator[str]:
    """What nodes are called in their rows: labels, tokens of logits, names without the place."""
    nodes, labels, words = graph.nodes, labels_of(graph), graph.facts.get("logits")
    words = words if isinstance(words, Mapping) else {}
    for i in chosen:
        place, _, own = graph.names[i].partition("@")[0].partition(".")
        known = words.get(own) if int(nodes.kinds[i]) == LOGIT else None
        if int(nodes.kinds[i]) == FEATURE:
            known = labels.get((place, int(nodes.indices[i])))
        yield visible(str(known)) if known else own or place


_RAISES = (
    Key("raises what it leads to", POSITIVE),
    Key("lowers it", NEGATIVE, dashed=True),
)


def _edges(
    sources: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor
) -> tuple[tuple[int, int, float], ...]:
    return tuple(zip(sources.tolist(), targets.tolist(), weights.tolist(), strict=True))


def _strongest(weights: torch.Tensor) -> torch.Tensor:
    return weights.abs().argsort(descending=True, stable=True)[:MOST_EDGES]


def _at(position: int, tokens: Sequence[str]) -> str:
    """What stands at a position, or its number."""
    return visible(tokens[position]) if position < len(tokens) else str(position)
