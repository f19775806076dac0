"""Attribution-graph JSON: the documented schema, a graph by hand, and what is merged."""

import json

import pytest

from circuits.circuit import Circuit
from circuits.drawing.roles import Roles
from circuits.export.neuronpedia import to_neuronpedia
from circuits.select import random_circuit
from patching.graph import Graph

# The required fields and their types, from version 1.0.0 of Neuronpedia's schema.
METADATA = {"slug": str, "scan": str, "prompt_tokens": list, "prompt": str}
NODE = {
    "node_id": str,
    "feature": int,
    "layer": str,
    "ctx_idx": int,
    "feature_type": str,
    "jsNodeId": str,
    "clerp": str,
}
LINK = {"source": str, "target": str, "weight": float}


def small() -> Circuit:
    graph = Graph(1, 2, 2)
    edges = [("embed", "a0.h1.q"), ("embed", "a0.h1.v"), ("a0.h1", "m0"), ("m0", "logits")]
    circuit = Circuit.from_edges(graph, edges)
    scores = graph.exists.double() * 0
    for edge, score in zip(edges, (0.5, 0.25, -1.0, 2.0), strict=True):
        scores[graph.edge_index(*edge)] = score
    return Circuit(circuit.mask, graph, scores, {"model": "toy", "task": "i/o i"})


def test_a_small_graph_by_hand():
    content = json.loads(
        to_neuronpedia(small(), Roles({"r": ("a0.h1", "m0"), "absent": ["a0.h0"]}))
    )
    assert [
        (node["node_id"], node["clerp"], node["feature_type"]) for node in content["nodes"]
    ] == [
        ("E_0_0", "embed", "embedding"),
        ("0_1_0", "a0.h1", "attention head"),
        ("0_2_0", "m0", "mlp"),
        ("1_0_0", "logits", "logit"),
    ]
    assert content["links"] == [
        {"source": "E_0_0", "target": "0_1_0", "weight": 0.75},  # query and value together
        {"source": "0_1_0", "target": "0_2_0", "weight": -1.0},
        {"source": "0_2_0", "target": "1_0_0", "weight": 2.0},
    ]
    assert content["qParams"]["supernodes"] == [["r", "0_1_0", "0_2_0"]]
    assert content["metadata"]["slug"] == "i-o-i-toy-4"
    assert content["metadata"]["generation_settings"]["provenance"]["model"] == "toy"


@pytest.mark.parametrize("graph", [Graph(2, 3, 3), Graph(3, 4, 2), Graph(2, 2, 1, parallel=True)])
@pytest.mark.parametrize("n", [0, 1, 14])
def test_the_file_has_all_required_fields_and_no_dangling_link(graph, n):
    content = json.loads(to_neuronpedia(random_circuit(graph, n, seed=1)))
    assert set(content) == {"metadata", "qParams", "nodes", "links"}
    rows = [(METADATA, [content["metadata"]]), (NODE, content["nodes"]), (LINK, content["links"])]
    for fields, found in rows:
        for row in found:
            assert {key: type(row[key]) for key in fields} == fields
    ids = [node["node_id"] for node in content["nodes"]]
    assert len(set(ids)) == len(ids)
    assert {link[end] for link in content["links"] for end in ("source", "target")} == set(ids)


def test_an_edge_into_a_shared_head_is_divided_among_its_heads_in_the_circuit():
    graph = Graph(2, 4, 2)
    two = [("embed", "a1.g1.k"), ("a1.h2", "logits"), ("a1.h3", "logits")]
    weights = {
        tuple(edges): [
            (link["source"], link["target"], link["weight"])
            for link in json.loads(to_neuronpedia(Circuit.from_edges(graph, edges)))["links"]
        ]
        for edges in (two, two[:2], two[:1])
    }
    half = [("E_0_0", "1_2_0", 0.5), ("E_0_0", "1_3_0", 0.5)]
    assert weights[tuple(two)][:2] == half
    assert weights[tuple(two[:2])][0] == ("E_0_0", "1_2_0", 1.0)
    assert weights[tuple(two[:1])] == half  # no head of the group is in the circuit


def test_roles_of_another_graph_are_refused():
    with pytest.raises(ValueError, match="the role 'r' names 'a5.h0'"):
        to_neuronpedia(small(), Roles({"r": ("a5.h0",)}))
