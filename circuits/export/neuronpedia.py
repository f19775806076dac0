"""Attribution-graph JSON as Neuronpedia's and circuit-tracer's viewers read it; written only.

The schema is that of hijohnnylin/neuronpedia (apps/webapp/app/api/graph/graph-schema.json, version
1.0.0). It is made for transcoder features at single tokens of one prompt. A circuit of ours is over
heads and MLPs, summed over the tokens of many prompts, so the file cannot hold:

- which of a head's inputs (query, key, value) an edge goes into: the scores of the three are summed
- shared key-value heads: an edge into one is divided evenly among its heads in the circuit
- tokens: every node is at position 0 of a prompt that says so
- activations, influences and feature dashboards: there are none

An edge without a score has the weight 1. Graph and provenance are in `generation_settings`.
"""

import json

from circuits.circuit import Circuit, kind_of, node_of
from circuits.drawing.roles import Roles
from patching.files.parsing import provenance_json
from patching.graph import Graph
from patching.span_graph import require_whole

PROMPT = ("(all", " prompts,", " summed", " over", " positions)")
_TYPES = {"embed": "embedding", "logits": "logit", "head": "attention head", "mlp": "mlp"}


def to_neuronpedia(circuit: Circuit, roles: Roles | None = None) -> bytes:
    """The circuit as an attribution graph; roles become its supernodes.

    Raises:
        ValueError: if the provenance does not fit into JSON, or a role names a node that the graph
            does not have, or the circuit keeps spans apart.
    """
    require_whole(circuit.graph, "Neuronpedia's form")
    if roles is not None:
        roles.check(circuit.graph)
    links = _links(circuit)
    used = {name for ends in links for name in ends}
    names = [name for name in _order(circuit) if name in used]
    provenance = json.loads(provenance_json(circuit.provenance))
    model = str(provenance.get("model", "unknown"))
    content = {
        "metadata": {
            "slug": _slug(f"{provenance.get('task', 'circuit')}-{model}-{circuit.size}"),
            "scan": model,
            "prompt_tokens": list(PROMPT),
            "prompt": "".join(PROMPT),
            "info": {
                "description": "Edges between heads and MLPs; positive helps the metric in the "
                "clean run.",
                "generator": {"name": "circuit-workbench"},
            },
            "generation_settings": {"graph": circuit.graph.to_dict(), "provenance": provenance},
        },
        "qParams": {
            "pinnedIds": [_id(name, circuit) for name in names],
            "supernodes": _supernodes(circuit, names, roles),
            "linkType": "both",
            "clickedId": "",
            "sg_pos": "",
        },
        "nodes": [_node(name, circuit) for name in names],
        "links": [
            {"source": _id(source, circuit), "target": _id(dest, circuit), "weight": weight}
            for (source, dest), weight in links.items()
        ],
    }
    return (json.dumps(content, indent=1) + "\n").encode()


def _links(circuit: Circuit) -> dict[tuple[str, str], float]:
    """The weight of every pair of nodes: the sum over the inputs of the second."""
    links: dict[tuple[str, str], float] = {}
    used = {*circuit.nodes}
    heads_of = {
        reader.name: _heads(reader.name, circuit.graph, used)
        for reader in circuit.graph.destinations
    }
    for source, dest, score in circuit.scored_edges():
        heads = heads_of[dest]
        for head in heads:
            share = (1.0 if score is None else score) / len(heads)
            links[source, head] = links.get((source, head), 0.0) + share
    return links


def _heads(reader: str, graph: Graph, used: set[str]) -> list[str]:
    """The node of a reader; of a shared one its heads in the circuit, or all if none is."""
    node = node_of(reader)
    if kind_of(node) != "group":
        return [node]
    row = graph.feeds[graph.dest_index(reader)]
    heads = [graph.sources[head].name for head in row.nonzero().flatten().tolist()]
    return [head for head in heads if head in used] or heads


def _order(circuit: Circuit) -> list[str]:
    return [*(node.name for node in circuit.graph.sources), "logits"]


def _feature(name: str, circuit: Circuit) -> int:
    """A number that is unique within the layer: the head's own, and one more than all for the MLP.

    The embedding and the logits, alone in their layers, are 0.
    """
    if kind_of(name) == "head":
        return int(name.split(".h")[1])
    return circuit.graph.n_heads if kind_of(name) == "mlp" else 0


def _layer(name: str, circuit: Circuit) -> str:
    if name == "embed":
        return "E"
    layer = name[1:].split(".")[0]
    return str(circuit.graph.n_layers) if name == "logits" else layer


def _id(name: str, circuit: Circuit) -> str:
    return f"{_layer(name, circuit)}_{_feature(name, circuit)}_0"


def _node(name: str, circuit: Circuit) -> dict[str, object]:
    layer, feature = _layer(name, circuit), _feature(name, circuit)
    return {
        "node_id": _id(name, circuit),
        "feature": feature,
        "layer": layer,
        "ctx_idx": 0,
        "feature_type": _TYPES[kind_of(name)],
        "jsNodeId": f"{layer}_{feature}-0",
        "clerp": name,
    }


def _supernodes(circuit: Circuit, names: list[str], roles: Roles | None) -> list[list[str]]:
    members = {} if roles is None else roles.members
    found = [
        [role, *(_id(node, circuit) for node in nodes if node in names)]
        for role, nodes in members.items()
    ]
    return [row for row in found if len(row) > 1]


def _slug(text: str) -> str:
    """Letters, digits and hyphens only."""
    return "-".join("".join(c if c.isalnum() and c.isascii() else " " for c in text).split())
