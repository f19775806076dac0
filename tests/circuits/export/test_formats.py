"""Every format: there and back, opened by the programs it is for, and what is refused."""

import csv
import io
import json
import shutil
import subprocess
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import networkx as nx
import pytest
import torch

import circuits.export
from circuits.circuit import Circuit, load_circuit
from circuits.drawing.pictures import picture
from circuits.export import FORMATS, from_mib_json, from_mib_pt, load, save, to_mib_json, to_mib_pt
from circuits.select import random_circuit
from patching.graph import Graph

GRAPHS = [Graph(2, 3, 3), Graph(3, 4, 2), Graph(2, 2, 1, parallel=True)]
STARTS = {
    ".svg": b"<?xml",
    ".pdf": b"%PDF",
    ".png": b"\x89PNG",
    ".dot": b"digraph",
    ".tikz": rb"\begin{tikzpicture}",
    ".tex": b"% One picture",
}
READABLE = [suffix for suffix, entry in FORMATS.items() if entry.read]
Way = tuple[Callable[[Circuit, Path], None], Callable[[Path, Graph], Circuit], tuple[str, ...]]


def scored(graph: Graph, n: int = 12) -> Circuit:
    mask = random_circuit(graph, n, seed=0).mask
    noise = torch.randn(mask.shape, generator=torch.Generator().manual_seed(0)).double()
    noise *= 10.0 ** torch.arange(-9, noise.shape[1] - 9)  # of all sizes, so that digits matter
    return Circuit(mask, graph, noise * graph.exists, {"task": 'a "quoted" <task> & ü\x01 -->'})


def read_mib(read: Callable[..., object]) -> Callable[[Path, Graph], Circuit]:
    def inner(path: Path, graph: Graph) -> Circuit:
        found = read(path, graph)
        assert isinstance(found, Circuit)
        return found

    return inner


def ways() -> dict[str, Way]:
    found: dict[str, Way] = {s: (save, load, FORMATS[s].loses) for s in READABLE}
    # MIB divides scores among the heads that share keys and values, and sums them up again
    found[".mib.json"] = (lambda c, p: to_mib_json(c, p, d_model=8), read_mib(from_mib_json), ())
    found[".mib.pt"] = (lambda c, p: to_mib_pt(c, p, d_model=8), read_mib(from_mib_pt), ())
    return found


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("graph", GRAPHS)
class TestEveryFormat:
    def test_writes_one_whole_file_and_nothing_beside_it(self, suffix, graph, tmp_path):
        save(scored(graph), tmp_path / f"circuit{suffix}")
        (path,) = tmp_path.iterdir()
        assert path.read_bytes().startswith(STARTS.get(suffix, b""))
        assert path.stat().st_size > 100

    def test_writes_equal_bytes_for_equal_circuits(self, suffix, graph):
        write = FORMATS[suffix].write
        assert write(scored(graph)) == write(scored(graph))

    def test_takes_circuits_without_scores_and_without_edges(self, suffix, graph, tmp_path):
        for circuit in (random_circuit(graph, 3, seed=0), Circuit.empty(graph)):
            save(circuit, tmp_path / f"c{suffix}")
            if suffix in READABLE:
                back = load(tmp_path / f"c{suffix}", graph)
                assert back == circuit
                assert back.scores is None


@pytest.mark.parametrize("graph", GRAPHS)
@pytest.mark.parametrize("suffix", ways())
def test_there_and_back_loses_what_is_declared_and_nothing_else(suffix, graph, tmp_path):
    circuit, path = scored(graph), tmp_path / f"c{suffix}"
    write, read, loses = ways()[suffix]
    write(circuit, path)
    found = read(path, graph)
    kept = {
        "edges": found == circuit,
        "scores": found.scored_edges() == circuit.scored_edges(),
        "provenance": found.provenance == circuit.provenance,
    }
    assert {part for part, survives in kept.items() if not survives} == {*loses} - {"graph"}
    if suffix in READABLE and "graph" in loses:
        with pytest.raises(ValueError, match=r"c\.csv: a table of edges does not say .*; pass"):
            load(path)
    elif suffix in READABLE:
        assert load(path) == circuit


@pytest.mark.parametrize("suffix", READABLE)
def test_a_file_of_another_graph_or_cut_short_is_refused(suffix, tmp_path):
    path = tmp_path / f"c{suffix}"
    save(scored(GRAPHS[0]), path)
    with pytest.raises(ValueError, match=rf"c{suffix}: .*(another graph|no destination|no source)"):
        load(path, Graph(1, 1, 1))
    if suffix != ".csv":
        path.write_bytes(path.read_bytes()[:-30])
        with pytest.raises(ValueError, match=r"c\..*(not a whole|not node-link)"):
            load(path)


def test_the_longest_suffix_decides_in_any_case(tmp_path):
    save(scored(GRAPHS[0]), tmp_path / "C.JSON")
    assert load_circuit(tmp_path / "C.JSON") == load(tmp_path / "C.JSON") == scored(GRAPHS[0])
    save(scored(GRAPHS[0]), tmp_path / "C.NodeLink.json")
    with pytest.raises(ValueError, match="has version None of the format"):
        load_circuit(tmp_path / "C.NodeLink.json")


@pytest.mark.parametrize("name", ["circuit.docx", "circuit", "circuit.json.gz", ".json"])
def test_an_unknown_suffix_is_refused_with_the_known_ones(name, tmp_path):
    with pytest.raises(ValueError, match=f"{name}': the name should end in .json, .svg, .*, .csv"):
        save(scored(GRAPHS[0]), tmp_path / name)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ValueError, match=f"cannot read a circuit from .*{name}': the name should"):
        load(tmp_path / name)


def test_a_picture_is_saved_as_a_picture_only(tmp_path):
    drawn = picture(scored(GRAPHS[0]), width=5)
    save(drawn, tmp_path / "p.svg")
    root = ElementTree.parse(tmp_path / "p.svg").getroot()
    assert root.get("width") == "360pt"
    with pytest.raises(ValueError, match=r"a picture cannot be written to .*p.csv'; .svg, .pdf"):
        save(drawn, tmp_path / "p.csv")
    with pytest.raises(ValueError, match=r"read a circuit from .*p.svg': the name .* .json, .gr"):
        load(tmp_path / "p.svg")


class TestConsumers:
    def test_networkx_reads_its_formats(self, tmp_path):
        circuit = scored(GRAPHS[1])
        for suffix in (".graphml", ".gexf", ".gml", ".nodelink.json"):
            save(circuit, tmp_path / f"c{suffix}")
        content = json.loads((tmp_path / "c.nodelink.json").read_text())
        found = [
            nx.read_graphml(tmp_path / "c.graphml"),
            nx.read_gexf(tmp_path / "c.gexf"),
            nx.read_gml(tmp_path / "c.gml"),
            nx.node_link_graph(content, edges="edges"),
        ]
        for graph in found:
            assert sorted(graph.nodes) == sorted(circuit.nodes)
            assert {(u, v["reader"], v["score"]) for u, _, v in graph.edges(data=True)} == set(
                circuit.scored_edges()
            )

    def test_gexf_saved_anew_by_another_program_is_read_with_the_graph(self, tmp_path):
        circuit = scored(GRAPHS[1])
        save(circuit, tmp_path / "c.gexf")
        nx.write_gexf(nx.read_gexf(tmp_path / "c.gexf"), tmp_path / "d.gexf")
        assert load(tmp_path / "d.gexf", circuit.graph).scored_edges() == circuit.scored_edges()
        with pytest.raises(ValueError, match=r"d.gexf: .* pass architecture"):
            load(tmp_path / "d.gexf")
        assert b"lastmodified" not in (tmp_path / "c.gexf").read_bytes()

    @pytest.mark.skipif(shutil.which("dot") is None, reason="needs Graphviz")
    def test_graphviz_reads_dot(self):
        circuit = scored(GRAPHS[1])
        command = ["dot", "-Tdot_json"]
        said = subprocess.run(command, input=FORMATS[".dot"].write(circuit), capture_output=True)
        assert (said.returncode, said.stderr) == (0, b"")
        content = json.loads(said.stdout)
        names = [node["name"] for node in content["objects"]]
        edges = {
            (names[edge["tail"]], edge["reader"], float(edge["score"])) for edge in content["edges"]
        }
        assert edges == set(circuit.scored_edges())

    def test_an_xml_parser_reads_svg_and_finds_the_names(self):
        circuit = scored(GRAPHS[0])
        root = ElementTree.fromstring(FORMATS[".svg"].write(circuit))
        texts = {element.text for element in root.iter("{http://www.w3.org/2000/svg}text")}
        assert set(circuit.nodes) <= texts

    @pytest.mark.skipif(shutil.which("pdftoppm") is None, reason="needs poppler")
    def test_poppler_draws_pdf(self, tmp_path):
        save(scored(GRAPHS[0]), tmp_path / "c.pdf")
        command = ["pdftoppm", "-r", "30", "c.pdf", "page"]
        said = subprocess.run(command, cwd=tmp_path, capture_output=True)
        assert (said.returncode, said.stderr) == (0, b"")
        (page,) = tmp_path.glob("page*.ppm")
        assert len(set(page.read_bytes())) > 20  # not an empty page

    def test_our_schema_describes_our_json(self):
        jsonschema = pytest.importorskip("jsonschema")  # comes with nbformat
        text = (Path(circuits.export.__file__).parent / "circuit.schema.json").read_text()
        check = jsonschema.Draft202012Validator(json.loads(text)).is_valid
        for graph in GRAPHS:
            for circuit in (scored(graph), random_circuit(graph, 9, seed=0), Circuit.empty(graph)):
                assert check(json.loads(FORMATS[".json"].write(circuit)))
        content = json.loads(FORMATS[".json"].write(scored(GRAPHS[0])))
        for wrong in (
            {"version": 2},
            {"edges": [["embed", "m0"]]},
            {"edges": [["embed", "m0", "1"]]},
            {"edges": [["logits", "m0", 1]]},
            {"graph": {"n_layers": 0, "n_heads": 1, "n_kv_heads": 1}},
            {"extra": 1},
        ):
            assert not check(content | wrong)


def test_dot_by_hand():
    graph = Graph(1, 1, 1)
    mask = Circuit.from_edges(graph, [("embed", "a0.h0.q"), ("a0.h0", "logits")]).mask
    assert FORMATS[".dot"].write(Circuit(mask, graph, mask.double() / 4)).decode() == (
        "digraph circuit {\n"
        "  rankdir=BT;\n"
        '  "embed" [shape=box];\n'
        '  "a0.h0" [shape=ellipse];\n'
        '  "logits" [shape=box];\n'
        '  "embed" -> "a0.h0" [label="q 0.25", reader="a0.h0.q", score="0.25"];\n'
        '  "a0.h0" -> "logits" [label="0.25", reader="logits", score="0.25"];\n'
        "}\n"
    )


@pytest.mark.parametrize("graph", GRAPHS)
def test_csv_has_one_row_per_edge_with_exact_scores(graph):
    circuit = scored(graph)
    rows = list(csv.DictReader(io.StringIO(FORMATS[".csv"].write(circuit).decode())))
    found = [(row["source"], row["dest"], float(row["score"])) for row in rows]
    assert found == circuit.scored_edges()
    bare = FORMATS[".csv"].write(Circuit.from_edges(graph, [("embed", "m0")])).decode()
    assert bare == "source,dest,score\nembed,m0,\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("from,to\nembed,m0\n", "the columns are from, to; source, dest and score would be right"),
        ("source,dest,score\nembed,m9,1\n", "row 1: no destination named 'm9'"),
        ("source,dest,score\nembed,m0,x\n", "row 1: a score is a number, got 'x'"),
        ("source,dest,score\nembed,m0,1\nembed,m1,\n", "row 2 has no score, and others have one"),
        ("source,dest\nembed,m0\nembed,m0\n", "row 2: embed->m0 was there before"),
        ("source,dest,score\nembed,m0,nan\n", "a finite number would be right, got nan"),
    ],
)
def test_a_wrong_table_is_refused_by_row(text, message, tmp_path):
    (tmp_path / "c.csv").write_text(text)
    with pytest.raises(ValueError, match=rf"c\.csv: .*{message}"):
        load(tmp_path / "c.csv", GRAPHS[0])


def test_a_table_may_have_other_columns_and_a_byte_order_mark(tmp_path):
    (tmp_path / "c.csv").write_text("\ufeffnote,source,dest\nx,embed,m0\n", encoding="utf-8")
    assert load(tmp_path / "c.csv", GRAPHS[0]).edges == [("embed", "m0")]


@pytest.mark.parametrize(
    "content",
    ["[]", '{"nodes": []}', '{"edges": [{"source": "embed"}]}', '{"graph": 3, "edges": []}'],
)
def test_other_json_is_no_node_link_file(content, tmp_path):
    (tmp_path / "c.nodelink.json").write_text(content)
    with pytest.raises(ValueError, match=r"c.nodelink.json: not node-link JSON of a circuit"):
        load(tmp_path / "c.nodelink.json")


def test_formats_of_pictures_lose_graph_and_provenance():
    assert {s for s, entry in FORMATS.items() if entry.paint} == {
        *(".svg", ".pdf", ".png", ".tex", ".tikz")
    }
    assert replace(FORMATS[".svg"]).loses == ("graph", "provenance")
