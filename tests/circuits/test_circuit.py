import io
import itertools
import json

import networkx as nx
import pytest
import torch

from circuits.circuit import Circuit, load_circuit
from circuits.explorer import explore
from circuits.export.networks import from_networkx
from circuits.select import random_circuit
from patching.graph import Graph

GRAPHS = [Graph(1, 1, 1), Graph(2, 3, 3), Graph(3, 4, 2), Graph(2, 2, 1, parallel=True)]
SMALL = Graph(n_layers=1, n_heads=1, n_kv_heads=1)
EDGES = [("embed", "a0.h0.k"), ("embed", "m0"), ("a0.h0", "logits")]


def scored(graph: Graph, n: int, seed: int = 0) -> Circuit:
    mask = random_circuit(graph, n, seed).mask
    noise = torch.randn(mask.shape, generator=torch.Generator().manual_seed(seed))
    return Circuit(mask, graph, noise.double() * graph.exists, {"task": 'a "quoted" <name> & ü'})


def some_circuits(graph: Graph) -> list[Circuit]:
    sizes = [0, 1, graph.n_edges // 3, graph.n_edges // 2, graph.n_edges]
    return [random_circuit(graph, n, seed) for seed, n in enumerate(sizes)]


def assert_same(a: Circuit, b: Circuit) -> None:
    assert a == b
    assert a.scored_edges() == b.scored_edges()
    assert dict(a.provenance) == dict(b.provenance)


def write(path, **changes):
    content = {"version": 1, "graph": SMALL.to_dict(), "edges": [["embed", "m0", 0.5]]}
    path.write_text(json.dumps({**content, **changes}))
    return path


def test_a_circuit_from_names_has_these_edges_and_nodes():
    circuit = Circuit.from_edges(SMALL, reversed(EDGES))
    assert circuit.edges == EDGES
    assert circuit.nodes == ["embed", "a0.h0", "m0", "logits"]
    assert circuit.size == len(circuit) == 3
    assert ("embed", "m0") in circuit
    assert ("m0", "logits") not in circuit
    assert repr(circuit) == (
        "Circuit(3 of 8 edges; 1 sequential layers, 1 heads, 1 key-value heads)"
    )


def test_nodes_come_in_the_order_of_the_forward_pass():
    graph = Graph(2, 4, 2)
    edges = [("a1.h3", "logits"), ("m0", "a1.g1.k"), ("embed", "a1.h0.q"), ("a0.h2", "m0")]
    expected = ["embed", "a0.h2", "m0", "a1.h3", "a1.h0", "a1.g1", "logits"]
    found = Circuit.from_edges(graph, edges).nodes
    assert set(found) == set(expected)
    assert [found.index(n) for n in ("embed", "a0.h2", "m0")] == [0, 1, 2]
    assert found[-1] == "logits"


def test_scores_outside_the_circuit_are_dropped():
    mask = Circuit.from_edges(SMALL, EDGES[:1]).mask
    circuit = Circuit(mask, SMALL, SMALL.exists.double())
    assert circuit.scored_edges() == [("embed", "a0.h0.k", 1.0)]
    assert circuit.scores is not None and float(circuit.scores.sum()) == 1


def test_edges_the_graph_does_not_have_are_refused_by_name():
    mask = torch.zeros_like(SMALL.exists)
    mask[SMALL.source_index("m0"), SMALL.dest_index("a0.h0.q")] = True
    with pytest.raises(ValueError, match="no edge m0->a0.h0.q: m0 writes .* only after"):
        Circuit(mask, SMALL)
    with pytest.raises(ValueError, match="no edge m0->a0.h0.q"):
        Circuit.from_edges(SMALL, [("m0", "a0.h0.q")])
    with pytest.raises(ValueError, match="no source named 'm7'"):
        Circuit.from_edges(SMALL, [("m7", "logits")])
    with pytest.raises(ValueError, match="no destination named 'm7'"):
        assert ("embed", "m7") not in Circuit.full(SMALL)


def test_masks_of_another_shape_or_dtype_are_refused():
    with pytest.raises(ValueError, match=r"of shape \(3, 5\); got torch.bool .* \(7, 15\)"):
        Circuit(Graph(2, 2, 2).exists[:8, :15].clone(), SMALL)


def test_scores_that_do_not_fit_are_refused():
    mask = SMALL.exists.clone()
    with pytest.raises(ValueError, match="scores are float64"):
        Circuit(mask, SMALL, mask.float())
    with pytest.raises(ValueError, match="8 edges have a score that is NaN"):
        Circuit(mask, SMALL, mask.double().masked_fill(mask, torch.nan))


@pytest.mark.parametrize("graph", GRAPHS)
def test_the_laws_of_sets_hold(graph):
    full, empty = Circuit.full(graph), Circuit.empty(graph)
    for a, b, c in itertools.product(some_circuits(graph), repeat=3):
        assert a | b == b | a and a & b == b & a
        assert a | (b | c) == (a | b) | c and a & (b & c) == (a & b) & c
        assert a & (b | c) == (a & b) | (a & c)
        assert a | (a & b) == a and a & (a | b) == a
    for a, b in itertools.product(some_circuits(graph), repeat=2):
        assert ~(a | b) == ~a & ~b and ~(a & b) == ~a | ~b
        assert a - b == a & ~b
        assert (a <= b) == (a & b == a) == (a | b == b)
        assert (a < b) == (a <= b and a != b)
        assert len(a | b) + len(a & b) == len(a) + len(b)
        assert set((a - b).edges) == set(a.edges) - set(b.edges)
    for a in some_circuits(graph):
        assert ~~a == a and a | ~a == full and a & ~a == empty
        assert empty <= a <= full
        assert hash(a) == hash(a | empty)


def test_circuits_of_different_graphs_are_unequal_and_do_not_mix():
    a, b = Circuit.full(GRAPHS[2]), Circuit.full(Graph(3, 4, 4))
    assert a != b
    assert a != "a circuit"
    for operation in ("__or__", "__and__", "__sub__", "__le__", "__lt__"):
        with pytest.raises(ValueError, match="are of different graphs: 3 .* and 3 "):
            getattr(a, operation)(b)


def test_differences_and_intersections_keep_the_scores_of_the_left():
    left, right = scored(GRAPHS[1], 20), scored(GRAPHS[1], 30, seed=1)
    for result in (left & right, left - right):
        assert set(result.scored_edges()) <= set(left.scored_edges())
    assert (left - right).provenance["operation"] == "-"
    assert (~left).scores is None


def test_a_union_has_scores_only_where_both_sides_agree():
    whole = scored(GRAPHS[1], 40)
    part = random_circuit(GRAPHS[1], 25, seed=5)
    assert_scores = (whole & part) | (whole - part)
    assert assert_scores.scored_edges() == whole.scored_edges()
    other = Circuit(whole.mask, GRAPHS[1], whole.mask.double())
    assert (whole | other).scores is None
    assert (whole | part).scores is None


@pytest.mark.parametrize("graph", GRAPHS)
def test_saving_and_loading_gives_the_same_circuit(graph, tmp_path):
    path = tmp_path / "new folder" / "circuit.json"
    for circuit in [*some_circuits(graph), scored(graph, graph.n_edges // 2)]:
        circuit.save(path)
        assert_same(load_circuit(path), circuit)


def test_a_saved_circuit_has_one_edge_a_line(tmp_path):
    Circuit.from_edges(SMALL, EDGES).save(tmp_path / "c.json")
    text = (tmp_path / "c.json").read_text()
    assert '  ["embed", "m0", null],\n' in text
    assert json.loads(text)["version"] == 1


def test_a_file_cut_short_is_refused(tmp_path):
    path = tmp_path / "c.json"
    scored(SMALL, 3).save(path)
    whole = path.read_text()
    for length in range(0, len(whole) - 2, 11):
        path.write_text(whole[:length])
        with pytest.raises(ValueError, match="c.json is not a whole JSON file"):
            load_circuit(path)


@pytest.mark.parametrize("content", [[], {"version": 1}, {"edges": "all"}])
def test_another_kind_of_json_file_is_refused(content, tmp_path):
    (tmp_path / "c.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match="is no circuit: it should hold version, graph and edges"):
        load_circuit(tmp_path / "c.json")


def test_a_later_version_of_the_format_is_refused(tmp_path):
    with pytest.raises(ValueError, match="has version 3 .* reads versions 1 and 2"):
        load_circuit(write(tmp_path / "c.json", version=3))


@pytest.mark.parametrize(
    "graph", [None, {}, {"n_layers": "two", "n_heads": 2, "n_kv_heads": 2}, "Graph(1, 1, 1)"]
)
def test_a_file_without_a_graph_is_refused(graph, tmp_path):
    with pytest.raises(ValueError, match="description of (a|the) graph"):
        load_circuit(write(tmp_path / "c.json", graph=graph))


def test_a_graph_that_was_altered_is_refused(tmp_path):
    graph = {**SMALL.to_dict(), "n_layers": 2}
    with pytest.raises(ValueError, match="the graph's fingerprint is .*, the file says"):
        load_circuit(write(tmp_path / "c.json", graph=graph))


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (["m9", "logits", 1.0], "row 1 of .*: no source named 'm9'"),
        (["embed", "a0.h0.z", 1.0], "row 1 of .*: no destination named 'a0.h0.z'"),
        (["m0", "a0.h0.q", 1.0], "row 1 of .*: no edge m0->a0.h0.q"),
        (["embed", "m0", 1.0], "row 1 of .*: the edge embed->m0 was there before"),
        (["m0", "logits", None], "row 1 of .*: either all edges have a score or none has"),
        (["m0", "logits"], "row 1 of .* is .*; .source, destination, score or null. would be"),
        (["m0", "logits", "high"], 'row 1 of .* is ."m0", "logits", "high".; '),
        (["m0", "logits", True], "row 1 of .* would be right"),
        (["m0", 4, 1.0], "row 1 of .* would be right"),
        ("m0->logits", 'row 1 of .* is "m0->logits"; .* would be right'),
        (["m0", "logits", float("nan")], "not a whole JSON file: it holds NaN; numbers"),
    ],
)
def test_rows_that_are_wrong_are_named(row, message, tmp_path):
    path = write(tmp_path / "c.json", edges=[["embed", "m0", 0.5], row])
    with pytest.raises(ValueError, match=message):
        load_circuit(path)


def test_whole_numbers_are_scores_too(tmp_path):
    path = write(tmp_path / "c.json", edges=[["embed", "m0", 2], ["m0", "logits", -1]])
    assert load_circuit(path).scored_edges() == [("embed", "m0", 2.0), ("m0", "logits", -1.0)]


def test_provenance_that_is_not_json_is_refused(tmp_path):
    circuit = Circuit(SMALL.exists.clone(), SMALL, None, {"tensor": torch.zeros(1)})
    with pytest.raises(ValueError, match="the provenance does not fit into JSON"):
        circuit.save(tmp_path / "c.json")


def test_the_networkx_graph_by_hand():
    graph = Graph(2, 2, 1)
    mask = Circuit.from_edges(
        graph, [("embed", "a0.h1.q"), ("m0", "a1.g0.k"), ("m0", "a1.g0.v"), ("a0.h1", "logits")]
    ).mask
    found = Circuit(mask, graph, mask.double() * 0.5).to_networkx()
    assert dict(found.nodes(data=True)) == {
        "embed": {"kind": "embed", "layer": -1},
        "a0.h1": {"kind": "head", "layer": 0},
        "m0": {"kind": "mlp", "layer": 0},
        "a1.g0": {"kind": "group", "layer": 1},
        "logits": {"kind": "logits", "layer": 2},
    }
    assert sorted(found.edges(keys=True)) == [
        ("a0.h1", "logits", "a0.h1->logits"),
        ("embed", "a0.h1", "embed->a0.h1.q"),
        ("m0", "a1.g0", "m0->a1.g0.k"),
        ("m0", "a1.g0", "m0->a1.g0.v"),
    ]
    assert found.edges["m0", "a1.g0", "m0->a1.g0.v"] == {"reader": "a1.g0.v", "score": 0.5}


@pytest.mark.parametrize("graph", GRAPHS)
def test_networkx_and_back_gives_the_same_circuit(graph):
    for circuit in [*some_circuits(graph), scored(graph, graph.n_edges // 2)]:
        assert_same(from_networkx(circuit.to_networkx()), circuit)


@pytest.mark.parametrize("graph", GRAPHS)
def test_every_writer_of_networkx_takes_the_graph_and_gives_it_back(graph):
    for circuit in [scored(graph, graph.n_edges // 2), random_circuit(graph, 3, 0)]:
        ours = circuit.to_networkx()
        for write_to, read_from in [
            (nx.write_graphml, nx.read_graphml),
            (nx.write_gml, nx.read_gml),
        ]:
            buffer = io.BytesIO()
            write_to(ours, buffer)
            buffer.seek(0)
            assert_same(from_networkx(read_from(buffer)), circuit)
        linked = nx.node_link_data(ours, edges="edges")
        back = nx.node_link_graph(json.loads(json.dumps(linked)), edges="edges")
        assert_same(from_networkx(back), circuit)


def test_gexf_needs_to_be_told_the_graph():
    circuit = scored(SMALL, 4)
    buffer = io.BytesIO()
    nx.write_gexf(circuit.to_networkx(), buffer)
    buffer.seek(0)
    read = nx.read_gexf(buffer)
    assert from_networkx(read, SMALL).scored_edges() == circuit.scored_edges()
    with pytest.raises(ValueError, match="does not say .*; pass architecture=Graph"):
        from_networkx(read)


def test_a_networkx_edge_that_ends_elsewhere_than_its_reader_is_refused():
    graph = Circuit.from_edges(SMALL, EDGES).to_networkx()
    graph.add_edge("embed", "m0", reader="a0.h0.v")
    with pytest.raises(ValueError, match="embed->m0 has the reader 'a0.h0.v'; one of m0 would be"):
        from_networkx(graph)
    with pytest.raises(ValueError, match="has the reader None"):
        from_networkx(nx.MultiDiGraph([("embed", "m0")]), SMALL)
    graph = Circuit.from_edges(SMALL, EDGES).to_networkx()
    graph.add_edge("m0", "a0.h0", reader="a0.h0.v")
    with pytest.raises(ValueError, match="the edge m0->a0.h0: no edge m0->a0.h0.v"):
        from_networkx(graph)


def test_a_circuit_shows_itself_as_a_page():
    circuit = Circuit.from_edges(Graph(1, 1, 1), [("embed", "m0"), ("m0", "logits")])
    assert "iframe" in explore(circuit)._repr_mimebundle_()["text/html"]
