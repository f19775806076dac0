"""Circuits as text for other tools: GraphML, GEXF, Graphviz DOT, CSV."""

import csv
import io
import re

import networkx as nx

from circuits.circuit import Circuit, kind_of, node_of

_SHAPES = {"embed": "box", "logits": "box", "head": "ellipse", "group": "ellipse", "mlp": "box"}


def to_graphml(circuit: Circuit) -> bytes:
    """GraphML, which keeps graph and provenance: `from_networkx(nx.read_graphml(path))`."""
    buffer = io.BytesIO()
    nx.write_graphml(circuit.to_networkx(), buffer)
    return buffer.getvalue()


def to_gexf(circuit: Circuit) -> bytes:
    """GEXF for Gephi, without the day it was written; it has no place for graph and provenance."""
    buffer = io.BytesIO()
    nx.write_gexf(circuit.to_networkx(), buffer)
    return re.sub(rb' lastmodifieddate="[^"]*"', b"", buffer.getvalue())


def to_dot(circuit: Circuit) -> bytes:
    """Graphviz DOT, drawn upwards; an edge's label is the input it goes into and its score."""
    lines = ["digraph circuit {", "  rankdir=BT;"]
    lines += [f"  {_quoted(name)} [shape={_SHAPES[kind_of(name)]}];" for name in circuit.nodes]
    for source, dest, score in circuit.scored_edges():
        letter = dest[-1] if node_of(dest) != dest else ""
        label = " ".join(part for part in (letter, "" if score is None else f"{score:.3g}") if part)
        attributes = f"label={_quoted(label)}, reader={_quoted(dest)}"
        attributes += "" if score is None else f", score={_quoted(repr(score))}"
        lines.append(f"  {_quoted(source)} -> {_quoted(node_of(dest))} [{attributes}];")
    return "\n".join([*lines, "}", ""]).encode()


def to_csv(circuit: Circuit) -> bytes:
    """A table with the columns source, dest and score; the score is empty where there is none."""
    buffer = io.StringIO()
    table = csv.writer(buffer, lineterminator="\n")
    table.writerow(["source", "dest", "score"])
    table.writerows(
        [source, dest, "" if score is None else repr(score)]
        for source, dest, score in circuit.scored_edges()
    )
    return buffer.getvalue().encode()


def _quoted(text: str) -> str:
    """A string of the DOT language: inside quotes, a quote is escaped, and so is a backslash."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'
