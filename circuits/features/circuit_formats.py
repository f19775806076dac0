"""Files of feature circuits, by suffix."""

import json
from collections.abc import Mapping
from pathlib import Path

import networkx as nx

from circuits.features.circuit import METRIC, FeatureCircuit
from circuits.features.circuit_picture import picture_features
from circuits.features.forms import Save, forms_of
from patching.files.whole import write_text


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
    programs; `.svg`, `.pdf`, `.png`, `.tex` and `.tikz` are pictures.

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


CIRCUIT_FILES: Mapping[str, Save[FeatureCircuit]] = {
    ".safetensors": FeatureCircuit.save,
    ".json": _write_json,
    **forms_of(circuit_to_networkx, picture_features),
}
