"""Circuits as text for other tools: Graphviz DOT, and CSV both ways."""

import csv
import io
from pathlib import Path

import torch

from circuits.circuit import Circuit
from circuits.naming import kind_of, nodes_of, plain_name
from patching.files.parsing import number, read_table, shown
from patching.graph import Graph

_SHAPES = {"embed": "box", "logits": "box", "head": "ellipse", "group": "ellipse", "mlp": "box"}


def to_dot(circuit: Circuit) -> bytes:
    """Graphviz DOT, drawn upwards; an edge's label is the input it goes into and its score."""
    lines = ["digraph circuit {", "  rankdir=BT;"]
    lines += [f"  {_quoted(name)} [shape={_SHAPES[kind_of(name)]}];" for name in circuit.nodes]
    for source, dest, score in circuit.scored_edges():
        start, end = nodes_of(source, dest)
        letter = plain_name(dest)[-1] if end != dest else ""
        label = " ".join(part for part in (letter, "" if score is None else f"{score:.3g}") if part)
        attributes = f"label={_quoted(label)}, reader={_quoted(dest)}"
        attributes += "" if score is None else f", score={_quoted(repr(score))}"
        lines.append(f"  {_quoted(start)} -> {_quoted(end)} [{attributes}];")
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


def from_csv(path: str | Path, graph: Graph | None) -> Circuit:
    """Read a table with the columns source, dest and, perhaps, score; others are ignored.

    Raises:
        ValueError: if no graph is given, a column or a value is missing, or a row names an edge
            that the graph does not have, or that was there before.
    """
    if graph is None:
        raise ValueError(
            "a table of edges does not say which model's graph they are from; pass "
            "graph=model.graph"
        )
    columns, rows = read_table(path)
    if rows and not {"source", "dest"} <= set(columns):
        raise ValueError(
            f"the columns are {', '.join(columns)[:99]}; source, dest and score would be right"
        )
    mask, scores = torch.zeros_like(graph.exists), graph.exists.double() * 0
    given = [row.get("score") or "" for row in rows]
    if len({score == "" for score in given}) > 1:
        raise ValueError(f"row {given.index('') + 1} has no score, and others have one")
    for place, (row, score) in enumerate(zip(rows, given, strict=True), 1):
        try:
            edge = graph.edge_index(row["source"] or "", row["dest"] or "")
            scores[edge] = _score(score)
        except ValueError as error:
            raise ValueError(f"row {place}: {error}") from None
        if mask[edge]:
            raise ValueError(f"row {place}: {row['source']}->{row['dest']} was there before")
        mask[edge] = True
    return Circuit(mask, graph, scores if any(given) else None)


def _score(cell: str) -> float:
    try:
        value = float(cell or 0.0)
    except ValueError:
        raise ValueError(f"a score is a number, got {shown(cell)}") from None
    return number(value)


def _quoted(text: str) -> str:
    """A string of the DOT language: inside quotes, a quote is escaped, and so is a backslash."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'
