"""`explore_features`: from a graph of features to a page."""

from collections.abc import Mapping
from dataclasses import asdict
from functools import partial

import numpy as np
import torch
from torch import Tensor

from circuits.features.graph import EMBEDDING, ERROR, FEATURE, KINDS, LOGIT, FeatureGraph
from circuits.features.influence import merits
from circuits.features.labelled import labels_of
from circuits.features.told import FeatureInsides
from patching.dictionaries.labels import Feature, Labels
from patching.figures import LABEL, TITLE, Figure, token_labels
from patching.files.parsing import provenance_json
from patching.views.page import Page, Parts, assemble, packed

PARTS = Parts(
    package="circuits.explorer",
    styles=("explorer.css", "features.css"),
    scripts=(
        "route.js",
        "stage.js",
        "controls.js",
        "legend.js",
        "address.js",
        "feature_data.js",
        "feature_places.js",
        "feature_draw.js",
        "feature_panel.js",
        "feature_belief.js",
        "feature_pins.js",
        "feature_labels.js",
        "feature_seen.js",
        "feature_events.js",
        "features.js",
    ),
    body="features.html",
)
"""The files that make the page, in order; those of the explorer of circuits draw its stage too."""

MOST_NODES, MOST_EDGES = 4_000, 40_000
"""More than these do not go into a page; the best do, and the page says so."""

_FIRST = 300  # features and errors seen at first
_LONGEST = 60  # letters of the prompt in a title


def explore_features(
    graph: FeatureGraph,
    *,
    insides: FeatureInsides | None = None,
    labels: Labels | None = None,
    size: int | None = None,
    title: str | None = None,
) -> Page:
    """A page to explore an attribution graph with; it needs no network.

    Tokens stand across and layers up. A slider runs over features and errors, most influential
    first; a click on a node shows what it reads and is read by, what it promotes, its activation
    over the prompt and where it was largest in a text. Nodes can be pinned and grouped, features
    labelled; labels are saved to and read from a file of `Labels`. Beside it stands how far the
    graph foresees the real model.

    >>> from circuits.features import trace
    >>> from patching import Model
    >>> graph = trace(Model.load("toy-llama"), [1, 5, 6], "neurons", logits=1, validity=0)
    >>> explore_features(graph).title.startswith("Features of")
    True

    Args:
        graph: as `trace` made it, or read from a file.
        insides: what `look_at_features` read of the model: examples, activations over the prompt,
            and what came of changing units in the real model.
        labels: of features, beside those that the graph has.
        size: how many features and errors are shown at first.
        title: of the page.

    Raises:
        ValueError: if the size is out of range, or facts do not fit into JSON.
    """
    held = _held(graph)
    inner = int(((held.nodes.kinds == FEATURE) | (held.nodes.kinds == ERROR)).sum())
    start = min(inner, _FIRST) if size is None else size
    if not 0 <= start <= inner:
        raise ValueError(f"cannot show {start} features and errors at first; there are {inner}")
    title = title or f"Features of \u201c{_in_short(graph.prompt)}\u201d"
    provenance_json(graph.facts)
    told = {} if insides is None else _insides(insides, held)
    validity, scores = graph.facts.get("validity"), graph.facts.get("scores")
    data = {
        **_tables(held),
        "title": title,
        "subtitle": _subtitle(graph),
        "start": start,
        "tokens": graph.texts,
        "said": graph.facts.get("logits") or {},
        "validity": validity if isinstance(validity, Mapping) else None,
        "scores": scores if isinstance(scores, Mapping) else None,
        "labels": _labels({**labels_of(graph), **(labels or {})}),
        "total": {"nodes": len(graph), "edges": graph.n_edges},
        "facts": dict(graph.facts),
        "values": {},
        "examples": {},
        "text": "",
        "steering": None,
        **told,
    }
    return Page(title, assemble(title, PARTS, data), partial(_picture, held, title), height=720)


def _held(graph: FeatureGraph) -> FeatureGraph:
    """The graph, or as much of the best of it as a page holds."""
    found, kinds = graph.nodes.influences, graph.nodes.kinds
    ends = (kinds == EMBEDDING) | (kinds == LOGIT)
    nodes = torch.ones(len(graph), dtype=torch.bool)
    if len(graph) > MOST_NODES:
        best = found.where(~ends, -1).topk(max(0, MOST_NODES - int(ends.sum()))).indices
        nodes = ends.index_fill(0, best, True)
    edges = nodes[graph.targets] & nodes[graph.sources]
    if int(edges.sum()) > MOST_EDGES:
        best = merits(graph).where(edges, -1).topk(MOST_EDGES).indices
        edges = torch.zeros_like(edges).index_fill(0, best, True)
    return graph if bool(nodes.all() and edges.all()) else graph.kept(nodes, edges)


def _tables(graph: FeatureGraph) -> dict[str, object]:
    """Nodes and edges as packed columns, edges best first."""
    nodes = graph.nodes
    whole = {"layer": nodes.layers, "position": nodes.positions, "number": nodes.indices}
    numbers = {
        "value": nodes.values,
        "influence": nodes.influences,
        "weight": nodes.weights,
        "reads": graph.reads,
        "constant": graph.constants,
        "rest": graph.rests,
        "rest_size": graph.rest_sizes,
    }
    order = merits(graph).argsort(descending=True, stable=True)
    layers = int(nodes.layers.max()) + (0 if bool((nodes.kinds == LOGIT).any()) else 1)
    return {
        "names": list(graph.names),
        "layers": max(layers, 0),
        "most_influence": max(
            float(nodes.influences.where(nodes.kinds != EMBEDDING, 0).max()), 1e-12
        ),
        "nodes": {
            "kind": packed(nodes.kinds.numpy(), "uint8"),
            **{name: packed(column.numpy(), "int32") for name, column in whole.items()},
            **{name: packed(_plain(column), "float32") for name, column in numbers.items()},
        },
        "edges": {
            "source": packed(graph.sources[order].numpy(), "uint32"),
            "target": packed(graph.targets[order].numpy(), "uint32"),
            "weight": packed(_plain(graph.weights[order]), "float32"),
        },
    }


def _plain(column: Tensor) -> np.ndarray:
    return column.double().numpy()


def _insides(insides: FeatureInsides, graph: FeatureGraph) -> dict[str, object]:
    """What the page is given of units that it holds, by name without position."""
    letter = str(graph.facts.get("letter", "f"))
    known = {name.partition("@")[0] for name in graph.names}
    rows = zip(insides.units.tolist(), insides.values.tolist(), strict=True)
    values = {f"m{layer}.{letter}{i}": row for (layer, i), row in rows}
    examples = {f"{place}.{letter}{i}": one for (place, i), one in insides.examples.found.items()}
    text = insides.examples.facts.get("text")
    return {
        "values": {k: [round(x, 5) for x in row] for k, row in values.items() if k in known},
        "examples": {k: asdict(one) for k, one in examples.items() if k in known},
        "text": str(text or ""),
        "steering": None if insides.steering is None else insides.steering.content(),
    }


def _labels(labels: Mapping[Feature, str]) -> dict[str, dict[str, str]]:
    """All labels, also of features that are not here: the page saves them again."""
    found: dict[str, dict[str, str]] = {}
    for (place, number), text in labels.items():
        found.setdefault(place, {})[str(number)] = text
    return found


def _in_short(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1].rstrip()}\u2026"


def _subtitle(graph: FeatureGraph) -> str:
    fields = ("model", "features", "aim")
    return " \u00b7 ".join(str(graph.facts[field]) for field in fields if graph.facts.get(field))


def _picture(graph: FeatureGraph, title: str) -> Figure:
    """Nodes by token and layer, as large as their influence: where scripts are not run."""
    nodes, texts = graph.nodes, graph.texts
    figure = Figure(figsize=(min(12.0, 2.5 + 0.5 * len(texts)), 4.5), layout="constrained")
    axes = figure.add_subplot()
    size = 6 + 200 * nodes.influences.clamp(min=0) / nodes.influences.max().clamp(min=1e-12)
    for kind, name in enumerate(KINDS):
        own = nodes.of(kind)
        place = nodes.positions[own].numpy(), nodes.layers[own].numpy()
        axes.scatter(*place, s=size[own].numpy(), alpha=0.5, label=name)
    axes.set_xticks(range(len(texts)), token_labels(texts), rotation=90, fontsize=LABEL)
    axes.set_ylabel("layer", fontsize=LABEL)
    axes.legend(fontsize=LABEL, loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
    axes.set_title(title.replace("$", r"\$"), fontsize=TITLE)
    return figure
