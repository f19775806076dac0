"""Files of graphs of features, by suffix."""

from collections.abc import Callable, Mapping
from pathlib import Path

import networkx as nx

from circuits.features.circuit_picture import picture_graph
from circuits.features.forms import Save, forms_of
from circuits.features.graph import KINDS, FeatureGraph, read_graph
from circuits.features.neuronpedia import from_json, to_json
from patching.files.whole import write_text


def save_graph(graph: FeatureGraph, path: str | Path) -> None:
    """Write a graph in the form that the suffix names.

    `.safetensors` keeps everything, under a checksum; `.json` is that of circuit-tracer and
    Neuronpedia; `.graphml`, `.gexf`, `.gml`, `.csv` (edges) and `.dot` are for other programs and
    not read back; `.svg`, `.pdf`, `.png`, `.tex` and `.tikz` are pictures.

    Raises:
        ValueError: if the suffix is none of these.
    """
    suffix = _suffix(path, SAVED, "write")
    SAVED[suffix](graph, Path(path))


def load_graph(path: str | Path) -> FeatureGraph:
    """Read a `.safetensors` or `.json` of a graph; also what circuit-tracer wrote.

    Raises:
        ValueError: if the suffix is another, or the file is damaged or holds no graph of features.
    """
    return LOADED[_suffix(path, LOADED, "read")](path)


def to_networkx(graph: FeatureGraph) -> nx.DiGraph:
    """The graph with names as in `names`; constants are written by a node of their own."""
    made = nx.DiGraph(tokens=" ".join(map(str, graph.tokens.tolist())))
    nodes = graph.nodes
    for i, name in enumerate(graph.names):
        made.add_node(
            name,
            kind=KINDS[int(nodes.kinds[i])],
            layer=int(nodes.layers[i]),
            position=int(nodes.positions[i]),
            value=float(nodes.values[i]),
            influence=float(nodes.influences[i]),
        )
    for source, target, weight in rows_of(graph):
        if source not in made:
            made.add_node(source, kind=source, layer=-1, position=-1, value=0.0, influence=0.0)
        made.add_edge(source, target, weight=weight)
    return made


def rows_of(graph: FeatureGraph) -> list[tuple[str, str, float]]:
    """Edges as source, target and weight; `constant` and `rest` are sources too."""
    names = graph.names
    ends = zip(graph.sources.tolist(), graph.targets.tolist(), graph.weights.tolist(), strict=True)
    rows = [(names[source], names[target], weight) for source, target, weight in ends]
    for source, weights in (("constant", graph.constants), ("rest", graph.rests)):
        rows += [(source, names[i], float(weights[i])) for i in weights.nonzero()[:, 0].tolist()]
    return rows


def _write_json(graph: FeatureGraph, path: Path) -> None:
    write_text(path, to_json(graph, slug=path.stem))


def _suffix(path: str | Path, known: Mapping[str, object], doing: str) -> str:
    suffix = Path(path).suffix.lower()
    if suffix not in known:
        raise ValueError(
            f"cannot {doing} '{path}': a graph of features has the suffix {', '.join(known)}"
        )
    return suffix


SAVED: Mapping[str, Save[FeatureGraph]] = {
    ".safetensors": FeatureGraph.save,
    ".json": _write_json,
    **forms_of(to_networkx, picture_graph),
}
LOADED: Mapping[str, Callable[[str | Path], FeatureGraph]] = {
    ".safetensors": read_graph,
    ".json": from_json,
}
