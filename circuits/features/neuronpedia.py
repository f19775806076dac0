"""Graphs of features as JSON of circuit-tracer and Neuronpedia, for their viewers; both ways.

Ids of nodes are theirs, `layer_feature_position`, but for errors: theirs, `0_{layer}_{position}`,
is also feature `layer` of layer 0; ours are `{layer}_error_{position}`. Read are both. What their
form has no place for (constants, rests, exact influences) stands in further keys of each node, that
other programs pass over.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from circuits.features.graph import (
    EMBEDDING,
    ERROR,
    FEATURE,
    LOGIT,
    FeatureGraph,
    Nodes,
    check_graph,
)
from circuits.features.influence import with_influence
from circuits.features.labelled import labels_of, with_labels
from patching.dictionaries.labels import LONGEST, Feature, Labels
from patching.files.parsing import read_json, shown

_TYPES = {
    FEATURE: "cross layer transcoder",
    ERROR: "mlp reconstruction error",
    EMBEDDING: "embedding",
    LOGIT: "logit",
}
_ROWS = {"reads": "reads", "constants": "constant", "rests": "rest", "rest_sizes": "rest_size"}


def to_json(graph: FeatureGraph, slug: str = "graph") -> str:
    """The graph as text for the viewers."""
    facts, texts, labels = graph.facts, graph.texts, labels_of(graph)
    ids, nodes = _ids(graph), graph.nodes
    cumulative = _cumulative(nodes.influences.double())
    pruned = facts.get("pruned")
    content = {
        "metadata": {
            "slug": slug,
            "scan": str(facts.get("model", "unknown")),
            "transcoder_list": [],
            "prompt_tokens": texts,
            "prompt": "".join(texts),
            "node_threshold": pruned.get("nodes") if isinstance(pruned, Mapping) else None,
            "schema_version": 1,
            "info": {"generator": {"name": "circuit-workbench"}},
            "facts": facts,
        },
        "qParams": {
            "pinnedIds": [],
            "supernodes": [],
            "linkType": "both",
            "clickedId": "",
            "sg_pos": "",
        },
        "nodes": [
            _node(graph, i, ids[i], (texts, labels), influence)
            for i, influence in enumerate(cumulative.tolist())
        ],
        "links": [
            {"source": ids[s], "target": ids[t], "weight": w}
            for s, t, w in zip(
                graph.sources.tolist(), graph.targets.tolist(), graph.weights.tolist(), strict=True
            )
        ],
    }
    return json.dumps(content, indent=1) + "\n"


def from_json(path: str | Path) -> FeatureGraph:
    """Read a graph that this or circuit-tracer wrote; of theirs, sums are of what is there.

    Raises:
        ValueError: if the file holds no such graph.
    """
    content = read_json(path)
    table = content if isinstance(content, dict) else {}
    nodes, links = table.get("nodes"), table.get("links")
    if not isinstance(nodes, list) or not isinstance(links, list):
        raise ValueError(f"{path} is no attribution graph: lists of nodes and links would be right")
    try:
        return _graph(table, nodes, links)
    except KeyError as error:
        raise ValueError(f"{path} is no attribution graph: it lacks {error}") from None
    except (TypeError, AttributeError, OverflowError) as error:
        raise ValueError(
            f"{path} is no attribution graph: {type(error).__name__} {error}"
        ) from None
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _node(
    graph: FeatureGraph, i: int, name: str, words: tuple[list[str], Labels], influence: float
) -> dict[str, object]:
    nodes, (texts, labels) = graph.nodes, words
    kind, layer = int(nodes.kinds[i]), int(nodes.layers[i])
    position, index = int(nodes.positions[i]), int(nodes.indices[i])
    shown_layer = {EMBEDDING: "E", LOGIT: str(layer + 1)}.get(kind, str(layer))
    probability = float(nodes.weights[i])
    said = {EMBEDDING: f'Emb: "{texts[position]}"', ERROR: f'Err: mlp "{texts[position]}"'}
    said[LOGIT] = f'Output "{_said_of(graph, index)}" (p={probability:.3f})'
    said[FEATURE] = labels.get((f"m{layer}", index), "")
    rows = {key: float(getattr(graph, name)[i]) for name, key in _ROWS.items()}
    return {
        "node_id": name,
        "feature": {FEATURE: _pair(layer, index), ERROR: -1, EMBEDDING: position}.get(kind, index),
        "layer": shown_layer,
        "ctx_idx": position,
        "feature_type": _TYPES[kind],
        "token_prob": probability,
        "is_target_logit": kind == LOGIT,
        "run_idx": 0,
        "reverse_ctx_idx": 0,
        "jsNodeId": f"{shown_layer}_{index}-{position}",
        "clerp": said[kind],
        "influence": influence,
        "activation": float(nodes.values[i]),
        "influence_share": float(nodes.influences[i]),
        **rows,
    }


def _graph(
    content: dict[str, dict[str, object]], rows: list[dict], links: list[dict]
) -> FeatureGraph:
    """The tables of a file.

    Raises:
        ValueError: if a link ends nowhere, or a node is of no known kind.
    """
    kinds = {said: kind for kind, said in _TYPES.items()}
    unknown = [row["feature_type"] for row in rows if row["feature_type"] not in kinds]
    if unknown:
        raise ValueError(f"a node is of type {shown(unknown[0])}; {', '.join(kinds)} are known")
    number = {row["node_id"]: i for i, row in enumerate(rows)}
    if len(number) < len(rows):
        raise ValueError("two nodes have one id")
    lost = [end for link in links for end in (link["source"], link["target"]) if end not in number]
    if lost:
        raise ValueError(f"a link ends at {shown(lost[0])}, which is no node")
    kind = torch.tensor([kinds[row["feature_type"]] for row in rows], dtype=torch.int8)
    nodes = Nodes(
        kind,
        torch.tensor([_layer(row) for row in rows]),
        torch.tensor([int(row["ctx_idx"]) for row in rows]),
        torch.tensor([_index(row) for row in rows]),
        _column(rows, "activation"),
        torch.where(kind == LOGIT, _column(rows, "token_prob"), 0).double(),
        _column(rows, "influence_share"),
    )
    targets = torch.tensor([number[link["target"]] for link in links], dtype=torch.long)
    sources = torch.tensor([number[link["source"]] for link in links], dtype=torch.long)
    weights = torch.tensor([float(link["weight"]) for link in links])
    order = (targets * len(rows) + sources).argsort(stable=True)
    tables = {name: _column(rows, key) for name, key in _ROWS.items()}
    metadata = content["metadata"]
    given = metadata.get("facts")
    theirs = {"texts": metadata["prompt_tokens"], "model": metadata.get("scan")}
    facts = given if isinstance(given, dict) else theirs
    edges = targets[order], sources[order], weights[order]
    graph = FeatureGraph(_tokens(nodes, facts), nodes, *edges, **tables, facts=facts)
    check_graph(graph)
    graph = graph if given else with_influence(_summed(graph))
    return with_labels(graph, _labels(rows))


def _labels(rows: list[dict]) -> dict[Feature, str]:
    """What features are called: the first text of each.

    Raises:
        ValueError: if it is no text of a reasonable length.
    """
    found: dict[Feature, str] = {}
    for row in rows:
        text = row.get("clerp") or ""
        if not isinstance(text, str) or len(text) > LONGEST:
            raise ValueError(
                f"a node is called {shown(text)}; {LONGEST:,} letters at most are read"
            )
        if text and row["feature_type"] == _TYPES[FEATURE]:
            found.setdefault((f"m{_layer(row)}", _index(row)), text)
    return found


def _summed(graph: FeatureGraph) -> FeatureGraph:
    """Of a foreign graph: what its nodes read is the sum of its links."""
    reads = torch.zeros_like(graph.reads).index_add(0, graph.targets, graph.weights)
    names = ("tokens", "nodes", "targets", "sources", "weights")
    parts = {name: getattr(graph, name) for name in names}
    rest = {name: getattr(graph, name) for name in ("constants", "rests", "rest_sizes", "facts")}
    return FeatureGraph(**parts, reads=reads, **rest)


def _tokens(nodes: Nodes, facts: Mapping[str, object]) -> Tensor:
    texts = facts["texts"]
    n = len(texts) if isinstance(texts, list) else 0
    here = (nodes.kinds == EMBEDDING) & (nodes.positions >= 0) & (nodes.positions < n)
    unknown = torch.full((n,), -1, dtype=torch.long)
    return unknown.index_put((nodes.positions[here],), nodes.indices[here])


def _layer(row: dict) -> int:
    if row["feature_type"] == _TYPES[LOGIT]:
        return int(row["layer"]) - 1
    return -1 if row["layer"] == "E" else int(row["layer"])


def _index(row: dict) -> int:
    """The number of a feature or token, from the middle of its id; -1 of an error.

    Raises:
        ValueError: if the id has no such middle.
    """
    middle = re.fullmatch(r"[^_]+_(-?\d+)_\d+", str(row["node_id"]))
    if row["feature_type"] == _TYPES[ERROR]:
        return -1
    if middle is None:
        raise ValueError(f"the id {shown(row['node_id'])} is not layer_feature_position")
    return int(middle[1])


def _column(rows: list[dict], key: str) -> Tensor:
    return torch.tensor([float(row.get(key) or 0.0) for row in rows])


def _ids(graph: FeatureGraph) -> list[str]:
    """One id a node, all different."""
    nodes = graph.nodes
    columns = (nodes.kinds, nodes.layers, nodes.positions, nodes.indices)
    ids: list[str] = []
    for kind, layer, position, index in zip(*(c.tolist() for c in columns), strict=True):
        middle = "error" if kind == ERROR else index
        first = {EMBEDDING: "E", LOGIT: layer + 1}.get(kind, layer)
        ids.append(f"{first}_{middle}_{position}")
    assert len({*ids}) == len(ids), "ids of features, errors, tokens and logits differ"
    return ids


def _pair(a: int, b: int) -> int:
    """Cantor's pairing, by which their viewers number features of all layers."""
    return (a + b) * (a + b + 1) // 2 + b


def _cumulative(influences: Tensor) -> Tensor:
    """The share of all influence that nodes of as much or more hold together."""
    order = influences.argsort(descending=True, stable=True)
    sums = influences[order].cumsum(0) / influences.sum().clamp(min=1e-12)
    return torch.zeros_like(influences).index_put((order,), sums)


def _said_of(graph: FeatureGraph, index: int) -> str:
    said = graph.facts.get("logits")
    known = said if isinstance(said, Mapping) else {}
    return str(known.get(str(index), index if index >= 0 else "difference"))
