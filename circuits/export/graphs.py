"""Circuits in the graph formats of networkx, both ways: GraphML, GEXF, GML, node-link JSON.

An edge into `a3.h1.q` ends at the node `a3.h1` and has the attribute `reader`, as in
`Circuit.to_networkx`. Graph and provenance travel as JSON text in attributes of the graph; GEXF has
no such place and carries them in its description.
"""

import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree
from xml.parsers import expat

import networkx as nx

from circuits.circuit import Circuit
from circuits.export.networks import from_networkx
from patching.files.parsing import parse_json, read_json, shown
from patching.files.whole import read_bytes, read_text
from patching.graph import Graph

_DEEPEST = 50  # levels of a file; ours have six


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
    return _of(_parsed("GraphML", nx.read_graphml, _plain_xml(path)), graph)


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
    content = _plain_xml(path)
    found = _parsed("GEXF", nx.read_gexf, content)
    said = ElementTree.fromstring(content).findtext(".//{*}meta/{*}description") or "{}"
    try:
        stated = parse_json(said)
    except ValueError:  # another program's description
        stated = None
    found.graph.pop("graph", None)
    if isinstance(stated, dict):
        found.graph |= {key: str(value) for key, value in stated.items()}
    return _of(found, graph)


def to_gml(circuit: Circuit) -> bytes:
    """GML, for igraph and older tools."""
    return "\n".join([*nx.generate_gml(circuit.to_networkx()), ""]).encode("ascii")


def from_gml(path: str | Path, graph: Graph | None = None) -> Circuit:
    """Read what `to_gml` wrote.

    Raises:
        ValueError: if the file does not describe a circuit.
    """
    text = read_text(path).encode("ascii", "xmlcharrefreplace")
    return _of(_parsed("GML", nx.read_gml, text), graph)


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
    content = read_json(path)
    table = content if isinstance(content, dict) else {}
    rows, about = table.get("edges", table.get("links")), table.get("graph", {})
    if not isinstance(rows, list) or not isinstance(about, dict) or not table.get("directed", True):
        raise ValueError(
            "not node-link JSON of a circuit: a directed graph with its edges would be right"
        )
    found = nx.MultiDiGraph()
    found.graph |= about
    for i, row in enumerate(rows):
        ends = [row.get(end) for end in ("source", "target")] if isinstance(row, dict) else []
        if not ends or not all(isinstance(end, str) for end in ends):
            raise ValueError(
                f"not node-link JSON of a circuit: edge {i} is {shown(row)}; source and target, "
                "names of nodes, would be right"
            )
        values = {key: row[key] for key in ("reader", "score") if key in row}
        found.add_edge(*ends, **values)
    return _of(found, graph)


def _parsed(name: str, parse: Callable[[io.BytesIO], nx.Graph], content: bytes) -> nx.Graph:
    """What networkx makes of a file.

    Raises:
        ValueError: if it cannot.
    """
    try:
        return parse(io.BytesIO(content))
    except Exception as error:  # many kinds, by what is damaged: said in one line
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise ValueError(f"not a whole {name} file: {reason[:200]}") from None


def _plain_xml(path: str | Path) -> bytes:
    """An XML file that defines no entities, which could stand for gigabytes, and is not deep.

    Raises:
        ValueError: if it does, or is no XML.
    """
    content, depth = read_bytes(path), 0

    def refuse(*_: object) -> None:
        raise ValueError("it has a document type, which could define entities; leave it out")

    def enter(*_: object) -> None:
        nonlocal depth
        depth += 1
        if depth > _DEEPEST:
            raise ValueError("it is nested too deeply")

    def leave(_: str) -> None:
        nonlocal depth
        depth -= 1

    parser = expat.ParserCreate()
    parser.StartDoctypeDeclHandler = refuse
    parser.StartElementHandler, parser.EndElementHandler = enter, leave
    try:
        parser.Parse(content, True)
    except (expat.ExpatError, ValueError, LookupError) as error:
        raise ValueError(f"not a whole XML file: {error}") from None
    return content


def _of(found: nx.Graph, graph: Graph | None) -> Circuit:
    """The circuit; a given graph must be the one the file names, if it names one.

    Raises:
        ValueError: if it is another, or neither is there.
    """
    named = "graph" in found.graph
    circuit = from_networkx(found, None if named else graph)
    if graph is not None:
        graph.require_same(circuit.graph, "the file is")
    return circuit
