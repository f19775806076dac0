"""Circuits from networkx graphs: the way back from `Circuit.to_networkx`."""

import networkx as nx

from circuits.circuit import Circuit, from_rows
from circuits.naming import node_of
from patching.files.parsing import parse_json, shown
from patching.graph import Graph
from patching.span_graph import graph_of


def from_networkx(graph: nx.Graph, architecture: Graph | None = None) -> Circuit:
    """The circuit that `Circuit.to_networkx` turned into a networkx graph.

    `architecture` is for file formats that drop the attributes of a graph, such as GEXF.

    Raises:
        ValueError: if the graph does not describe a circuit.
    """
    if architecture is None and "graph" not in graph.graph:
        raise ValueError(
            "this networkx graph does not say which model's graph its edges are from; "
            "pass architecture=Graph(...)"
        )
    if not graph.is_directed():
        raise ValueError("this networkx graph has no directions; a DiGraph would be right")
    stated = {key: _stated(graph, key) for key in ("graph", "provenance") if key in graph.graph}
    architecture = architecture or graph_of(stated["graph"])
    rows = []
    for source, end, values in graph.edges(data=True):
        where, reader = f"the edge {_short(source)}->{_short(end)}", values.get("reader")
        if not isinstance(reader, str) or node_of(reader) != end:
            raise ValueError(
                f"{where} has the reader {shown(reader)}; one of {_short(end)} would be right"
            )
        rows.append((where, str(source), reader, values.get("score")))
    return from_rows(architecture, rows, stated.get("provenance", {}))


def _short(node: object) -> str:
    return str(node)[:40]


def _stated(graph: nx.Graph, key: str) -> dict[str, object]:
    """An attribute of the whole graph, JSON text that holds an object.

    Raises:
        ValueError: if it does not.
    """
    try:
        content = parse_json(str(graph.graph[key]))
    except ValueError as error:
        raise ValueError(f"the attribute {key!r} of the graph is no JSON: {error}") from None
    if not isinstance(content, dict):
        raise ValueError(f"the attribute {key!r} of the graph is {shown(content)}, no JSON object")
    return content
