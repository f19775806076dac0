"""Labels of features in graphs: there and back, in both files, and in circuit-tracer's."""

import json

import pytest

from circuits.features import Convention, labelled, labels_of, load_graph, save_graph, trace
from patching.dictionaries import Labels
from patching.model import Model


@pytest.fixture(scope="module")
def graph():
    few = Convention(most=30)
    return trace(
        Model.load("toy-llama"), [1, 5, 6], "neurons", logits=1, convention=few, validity=0
    )


@pytest.fixture(scope="module")
def feature(graph):
    name = next(name for name in graph.names if ".n" in name)
    return name.partition(".")[0], int(name.partition(".n")[2].partition("@")[0])


@pytest.mark.parametrize("suffix", [".safetensors", ".json"])
def test_labels_of_its_features_go_with_a_graph(graph, feature, tmp_path, suffix):
    labels = Labels({feature: "names", ("m3", 10**6): "not in this graph"})
    named = labelled(graph, labels)
    assert labels_of(named) == Labels({feature: "names"}) and not labels_of(graph)
    save_graph(named, tmp_path / f"g{suffix}")
    assert labels_of(load_graph(tmp_path / f"g{suffix}")) == labels_of(named)
    before_a_norm = Labels({(f"{feature[0]}.out", feature[1]): "other"})
    assert labels_of(labelled(named, before_a_norm)) == Labels({feature: "other"})


def test_a_clerp_is_a_label_whoever_wrote_it(graph, feature, tmp_path):
    path = tmp_path / "g.json"
    save_graph(labelled(graph, Labels({feature: "names"})), path)
    content = json.loads(path.read_text())
    named = [node for node in content["nodes"] if node["clerp"] == "names"]
    assert named and all(node["node_id"].startswith(f"{feature[0][1:]}_") for node in named)
    named[0]["clerp"] = "first names"
    path.write_text(json.dumps(content))
    assert labels_of(load_graph(path)) == Labels({feature: "first names"})
    named[0]["clerp"] = 2001 * "x"
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"a node is called .*; 2,000 letters at most are read"):
        load_graph(path)
