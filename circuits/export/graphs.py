"""Circuits in the graph formats of networkx, both ways: GraphML, GEXF, GML, node-link JSON.

An edge into `a3.h1.q` ends at the node `a3.h1` and has the attribute `reader`, as in
`Circuit.to_networkx`. Graph and provenance travel as JSON text in attributes of the graph; GEXF has
no such place and carries them in its description.
"""

import io
import json
import re
from pathlib import Path
from xml.etree import ElementTree

import networkx as nx

from circuits.circuit import Circuit, from_networkx
from patching.graph import Graph


def to_graphml(circuit: Circuit) -> bytes:
    """GraphML, for yEd, Cytoscape and most others."""
    buffer = io.BytesIO()
    nx.write_graphml(circuit.to_networkx(), buffer)
    return buffer.getvalue()


def from_graphml(path: str | Path, graph: Graph | None = None) -> Circuit:
    """Read what `to_graphml` wrote.

    Raises:
        ValueError: if the file does not describe a circuit.
    """
    try:
        return _of(nx.read_graphml(path), graph)
    except (ElementTree.ParseError, nx.NetworkXError) as error:
        raise ValueError(f"not a whole GraphML file: {error}") from None


def to_gexf(circuit: Circuit) -> bytes:
    """GEXF, for Gephi; without the day it was written, so that equal circuits make equal files."""
    found = circuit.to_networkx()
    buffer = io.BytesIO()
    nx.write_gexf(found, buffer)
    text = re.sub(r' lastmodifieddate="[^"]*"', "", buffer.getvalue().decode())
    description = ElementTree.Element("description")
    description.text = json.dumps(found.graph)
    said = ElementTree.tostring(description, encoding="unicode")
    return text.replace("</creator>", f"</creator>{said}", 1).encode()


def from_gexf(path: str | Path, graph: Graph | None = None) -> Circuit:
    """Read what `to_gexf` wrote; `graph` is for files that other programs have saved since.

    Raises:
        ValueError: if the file does not describe a circuit.
    """
    try:
        found = nx.read_gexf(path)
        said = ElementTree.parse(path).findtext(".//{*}meta/{*}description") or "{}"
    except (ElementTree.ParseError, nx.NetworkXError) as error:
        raise ValueError(f"not a whole GEXF file: {error}") from None
    try:
        found.graph |= {key: str(value) for key, value in json.loads(said).items()}
    except (ValueError, AttributeError):  # another program's description
        found.graph.pop("graph", None)
    return _of(found, graph)


def to_gml(circuit: Circuit) -> bytes:
    """GML, for igraph and older tools."""
    return "\n".join([*nx.generate_gml(circuit.to_networkx()), ""]).encode("ascii")


def from_gml(path: str | Path, graph: Graph | None = None) -> Circuit:
    """Read what `to_gml` wrote.

    Raises:
        ValueError: if the file does not describe a circuit.
    """
    try:
        return _of(nx.parse_gml(Path(path).read_text(encoding="ascii")), graph)
    except nx.NetworkXError as error:
        raise ValueError(f"not a whole GML file: {error}") from None


def to_node_link(circuit: Circuit) -> bytes:
    """Node-link JSON, for D3 and `networkx.node_link_graph(content, edges="edges")`."""
    found = circuit.to_networkx()
    content = {
        "directed": True,
        "multigraph": True,
        "graph": found.graph,
        "nodes": [{"id": name, **values} for name, values in found.nodes(data=True)],
        "edges": [
            {"source": source, "target": end, "key": key, **values}
            for source, end, key, values in found.edges(keys=True, data=True)
        ],
    }
    return (json.dumps(content, indent=1) + "\n").encode()


def from_node_link(path: str | Path, graph: Graph | None = None) -> Circuit:
    """Read what `to_node_link` or networkx wrote, with its edges under "edges" or "links".

    Raises:
        ValueError: if the file does not describe a circuit.
    """
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
        rows = content["edges"] if "edges" in content else content["links"]
        found = nx.MultiDiGraph(**content.get("graph", {}))
        for row in rows:
            found.add_edge(row["source"], row["target"], row.get("key"), **_values(row))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"not node-link JSON of a circuit: {error!r}") from None
    return _of(found, graph)


def _values(row: dict[str, object]) -> dict[str, object]:
    return {key: value for key, value in row.items() if key not in ("source", "target", "key")}


def _of(found: nx.DiGraph, graph: Graph | None) -> Circuit:
    """The circuit; a given graph must be the one the file names, if it names one.

    Raises:
        ValueError: if it is another, or neither is there.
    """
    named = "graph" in found.graph
    circuit = from_networkx(found, None if named else graph)
    if graph is not None and circuit.graph != graph:
        raise ValueError(
            f"the file is of another graph ({circuit.graph.describe()}) than {graph.describe()}"
        )
    return circuit
