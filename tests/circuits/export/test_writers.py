import csv
import io
import xml.etree.ElementTree as ElementTree

import networkx as nx
import pytest
import torch

from circuits.circuit import Circuit, from_networkx, load_circuit
from circuits.export import WRITERS, save
from circuits.select import random_circuit
from patching.graph import Graph

GRAPHS = [Graph(2, 3, 3), Graph(3, 4, 2), Graph(2, 2, 1, parallel=True)]
STARTS = {".svg": b"<?xml", ".pdf": b"%PDF", ".png": b"\x89PNG", ".dot": b"digraph"}


def scored(graph: Graph, n: int = 12) -> Circuit:
    mask = random_circuit(graph, n, seed=0).mask
    noise = torch.randn(mask.shape, generator=torch.Generator().manual_seed(0)).double()
    return Circuit(mask, graph, noise * graph.exists, {"task": 'a "quoted" <task> & ü\x01'})


@pytest.mark.parametrize("suffix", WRITERS)
@pytest.mark.parametrize("graph", GRAPHS)
class TestEveryWriter:
    def test_writes_one_whole_file_and_nothing_beside_it(self, suffix, graph, tmp_path):
        save(scored(graph), tmp_path / f"circuit{suffix}")
        (path,) = tmp_path.iterdir()
        assert path.read_bytes().startswith(STARTS.get(suffix, b""))
        assert path.stat().st_size > 100

    def test_writes_equal_bytes_for_equal_circuits(self, suffix, graph):
        assert WRITERS[suffix](scored(graph)) == WRITERS[suffix](scored(graph))

    def test_takes_circuits_without_scores_and_without_edges(self, suffix, graph):
        for circuit in (random_circuit(graph, 3, seed=0), Circuit.empty(graph)):
            assert WRITERS[suffix](circuit)


def test_the_suffix_may_be_in_capitals(tmp_path):
    save(scored(GRAPHS[0]), tmp_path / "C.JSON")
    assert load_circuit(tmp_path / "C.JSON") == scored(GRAPHS[0])


@pytest.mark.parametrize("name", ["circuit.docx", "circuit", "circuit.json.gz"])
def test_an_unknown_suffix_is_refused_with_the_known_ones(name, tmp_path):
    with pytest.raises(ValueError, match=f"{name}': the name should end in .json, .svg, .*, .csv"):
        save(scored(GRAPHS[0]), tmp_path / name)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("graph", GRAPHS)
def test_json_graphml_and_gexf_are_read_back_to_the_same_circuit(graph, tmp_path):
    circuit = scored(graph)
    for suffix in (".json", ".graphml", ".gexf"):
        save(circuit, tmp_path / f"c{suffix}")
    found = [
        load_circuit(tmp_path / "c.json"),
        from_networkx(nx.read_graphml(tmp_path / "c.graphml")),
        from_networkx(nx.read_gexf(tmp_path / "c.gexf"), graph),
    ]
    for other in found:
        assert other == circuit
        assert other.scored_edges() == circuit.scored_edges()
    assert found[0].provenance == found[1].provenance == circuit.provenance


def test_gexf_is_valid_xml_without_a_date():
    content = WRITERS[".gexf"](scored(GRAPHS[0]))
    assert b"lastmodified" not in content
    assert ElementTree.fromstring(content) is not None


@pytest.mark.parametrize("graph", GRAPHS)
def test_csv_has_one_row_per_edge_with_exact_scores(graph):
    circuit = scored(graph)
    rows = list(csv.DictReader(io.StringIO(WRITERS[".csv"](circuit).decode())))
    found = [(row["source"], row["dest"], float(row["score"])) for row in rows]
    assert found == circuit.scored_edges()
    bare = WRITERS[".csv"](Circuit.from_edges(graph, [("embed", "m0")])).decode()
    assert bare == "source,dest,score\nembed,m0,\n"


def test_dot_by_hand():
    graph = Graph(1, 1, 1)
    mask = Circuit.from_edges(graph, [("embed", "a0.h0.q"), ("a0.h0", "logits")]).mask
    assert WRITERS[".dot"](Circuit(mask, graph, mask.double() / 4)).decode() == (
        "digraph circuit {\n"
        "  rankdir=BT;\n"
        '  "embed" [shape=box];\n'
        '  "a0.h0" [shape=ellipse];\n'
        '  "logits" [shape=box];\n'
        '  "embed" -> "a0.h0" [label="q 0.25", reader="a0.h0.q", score="0.25"];\n'
        '  "a0.h0" -> "logits" [label="0.25", reader="logits", score="0.25"];\n'
        "}\n"
    )
