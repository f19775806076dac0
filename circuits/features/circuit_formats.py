"""Files of feature circuits, by suffix."""

import csv
import io
import json
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import networkx as nx

from circuits.features.circuit import METRIC, FeatureCircuit
from circuits.features.circuit_picture import draw_feature_circuit
from patching.files.whole import write_bytes, write_text

Save = Callable[[FeatureCircuit, Path], None]


def circuit_to_networkx(circuit: FeatureCircuit) -> nx.DiGraph:
    """The circuit with names as in `names`, and a node `metric` where all edges end."""
    made = nx.DiGraph(errors=circuit.errors, metric=str(circuit.provenance.get("metric", METRIC)))
    nodes, effects = circuit.nodes, circuit.effects.tolist()
    columns = (nodes.sites, nodes.positions, nodes.features)
    rows = zip(*(column.tolist() for column in columns), strict=True)
    for name, (site, position, feature), effect in zip(circuit.names, rows, effects, strict=True):
        place = nodes.places[site]
        kind = "error" if feature < 0 else "neuron" if nodes.letters[site] == "n" else "feature"
        made.add_node(
            name, kind=kind, place=place, position=position, feature=feature, effect=effect
        )
    if any(target == METRIC for _, target, _ in circuit.edges):
        made.add_node(METRIC, kind=METRIC, place=METRIC, position=-1, feature=-1, effect=0.0)
    for source, target, weight in circuit.edges:
        made.add_edge(source, target, weight=weight)
    return made


def save_feature_circuit(circuit: FeatureCircuit, path: str | Path) -> None:
    """Write a circuit in the form that the suffix names.

    `.safetensors` keeps everything, under a checksum, and is what `load_feature_circuit` reads.
    `.json` (node-link), `.graphml`, `.gexf`, `.gml`, `.csv` (edges) and `.dot` are for other
    programs; `.svg`, `.pdf` and `.png` are pictures.

    Raises:
        ValueError: if the suffix is none of these, or a circuit without nodes is to be drawn.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in CIRCUIT_FILES:
        raise ValueError(
            f"cannot write '{path}': a feature circuit has the suffix {', '.join(CIRCUIT_FILES)}"
        )
    CIRCUIT_FILES[suffix](circuit, Path(path))


def _write_json(circuit: FeatureCircuit, path: Path) -> None:
    content = nx.node_link_data(circuit_to_networkx(circuit), edges="links")
    write_text(path, json.dumps(content, indent=1))


def _write_csv(circuit: FeatureCircuit, path: Path) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("source", "target", "weight"))
    writer.writerows((source, target, repr(weight)) for source, target, weight in circuit.edges)
    write_text(path, text.getvalue())


def _write_dot(circuit: FeatureCircuit, path: Path) -> None:
    nodes = [f'  "{name}";' for name in circuit.names]
    edges = [
        f'  "{source}" -> "{target}" [weight={abs(weight):.6g}, label="{weight:+.3g}"];'
        for source, target, weight in circuit.edges
    ]
    write_text(path, "\n".join(["digraph {", "  rankdir=BT;", *nodes, *edges, "}", ""]))


def _write_graph(
    write: Callable[[nx.DiGraph, io.BytesIO], None], circuit: FeatureCircuit, path: Path
) -> None:
    buffer = io.BytesIO()
    write(circuit_to_networkx(circuit), buffer)
    write_bytes(path, buffer.getvalue())


def _write_picture(form: str, circuit: FeatureCircuit, path: Path) -> None:
    buffer = io.BytesIO()
    metadata = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(form)
    draw_feature_circuit(circuit).savefig(buffer, format=form, dpi=200, metadata=metadata)
    write_bytes(path, buffer.getvalue())


CIRCUIT_FILES: Mapping[str, Save] = {
    ".safetensors": FeatureCircuit.save,
    ".json": _write_json,
    ".graphml": partial(_write_graph, nx.write_graphml),
    ".gexf": partial(_write_graph, nx.write_gexf),
    ".gml": partial(_write_graph, nx.write_gml),
    ".csv": _write_csv,
    ".dot": _write_dot,
    **{f".{form}": partial(_write_picture, form) for form in ("svg", "pdf", "png")},
}
