"""EAP-IG and MIB files: by hand, there and back, shared keys and values, and what is refused."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from circuits import Circuit, Scores, random_circuit, top_n
from circuits.export import from_mib_json, from_mib_pt, to_mib_json, to_mib_pt, write_submission
from circuits.export.submission import PERCENTAGES
from patching.graph import Graph

WAYS = {".json": (to_mib_json, from_mib_json), ".pt": (to_mib_pt, from_mib_pt)}
GRAPHS = {"plain": Graph(2, 4, 4), "parallel": Graph(2, 4, 4, True), "grouped": Graph(2, 4, 2)}
ONE = Graph(1, 1, 1)
Change = Callable[[dict], object]
HAND = {
    "cfg": {"n_layers": 1, "n_heads": 1, "parallel_attn_mlp": False, "d_model": 8},
    "nodes": {name: {"in_graph": name != "m0"} for name in ("input", "a0.h0", "m0", "logits")},
    "edges": {
        "input->a0.h0<q>": {"score": 0.0, "in_graph": False},
        "input->a0.h0<k>": {"score": -0.25, "in_graph": False},
        "input->a0.h0<v>": {"score": 2.0, "in_graph": True},
        "input->m0": {"score": 0.5, "in_graph": False},
        "a0.h0->m0": {"score": 1.0, "in_graph": False},
        "input->logits": {"score": 0.0, "in_graph": False},
        "a0.h0->logits": {"score": 3.0, "in_graph": True},
        "m0->logits": {"score": 0.0, "in_graph": False},
    },
}


def scores_of(graph: Graph, seed: int = 0) -> Scores:
    generator = torch.Generator().manual_seed(seed)
    matrix = torch.randn(graph.exists.shape, generator=generator, dtype=torch.float64)
    return Scores(matrix.where(graph.exists, 0.0), graph, {"method": "by chance", "steps": 5})


def hand_file(folder: Path, change: Change = lambda content: None) -> Path:
    content = json.loads(json.dumps(HAND))
    change(content)
    path = folder / "graph.json"
    path.write_text(json.dumps(content))
    return path


def pt_file(folder: Path, change: Change = lambda content: None) -> Path:
    path = folder / "graph.pt"
    to_mib_pt(scores_of(ONE), path, d_model=8)
    content = torch.load(path, weights_only=True)
    change(content)
    torch.save(content, path)
    return path


def test_a_circuit_is_read_from_a_file_made_by_hand(tmp_path):
    circuit = from_mib_json(hand_file(tmp_path), ONE)
    assert isinstance(circuit, Circuit)
    assert circuit.scored_edges() == [("embed", "a0.h0.v", 2.0), ("a0.h0", "logits", 3.0)]
    assert circuit.provenance == {"file": "graph.json"}


def test_without_an_edge_in_the_graph_a_file_from_elsewhere_holds_scores(tmp_path):
    def drop_all(content: dict) -> None:
        for edge in content["edges"].values():
            edge["in_graph"] = False

    scores = from_mib_json(hand_file(tmp_path, drop_all), ONE)
    assert isinstance(scores, Scores)
    assert scores.of("embed", "a0.h0.k") == -0.25
    assert scores.of("a0.h0", "logits") == 3.0


def test_a_circuit_may_come_without_scores_and_without_the_edges_outside(tmp_path):
    def only_members(content: dict) -> None:
        content["edges"] = {"a0.h0->logits": {"in_graph": True}}

    circuit = from_mib_json(hand_file(tmp_path, only_members), ONE)
    assert isinstance(circuit, Circuit)
    assert circuit.scored_edges() == [("a0.h0", "logits", None)]


def test_the_file_made_by_hand_is_what_is_written(tmp_path):
    circuit = Circuit.from_edges(ONE, [("embed", "a0.h0.v"), ("a0.h0", "logits")])
    to_mib_json(circuit, tmp_path / "c.json", d_model=8)
    content = json.loads((tmp_path / "c.json").read_text())
    assert (content["cfg"], content["nodes"]) == (HAND["cfg"], HAND["nodes"])
    assert set(content["edges"]) == set(HAND["edges"])
    kept = {name for name, edge in content["edges"].items() if edge["in_graph"]}
    assert kept == {"input->a0.h0<v>", "a0.h0->logits"}


def test_the_tensor_file_names_rows_and_columns_as_eap_ig_does(tmp_path):
    content = torch.load(pt_file(tmp_path), weights_only=True)
    assert content["src_nodes"] == ["input", "a0.h0", "m0"]
    assert content["dst_nodes"] == ["a0.h0<q>", "a0.h0<k>", "a0.h0<v>", "m0", "logits"]
    assert content["edges_scores"].shape == content["edges_in_graph"].shape == (3, 5)
    assert content["nodes_in_graph"].tolist() == [False] * 3


@pytest.mark.parametrize("graph", GRAPHS.values(), ids=GRAPHS)
@pytest.mark.parametrize("suffix", WAYS)
def test_scores_and_circuits_come_back_as_they_went(graph, suffix, tmp_path):
    """Halves of shared scores add up exactly."""
    write, read = WAYS[suffix]
    scores = scores_of(graph)
    circuits = [
        random_circuit(graph, 20, seed=1),
        top_n(scores, 20, ranking="absolute"),
        Circuit.empty(graph),
    ]
    write(scores, tmp_path / f"s{suffix}", d_model=8)
    back = read(tmp_path / f"s{suffix}", graph)
    assert isinstance(back, Scores)
    assert torch.equal(back.matrix, scores.matrix)
    assert back.provenance == scores.provenance
    for circuit in circuits:
        write(circuit, tmp_path / f"c{suffix}", d_model=8)
        back = read(tmp_path / f"c{suffix}", graph)
        assert isinstance(back, Circuit)
        assert back == circuit
        assert back.scored_edges() == circuit.scored_edges()
        assert dict(back.provenance) == dict(circuit.provenance)


def test_thirds_of_shared_scores_add_up_to_rounding(tmp_path):
    graph = Graph(2, 6, 2)
    scores = scores_of(graph)
    to_mib_json(scores, tmp_path / "s.json", d_model=8)
    back = from_mib_json(tmp_path / "s.json", graph)
    assert isinstance(back, Scores)
    torch.testing.assert_close(back.matrix, scores.matrix, atol=1e-15, rtol=1e-15)


def test_a_shared_key_stands_for_one_edge_to_each_of_its_query_heads(tmp_path):
    graph = GRAPHS["grouped"]
    scores = Scores(graph.exists.double() * 3, graph, {})
    to_mib_json(scores, tmp_path / "s.json", d_model=8)
    edges = json.loads((tmp_path / "s.json").read_text())["edges"]
    assert len(edges) == graph.ungrouped.n_edges == 110
    assert [edges[f"m0->a1.h{h}<k>"]["score"] for h in range(4)] == [1.5] * 4
    assert [edges[f"m0->a1.h{h}<q>"]["score"] for h in range(4)] == [3.0] * 4
    circuit = Circuit.from_edges(graph, [("m0", "a1.g1.v")])
    to_mib_json(circuit, tmp_path / "c.json", d_model=8)
    content = json.loads((tmp_path / "c.json").read_text())
    kept = [name for name, edge in content["edges"].items() if edge["in_graph"]]
    assert kept == ["m0->a1.h2<v>", "m0->a1.h3<v>"]
    nodes = [name for name, node in content["nodes"].items() if node["in_graph"]]
    assert nodes == ["m0", "a1.h2", "a1.h3", "logits"]


def test_a_group_kept_for_one_of_its_heads_is_kept_and_counted(tmp_path):
    graph = GRAPHS["grouped"]
    wide = Circuit.from_edges(graph.ungrouped, [("m0", "a1.h2.v"), ("m0", "logits")])
    to_mib_json(wide, tmp_path / "c.json", d_model=8)
    back = from_mib_json(tmp_path / "c.json", graph)
    assert isinstance(back, Circuit)
    assert back.edges == [("m0", "a1.g1.v"), ("m0", "logits")]
    assert back.provenance["edges kept for some heads of a group"] == 1


def test_scores_where_there_is_no_edge_are_ignored_in_a_tensor_file(tmp_path):
    def score_nothing(content: dict) -> None:
        content["edges_scores"][2, 0] = torch.nan

    back = from_mib_pt(pt_file(tmp_path, score_nothing), ONE)
    assert isinstance(back, Scores)
    assert torch.equal(back.matrix, scores_of(ONE).matrix)


def with_last(row: dict) -> Change:
    return lambda content: content["edges"].update({"m0->logits": row})


def self_edge(content: dict) -> None:
    content["edges"]["a0.h0->a0.h0<q>"] = {"score": 1.0, "in_graph": True}


def node_scores(content: dict) -> None:
    content["nodes"]["m0"]["score"] = 1.0
    content["edges"] = {}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (self_edge, "graph.json has the edge 'a0.h0->a0.h0<q>'; this graph has input->a0.h0<q>"),
        (with_last({"score": "high", "in_graph": True}), "m0->logits is .*high.*a number, or"),
        (with_last({"score": 1.0}), r"the edge m0->logits is .*in_graph .true or false"),
        (
            with_last({"score": float("nan"), "in_graph": True}),
            "graph.json is not a whole JSON file: it holds NaN",
        ),
        (node_scores, "graph.json scores nodes; only files about edges"),
        (lambda c: c["nodes"]["m0"].update(neurons=[True]), "graph.json chooses neurons"),
        (lambda c: c.pop("nodes"), "no graph file of EAP-IG: it should hold cfg, nodes, edges"),
        (lambda c: c.update(edges=[]), "nodes and edges should be tables"),
        (lambda c: c["cfg"].update(n_heads=2), "another graph: cfg says .*'n_heads': 2.*not"),
        (lambda c: c.update(cfg=3), "another graph: cfg says 3"),
    ],
)
def test_malformed_json_files_are_refused(change, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        from_mib_json(hand_file(tmp_path, change), ONE)


def test_a_json_file_cut_short_is_refused(tmp_path):
    path = hand_file(tmp_path)
    path.write_text(path.read_text()[:-20])
    with pytest.raises(ValueError, match="graph.json is not a whole JSON file"):
        from_mib_json(path, ONE)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.pop("edges_in_graph"), "it should hold cfg, src_nodes, dst_nodes, edges_in"),
        (lambda c: c["src_nodes"].reverse(), "other src_nodes than this graph, input and"),
        (lambda c: c.update(edges_scores=torch.zeros(3, 4)), r"edges_scores is \(3, 4\), not of"),
        (lambda c: c.update(edges_in_graph=[1]), r"edges_in_graph is list, not of shape \(3, 5\)"),
        (lambda c: c.update(neurons_in_graph=torch.ones(3, 8)), "graph.pt chooses neurons"),
        (lambda c: c["cfg"].update(parallel_attn_mlp=True), "graph.pt is of another graph"),
        (lambda c: c.update(edges_scores=torch.zeros(3, 5), nodes_scores=1), "pt scores nodes"),
    ],
)
def test_malformed_tensor_files_are_refused(change, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        from_mib_pt(pt_file(tmp_path, change), ONE)


class Trap:
    """What a pickle can do to its reader."""

    def __reduce__(self):
        return (exec, ("raise SystemExit('the file was executed')",))


def test_a_tensor_file_that_would_run_code_is_refused(tmp_path):
    torch.save({"cfg": Trap()}, tmp_path / "trap.pt")
    with pytest.raises(ValueError, match="trap.pt is no whole .pt file of plain tensors"):
        from_mib_pt(tmp_path / "trap.pt", ONE)


@pytest.mark.parametrize("content", [b"", b"no tensors", b"PK\x03\x04 cut short"])
def test_a_damaged_tensor_file_is_refused(content, tmp_path):
    (tmp_path / "bad.pt").write_bytes(content)
    with pytest.raises(ValueError, match="bad.pt is no whole .pt file"):
        from_mib_pt(tmp_path / "bad.pt", ONE)


@pytest.mark.parametrize("write", [to_mib_json, to_mib_pt])
def test_a_stream_without_width_is_refused(write, tmp_path):
    with pytest.raises(ValueError, match="d_model is the width of the stream, 1 or more; got 0"):
        write(Circuit.full(ONE), tmp_path / "c", d_model=0)


def test_a_submission_is_one_file_of_scores_or_nine_circuits(tmp_path):
    graph = Graph(6, 8, 2)
    scores = scores_of(graph)
    (path,) = write_submission(scores, tmp_path, "ioi_gpt2", d_model=8)
    assert path == tmp_path / "ioi_gpt2" / "importances.pt"
    sizes = [int(percent / 100 * graph.n_edges) // 2 for percent in PERCENTAGES]
    circuits = [top_n(scores, n, ranking="signed") for n in sizes]
    paths = write_submission(circuits, tmp_path, "mcqa_llama3", d_model=8)
    assert [p.name for p in paths][::4] == ["circuit_0.1.pt", "circuit_2.pt", "circuit_50.pt"]
    assert [from_mib_pt(p, graph) for p in paths] == circuits
    assert sorted(p.name for p in tmp_path.iterdir()) == ["ioi_gpt2", "mcqa_llama3"]


def test_a_cell_that_the_track_does_not_have_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no task and model named 'gpt2_ioi'; the track has ioi_"):
        write_submission(scores_of(ONE), tmp_path, "gpt2_ioi", d_model=8)


def test_a_submission_with_too_few_circuits_is_refused(tmp_path):
    with pytest.raises(ValueError, match="got 2 circuits; a submission has 9"):
        write_submission([Circuit.empty(ONE)] * 2, tmp_path, "ioi_gpt2", d_model=8)


def test_a_circuit_too_large_for_its_size_is_refused_counting_every_query_head(tmp_path):
    """0.1 % of 3,628 edges are 3; one shared key is four."""
    graph = Graph(6, 8, 2)
    circuits = [Circuit.from_edges(graph, [("embed", "a0.g0.k")])] * 9
    most = int(graph.ungrouped.n_edges * 0.001)
    with pytest.raises(ValueError, match=f"0.1 % has 4 ungrouped edges; {most} is the most"):
        write_submission(circuits, tmp_path, "ioi_gpt2", d_model=8)


def test_other_graph_files_in_the_folder_are_refused(tmp_path):
    write_submission(scores_of(ONE), tmp_path, "ioi_gpt2", d_model=8)
    write_submission(scores_of(ONE), tmp_path, "ioi_gpt2", d_model=8)
    with pytest.raises(ValueError, match="importances.pt is in the way"):
        write_submission([Circuit.empty(ONE)] * 9, tmp_path, "ioi_gpt2", d_model=8)
