"""A graph of features, made by hand: sums, influence, pruning, files."""

import json
from dataclasses import replace

import networkx as nx
import pytest
import torch

from circuits.features import FeatureGraph, load_graph, prune, save_graph
from circuits.features.circuit_picture import picture_graph
from circuits.features.formats import SAVED
from circuits.features.graph import Nodes
from circuits.features.influence import with_influence
from circuits.features.sparse import SparseRows


def by_hand() -> FeatureGraph:
    """Features 0 and 1, one error, one embedding, one logit of probability one half.

    Feature 0 reads the embedding (3) and the error (1), feature 1 feature 0 (-2); the logit reads
    feature 1 (1), feature 0 (2) and the embedding (1).
    """
    nodes = Nodes(
        kinds=torch.tensor([0, 0, 1, 2, 3], dtype=torch.int8),
        layers=torch.tensor([0, 1, 0, -1, 2]),
        positions=torch.tensor([0, 0, 0, 0, 0]),
        indices=torch.tensor([7, 5, -1, 9, 4]),
        values=torch.tensor([4.0, 1.0, 2.0, 1.0, 3.0]),
        weights=torch.tensor([0, 0, 0, 0, 0.5], dtype=torch.float64),
        influences=torch.zeros(5),
    )
    graph = FeatureGraph(
        tokens=torch.tensor([9]),
        nodes=nodes,
        targets=torch.tensor([0, 0, 1, 4, 4, 4]),
        sources=torch.tensor([2, 3, 0, 0, 1, 3]),
        weights=torch.tensor([1.0, 3.0, -2.0, 2.0, 1.0, 1.0]),
        reads=torch.tensor([4.5, -2.0, 0.0, 0.0, 4.0]),
        constants=torch.tensor([0.5, 0.0, 0.0, 0.0, 0.0]),
        rests=torch.zeros(5),
        rest_sizes=torch.zeros(5),
        facts={"letter": "f", "texts": ["a"]},
    )
    return with_influence(graph)


def test_influence_and_scores_are_those_of_the_paths():
    graph = by_hand()
    # logit: half from feature 0, a quarter from feature 1 (which is all of 0), a quarter embedded
    torch.testing.assert_close(graph.nodes.influences, torch.tensor([3, 1, 0.75, 3.25, 0]) / 8)
    assert graph.replacement == pytest.approx(3.25 / 4)
    # only feature 0 reads an error, a quarter of it; weights 3/8, 1/8, 3/32, 13/32 and 1/2
    assert graph.completeness == pytest.approx(1 - (3 / 8) / 4 / (12 / 8))


def test_what_is_pruned_goes_to_the_rest():
    graph = by_hand()
    pruned = prune(graph, nodes=0.6, edges=1.0)  # embedding and feature 0 hold 6.25 of 8
    assert pruned.names == ("m0.f7@0", "embed@0", "logit.4@0")
    assert (pruned.of("m0.f7@0", "logit.4@0"), pruned.of("logit.4@0", "embed@0")) == (2.0, 0.0)
    assert pruned.rests.tolist() == [1.0, 0.0, 1.0]
    torch.testing.assert_close(pruned.incoming(), torch.tensor([4.5, 0, 4.0]))
    assert prune(graph, nodes=1.0, edges=1.0).names == graph.names


def test_features_that_lead_nowhere_fall_one_after_the_other():
    graph = by_hand()
    cut = replace(graph, weights=torch.tensor([1.0, 3, -2, 0, 0, 1]))  # the logit reads embeddings
    assert prune(with_influence(cut), nodes=1.0, edges=1.0).names == ("embed@0", "logit.4@0")


def test_shares_to_keep_are_shares():
    with pytest.raises(ValueError, match=r"in nodes is in \(0, 1\], got 80"):
        prune(by_hand(), nodes=80)


def test_rows_keep_their_largest_weights_and_one_rest():
    weights = torch.tensor([[3.0, 0, -6, 1], [0, 0, 0, 0]])
    rows = SparseRows(keep=0.9)
    rows.add(torch.tensor([1, 0]), weights)
    targets, sources, kept = rows.edges()
    assert (targets.tolist(), sources.tolist(), kept.tolist()) == ([1, 1], [0, 2], [3.0, -6.0])
    assert [x.tolist() for x in rows.rests()] == [[1.0, 0.0], [1.0, 0.0]]


def test_a_graph_survives_its_file(tmp_path):
    graph = by_hand()
    graph.save(tmp_path / "g.safetensors")
    again = load_graph(tmp_path / "g.safetensors")
    assert (again.names, again.facts, again.top(1)) == (graph.names, graph.facts, graph.top(1))
    torch.testing.assert_close(again.incoming(), graph.incoming(), rtol=0, atol=0)


def test_altered_and_foreign_files_are_refused(tmp_path):
    path = tmp_path / "g.safetensors"
    by_hand().save(path)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match="its checksum does not fit"):
        load_graph(path)
    replace(by_hand(), sources=torch.tensor([2, 3, 0, 0, 1, 33])).save(path)
    with pytest.raises(ValueError, match="an edge ends at node 33; it has 5 nodes"):
        load_graph(path)


def test_unknown_nodes_are_named():
    with pytest.raises(ValueError, match="no node named 'm0.f8@0' in this graph of 5 nodes"):
        by_hand().index("m0.f8@0")


@pytest.mark.parametrize("suffix", [".safetensors", ".json"])
def test_a_graph_survives_either_file(tmp_path, suffix):
    graph = prune(by_hand(), nodes=0.6, edges=1.0)
    save_graph(graph, tmp_path / f"g{suffix}")
    again = load_graph(tmp_path / f"g{suffix}")
    assert (again.names, again.facts, again.top(9)) == (graph.names, graph.facts, graph.top(9))
    for name in ("tokens", "targets", "sources", "weights", "reads", "rests", "constants"):
        assert torch.equal(getattr(again, name), getattr(graph, name)), name
    assert torch.equal(again.nodes.weights, graph.nodes.weights)


def test_links_and_ids_are_those_of_circuit_tracer(tmp_path):
    save_graph(by_hand(), tmp_path / "g.json")
    content = json.loads((tmp_path / "g.json").read_text())
    ids = ["0_7_0", "1_5_0", "0_error_0", "E_9_0", "3_4_0"]
    assert [node["node_id"] for node in content["nodes"]] == ids
    assert content["links"][1] == {"source": "E_9_0", "target": "0_7_0", "weight": 3.0}
    assert [node["feature"] for node in content["nodes"]] == [35, 26, -1, 0, 4]
    assert content["nodes"][-1]["clerp"] == 'Output "4" (p=0.500)'


def test_a_foreign_file_is_read_with_errors_by_their_ids(tmp_path):
    save_graph(by_hand(), tmp_path / "g.json")
    content = json.loads((tmp_path / "g.json").read_text().replace("0_error_0", "0_0_0"))
    del content["metadata"]["facts"]
    ours = ("influence_share", "reads", "constant", "rest", "rest_size")
    content["nodes"] = [{k: v for k, v in n.items() if k not in ours} for n in content["nodes"]]
    (tmp_path / "theirs.json").write_text(json.dumps(content))
    again, graph = load_graph(tmp_path / "theirs.json"), by_hand()
    assert again.names == graph.names and again.replacement == pytest.approx(graph.replacement)
    torch.testing.assert_close(again.nodes.influences, graph.nodes.influences)
    assert again.reads.tolist() == [4.0, -2.0, 0.0, 0.0, 4.0]  # less the constant, not in theirs


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"links"', '"edges"', "lists of nodes and links would be right"),
        ('"source": "E_9_0"', '"source": "E_8_0"', "a link ends at 'E_8_0', which is no node"),
        ('"embedding"', '"bedding"', "a node is of type 'bedding'; cross layer"),
        ('"1_5_0"', '"0_7_0"', "two nodes have one id"),
        ('"ctx_idx": 0', '"ctx_idx": 4', "a node lies outside the prompt's 1 positions"),
        ('"ctx_idx": 0', '"ctx": 0', "no attribution graph: it lacks 'ctx_idx'"),
    ],
)
def test_broken_json_is_refused(tmp_path, old, new, message):
    save_graph(by_hand(), tmp_path / "g.json")
    (tmp_path / "g.json").write_text((tmp_path / "g.json").read_text().replace(old, new))
    with pytest.raises(ValueError, match=message):
        load_graph(tmp_path / "g.json")


def test_graphs_go_to_other_programs_with_constants_and_rests(tmp_path):
    graph = prune(by_hand(), nodes=0.6, edges=1.0)
    save_graph(graph, tmp_path / "g.csv")
    lines = (tmp_path / "g.csv").read_text().splitlines()
    assert lines[0] == "source,target,weight" and "constant,m0.f7@0,0.5" in lines
    save_graph(graph, tmp_path / "g.graphml")
    read = nx.read_graphml(tmp_path / "g.graphml")
    assert read.edges["m0.f7@0", "logit.4@0"]["weight"] == 2.0
    assert sum(w for *_, w in read.in_edges("logit.4@0", data="weight")) == 4.0
    assert read.nodes["embed@0"]["kind"] == "embedding"


@pytest.mark.parametrize("suffix", [s for s in SAVED if s not in (".pdf", ".png")])
def test_every_form_of_file_holds_the_graph(tmp_path, suffix):
    """Networks with all edges; text and pictures with what nodes are called in their rows."""
    graph, path = by_hand(), tmp_path / f"g{suffix}"
    save_graph(graph, path)
    reading = {".graphml": nx.read_graphml, ".gexf": nx.read_gexf, ".gml": nx.read_gml}
    if suffix in reading:
        again = reading[suffix](path)
        assert {*graph.names} <= {*again} and len(again.edges) >= graph.n_edges
    elif suffix not in (".safetensors", ".json", ".csv"):
        text = path.read_text()
        assert "f7" in text and "error" in text and "embed" in text


def test_a_picture_of_a_graph_says_labels_and_tokens():
    graph = by_hand()
    logits = {"logits": {"4": " Leo"}}
    graph = replace(graph, facts={**graph.facts, **logits, "labels": {"m0": {"7": "names"}}})
    picture = picture_graph(graph, title="one", width="column")
    assert {"names", " Leo", "embed"} <= {box.label for box in picture.boxes}
    assert picture.width == 3.25 and len(picture.strokes) == graph.n_edges
    assert {mark.text for mark in picture.marks} >= {"m0", "logits", "embed"}


def test_other_suffixes_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"has the suffix .safetensors, .json, .graphml, .gexf"):
        save_graph(by_hand(), tmp_path / "g.pt")
    with pytest.raises(ValueError, match=r"cannot read .* has the suffix .safetensors, .json$"):
        load_graph(tmp_path / "g.csv")
