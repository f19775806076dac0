"""What an explorer's file holds, and what it refuses; no browser is needed."""

import base64
import json
import math
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from shells import on

from circuits.circuit import Circuit
from circuits.cli import main
from circuits.explorer import Level, explore, load_levels
from circuits.explorer.content import MOST_EDGES, edge_list, ordered
from circuits.explorer.levels import Measured, fitting_levels
from circuits.explorer.placing import drawings, grid
from circuits.judging.faithfulness import Sweep, curve
from circuits.scores import Scores
from circuits.scoring import eap
from circuits.select import greedy, prune, top_n
from patching.graph import Graph
from patching.metrics import logit_diff
from patching.model import Model
from patching.models import induction
from patching.views import Page

GRAPH = Graph(2, 4, 2)


def random_scores(graph: Graph = GRAPH, seed: int = 0) -> Scores:
    noise = torch.randn(graph.exists.shape, generator=torch.Generator().manual_seed(seed))
    return Scores(noise.double() * graph.exists, graph, {"model": "none"})


def data_of(page: Page) -> dict:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page.content)
    assert found
    return json.loads(found[1])


def edges_of(data: dict, which: int = 0) -> list[tuple[str, str]]:
    names, part = data["names"], data["lists"][which]
    source, reader = (np.frombuffer(base64.b64decode(part[k]), "<u2") for k in ("source", "reader"))
    nodes = [names["nodes"][i][0] for i in np.array(names["sources"])[source]]
    return list(zip(nodes, [names["readers"][i][0] for i in reader], strict=True))


def test_the_file_refers_to_nothing_outside():
    content = explore(random_scores(), other=random_scores(seed=1)).content
    assert re.findall(r"\w+://[^\s\"'<]+", content) == ["http://www.w3.org/2000/svg"]  # a name
    assert not re.search(r"@import|url\(|<link|\bsrc=|href=|\bimport\b|fetch\(", content)
    assert "default-src 'none'" in content


def test_the_file_is_small_and_an_edge_takes_some_ten_bytes():
    page = explore(Circuit.from_edges(Graph(12, 12, 12), [("embed", "logits")]))
    assert len(page.content.encode()) < 120_000  # what it does, without data; 300 kB are the limit
    order = ordered(random_scores(Graph(12, 12, 12)), None, "absolute")
    # two indices of 2 bytes and a score of 4, a third more in base64
    assert len(json.dumps(edge_list("A", order))) < 100 + 32_491 * 8 * 4 / 3


def test_edges_come_best_first_with_their_scores():
    scores = random_scores()
    data = data_of(explore(scores))
    best = scores.top(GRAPH.n_edges, ranking="absolute")
    assert edges_of(data) == [edge[:2] for edge in best]
    held = np.frombuffer(base64.b64decode(data["lists"][0]["score"]), "<f4")
    np.testing.assert_array_equal(held, np.array([edge[2] for edge in best], dtype="<f4"))


def test_a_circuit_comes_first_and_the_other_scored_edges_after_it():
    scores = random_scores()
    circuit = greedy(scores, 12, ranking="absolute")
    data = data_of(explore(circuit, scores=scores))
    edges = edges_of(data)
    assert data["start"] == 12
    assert set(edges[:12]) == set(circuit.edges)
    assert len(edges) == GRAPH.n_edges
    rest = [abs(scores.of(*edge)) for edge in edges[12:]]
    assert rest == sorted(rest, reverse=True)


def test_a_ranking_by_sign_is_kept():
    circuit = top_n(random_scores(), 9, ranking="signed")
    data = data_of(explore(circuit))
    values = [circuit.scores[GRAPH.edge_index(*edge)] for edge in edges_of(data)]
    assert data["ranking"] == "signed"
    assert values == sorted(values, reverse=True)


def test_only_the_best_edges_of_a_huge_graph_are_held():
    graph = Graph(20, 16, 16)
    order = ordered(random_scores(graph), None, "absolute")
    assert len(order.edges) == MOST_EDGES < order.total == graph.n_edges


@pytest.mark.parametrize("graph", [Graph(1, 1, 1), Graph(3, 5, 5), Graph(3, 4, 1, parallel=True)])
def test_boxes_never_overlap_and_edges_go_up(graph):
    order = ordered(random_scores(graph), None, "absolute")
    made = drawings([order])
    assert set(made[-1][1]) == set(order.prefix(min(300, graph.n_edges)).nodes)
    for places in [*(places for _, places in made), grid(graph)]:
        spots = list(places.values())
        for i, (x, y) in enumerate(spots):
            # a box is 1 wide and 0.5 high
            assert all(abs(x - a) > 1.0 or abs(y - b) > 0.5 for a, b in spots[:i])
    rows = grid(graph)
    links = data_of(explore(random_scores(graph)))["names"]
    for source, reader in order.prefix(50).edges:
        end = links["nodes"][dict(links["readers"])[reader]][0]
        assert rows[source][1] < rows[end][1]


def test_a_curve_shows_where_its_circuits_are_those_of_the_list():
    model, task = Model.load("truth/induction"), induction(n=6).task
    scores = eap(model, task, logit_diff)
    sweep = Sweep(sizes=(3, 8, 20), ranking="absolute", n_random=0, n_bootstrap=0)
    found = curve(model, task, scores, logit_diff, sweep)
    data = data_of(explore(scores, curve=found))
    shown = [point.faithfulness for point in found.points]
    rows = {row[0]: row for row in data["curve"]["levels"]}
    assert [rows[n][2] for n in sweep.sizes] == pytest.approx(shown)
    assert {row[3] for row in rows.values()} == {None}  # no interval was taken
    inside = explore(top_n(scores, 10, ranking="absolute"), curve=found)
    assert [row[0] for row in data_of(inside)["curve"]["levels"]] == [3, 8]
    with pytest.raises(ValueError, match="the curve is of other circuits than these edges make"):
        explore(random_scores(scores.graph), curve=found)


def a_curve(scores: Scores, *, pruned: bool, circuits: bool = True) -> Measured:
    whole = [top_n(scores, n, ranking="absolute") for n in (10, 30)]
    kept = [prune(circuit) for circuit in whole] if pruned else whole
    levels = [
        Level(n, c.size, 0.5, math.nan, math.nan) for n, c in zip((10, 30), kept, strict=True)
    ]
    stated = dict(scores.provenance)
    made = tuple(kept) if circuits else None
    return Measured(tuple(levels), "absolute", pruned, "m", "zero", 3, stated, made)


def test_a_curve_of_pruned_circuits_fits_the_unpruned_list():
    scores = random_scores()
    order = ordered(scores, None, "absolute")
    levels, others = fitting_levels(a_curve(scores, pruned=True), order)
    assert {10, 30} <= {level.requested for level in levels} and others == []


def test_a_pruned_circuit_is_shown_with_what_was_measured_on_it():
    # the page begins with what pruning left: its size there is no other than its own
    scores = random_scores()
    found = a_curve(scores, pruned=True)
    assert found.circuits is not None
    circuit = found.circuits[1]
    assert circuit.size < 30
    levels, others = fitting_levels(found, ordered(circuit, scores, "absolute"))
    assert next(x for x in levels if x.requested == circuit.size).edges == circuit.size
    assert others == [10]  # of which pruning leaves nothing


def test_a_curve_without_its_circuits_needs_a_circuit_chosen_like_them():
    scores = random_scores()
    found = a_curve(scores, pruned=False, circuits=False)
    chosen = top_n(scores, 20, ranking="absolute")
    levels, others = fitting_levels(found, ordered(chosen, None, "absolute"))
    assert ([level.requested for level in levels], others) == ([10], [30])
    others = [
        greedy(scores, 20, ranking="absolute"),
        top_n(scores, 20, ranking="signed"),
        top_n(scores, 60, ranking="absolute", prune=True),
        replace(chosen, provenance={**chosen.provenance, "model": "another"}),
        Circuit(chosen.mask, chosen.graph),
    ]
    for other in others:
        with pytest.raises(ValueError, match="given together with the scores"):
            fitting_levels(found, ordered(other, None, "absolute"))


def test_a_notebook_gets_a_sandboxed_frame_and_a_still_picture():
    bundle = explore(greedy(random_scores(), 10, ranking="absolute"))._repr_mimebundle_()
    frame = bundle["text/html"]
    assert frame.startswith('<iframe sandbox="allow-scripts allow-downloads"')
    assert frame.count("<") == 2  # the page inside is one escaped attribute
    assert bundle["image/png"].startswith(b"\x89PNG")
    assert "Circuit of 10 edges" in bundle["text/plain"]


def test_the_same_circuit_makes_the_same_file(tmp_path):
    circuit = greedy(random_scores(), 10, ranking="absolute")
    explore(circuit).save(tmp_path / "a.html")
    assert (tmp_path / "a.html").read_text(encoding="utf-8") == explore(circuit).content
    with pytest.raises(ValueError, match=r"cannot write a page to .*the name should end in \.html"):
        explore(circuit).save(tmp_path / "a.svg")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"size": 0}, "cannot show 0 edges at first; there are 5, 1 is the least"),
        ({"size": 6}, "cannot show 6 edges at first; there are 5"),
        ({"other": Circuit.full(Graph(1, 1, 1))}, "the other circuit is of another graph"),
        ({"scores": random_scores(Graph(1, 1, 1))}, "the scores are of another graph"),
    ],
)
def test_what_does_not_belong_together_is_refused(options, says):
    with pytest.raises(ValueError, match=says):
        explore(greedy(random_scores(), 5, ranking="absolute"), **options)


def test_provenance_that_no_file_can_hold_is_refused():
    circuit = Circuit(Circuit.full(GRAPH).mask, GRAPH, None, {"model": object()})
    with pytest.raises(ValueError, match="the provenance does not fit into JSON"):
        explore(circuit)


# The shell.


@pytest.fixture
def judged(home: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Path:
    """A file of the curve of the furnished scores."""
    sizes = ["--sizes", "5,20,46", "--random", "0", "--bootstrap", "0"]
    assert main(["curve", *on(home), *sizes, "--json", str(home / "scores.safetensors")]) == 0
    (tmp_path / "curve.json").write_text(capsys.readouterr().out)
    return tmp_path / "curve.json"


def test_view_writes_a_page_beside_the_circuit_or_where_it_is_told(home, tmp_path, capsys, judged):
    circuit, scores = str(home / "circuit.json"), str(home / "scores.safetensors")
    assert main(["view", circuit]) == 0
    assert (home / "circuit.html").stat().st_size > 50_000
    out = tmp_path / "page.html"
    options = ["--scores", scores, "--curve", str(judged), "--out", str(out), "--size", "7"]
    assert main(["view", circuit, *options, "--title", "Seven"]) == 0
    assert "Seven: written to" in capsys.readouterr().out
    data = data_of(Page("", out.read_text(encoding="utf-8"), lambda: None))
    assert (data["start"], len(edges_of(data)), data["title"]) == (7, 46, "Seven")
    assert [row[0] for row in data["curve"]["levels"]] == [5, 20, 46]


def test_view_compares_and_opens(home, tmp_path, monkeypatch):
    opened = []
    monkeypatch.setattr("webbrowser.open", lambda address: opened.append(address) or True)
    circuit, out = str(home / "circuit.json"), tmp_path / "two.html"
    assert main(["view", circuit, "--compare", circuit, "--out", str(out), "--open"]) == 0
    assert opened == [out.as_uri()]
    assert "circuit.json (A) and circuit.json (B)" in out.read_text(encoding="utf-8")


def test_view_says_what_is_wrong_in_one_line(home, tmp_path, capsys, judged, monkeypatch):
    circuit, scores = str(home / "circuit.json"), str(home / "scores.safetensors")
    monkeypatch.setattr("webbrowser.open", lambda _: False)
    wrong = tmp_path / "wrong.json"
    wrong.write_text("[]")
    other = json.loads(judged.read_text())
    other[0]["provenance"]["scores"]["task"] = "another"
    (tmp_path / "other.json").write_text(json.dumps(other))
    cases = {
        ("--out", "x.txt"): "cannot write 'x.txt': a file that ends in .html would be right",
        ("--curve", str(wrong)): "wrong.json holds no curve: its list is empty",
        ("--curve", circuit): "it should hold curves of faithfulness",
        ("--scores", scores, "--curve", str(tmp_path / "other.json")): "no curve of these scores",
        ("--out", str(tmp_path / "x.html"), "--open"): "no browser could be started",
    }
    for options, says in cases.items():
        assert main(["view", circuit, *options]) == 2
        error = capsys.readouterr().err
        assert says in error
        assert error.count("\n") == 1
    assert main(["view", scores, "--scores", scores]) == 2
    assert "holds scores already; leave out --scores" in capsys.readouterr().err


def test_levels_are_read_back(judged):
    found = load_levels(judged)
    assert [level.requested for level in found.levels] == [5, 20, 46]
    assert found.levels[-1].faithfulness == pytest.approx(1.0, abs=1e-5)  # float32 runs
    assert math.isnan(found.levels[0].low)
