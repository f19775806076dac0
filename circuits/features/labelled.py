"""Labels in a graph: what people or programs call its features, kept among its facts.

In JSON they are the `clerp` of the features' nodes, as in circuit-tracer's and Neuronpedia's.
"""

from collections.abc import Mapping
from dataclasses import replace

from circuits.features.graph import FEATURE, FeatureGraph
from patching.dictionaries.labels import Feature, Labels


def labelled(graph: FeatureGraph, labels: Labels) -> FeatureGraph:
    """The graph with labels of those features that it holds; ones it had stay unless renamed.

    Labels go by the place that a feature writes at, `m3` or (before a norm) `m3.out`, and number.

    >>> from circuits.features import trace
    >>> from patching import Model
    >>> graph = trace(Model.load("truth/comparison"), [0, 5, 6], "neurons", validity=0)
    >>> labels_of(labelled(graph, Labels({("m9", 1): "of no feature here"})))
    Labels(texts={})
    """
    texts: dict[Feature, str] = {**labels_of(graph).texts}
    for layer, index in _features(graph):
        for place in (f"m{layer}.out", f"m{layer}"):
            if (place, index) in labels:
                texts[f"m{layer}", index] = labels[place, index]
    return with_labels(graph, texts)


def labels_of(graph: FeatureGraph) -> Labels:
    """The labels that a graph has of its features."""
    said = graph.facts.get("labels")
    places = said.items() if isinstance(said, Mapping) else ()
    return Labels(
        {
            (str(place), int(index)): str(text)
            for place, texts in places
            if isinstance(texts, Mapping)
            for index, text in texts.items()
        }
    )


def with_labels(graph: FeatureGraph, texts: Mapping[Feature, str]) -> FeatureGraph:
    """The graph with these labels and no others."""
    places: dict[str, dict[str, str]] = {}
    for place, index in sorted(texts):
        places.setdefault(place, {})[str(index)] = texts[place, index]
    facts = {name: fact for name, fact in graph.facts.items() if name != "labels"}
    return replace(graph, facts={**facts, "labels": places} if places else facts)


def _features(graph: FeatureGraph) -> set[tuple[int, int]]:
    chosen = graph.nodes.kinds == FEATURE
    layers, indices = graph.nodes.layers[chosen].tolist(), graph.nodes.indices[chosen].tolist()
    return {*zip(layers, indices, strict=True)}
