"""The explorer in a browser: what a user does, and what the page then shows."""

import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
import torch
from browser import Visit, needs_browser, timed, visit

from circuits.circuit import Circuit
from circuits.explorer import Insides, Level, explore
from circuits.explorer.levels import Measured
from circuits.judging.faithfulness import Sweep, curve
from circuits.judging.uncertainty import Uncertain
from circuits.running.evaluation import evaluate
from circuits.scores import Scores
from circuits.select import greedy, top_n
from patching.graph import Graph
from patching.metrics import logit_diff
from patching.model import Model
from patching.models import known

pytestmark = needs_browser

GRAPH = Graph(4, 4, 4)
EVIL = "</script><img src=x onerror=document.title=1><b>&quot;\u2028"


def made_up(graph: Graph, seed: int = 0) -> Scores:
    """Scores that a few writers and readers dominate, as real ones."""
    generator = torch.Generator().manual_seed(seed)
    sides = [torch.randn(n, generator=generator).exp() for n in graph.exists.shape]
    noise = torch.randn(graph.exists.shape, generator=generator) * sides[0][:, None] * sides[1]
    return Scores(noise.double() * graph.exists, graph, {"model": EVIL, "task": "made up"})


def uncertain(scores: Scores) -> Uncertain:
    error = scores.matrix.abs() / 4
    stable = scores.graph.exists.double()
    return Uncertain(scores, error, stable, stable / 2, size=10, ranking="absolute", n_resamples=50)


def measured(scores: Scores) -> Measured:
    sizes = (5, 10, 20, 40)
    levels = [Level(n, n, n / 40, n / 40 - 0.1, n / 40 + 0.1) for n in sizes]
    whole = [top_n(scores, n, ranking="absolute") for n in sizes]
    return Measured(tuple(levels), "absolute", False, EVIL, "resample", 12, {}, tuple(whole))


ACT = """
const drawn = () => $$("#stage .node").map((node) => node.dataset.node).sort();
const edges = () => lines(".edge");
said.start = [edges(), $("#size").value];
said.kept = $("#kept").textContent;
await type($("#slider"), 4, "input");
said.slid = [edges(), $("#size").value, $("#threshold").value, $("#kept").textContent];
await type($("#size"), "15", "change");
said.between = [$("#kept").textContent, $("#kept-about").textContent];
await type($("#size"), "100", "change");
said.beyond = $("#kept").textContent;
await type($("#threshold"), said.slid[2], "change");
said.threshold = [edges(), $("#size").value];
await click($("#by-score"));
await type($("#slider"), $("#slider").max, "input");
said.all = [Number($("#shown").textContent.match(/[0-9]+/)[0]), $("#size").value];
await type($("#size"), "20", "change");
said.nodes = drawn();
const q = $('[data-kind="q"]');
q.checked = false; q.dispatchEvent(new Event("change")); await frame();
said.without_q = $$(".edge-row").some((row) => row.textContent.includes(".q")) ? "q" : edges();
said.count = $("#shown").textContent;
q.checked = true; q.dispatchEvent(new Event("change")); await frame();
enter($(".edge-row"));
said.edge_card = $("#card").textContent;
enter($(".edge-row"), "pointerleave");
said.hidden = $("#card").hidden;
"""

CHOOSE = """
const node = $('[data-node="logits"]');
await click(node);
said.chosen = [node.classList.contains("chosen"), $("#paths").textContent];
said.lit = lines(".edge", ".lit");
said.behind = $$(".lines.behind").length;
await press(document.body, "Escape");
said.cleared = [$$(".chosen").length, $$(".faded").length, $$(".behind").length];
node.focus();
said.node_card = $("#card").textContent;
await press(node, "ArrowDown");
said.focused = document.activeElement.dataset.node;
await press(document.activeElement, "Enter");
said.entered = $(".node.chosen").dataset.node;
await type($("#search"), "a0.h", "input");
said.matched = $$(".node.matched").map((one) => one.dataset.node);
await type($("#search"), said.absent = "a2.h1", "input");
said.found = $("#found").textContent;
await press($("#search"), "Enter");
said.gone = [$(".node.chosen").dataset.node, Number($("#size").value)];
said.theme = document.documentElement.dataset.theme;
await click($("#theme"));
said.other = document.documentElement.dataset.theme;
const box = $("#stage > svg").getAttribute("viewBox");
await click($("#zoom-in"));
said.zoomed = box !== $("#stage > svg").getAttribute("viewBox");
await press(document.body, "0");
said.fitted = box === $("#stage > svg").getAttribute("viewBox");
let blob = null;
URL.createObjectURL = (made) => { blob = made; return "#"; };
await click($("#save"));
said.saved = await blob.text();
said.provenance = $("#provenance").textContent;
said.scripts = document.scripts.length;
said.images = document.images.length;
said.page_title = document.title;
"""


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Visit:
    scores = made_up(GRAPH)
    page = explore(uncertain(scores), curve=measured(scores), size=20)
    return visit(page.content, ACT, tmp_path_factory.mktemp("seen"))


@pytest.fixture(scope="module")
def chosen(tmp_path_factory: pytest.TempPathFactory) -> Visit:
    page = explore(
        greedy(made_up(GRAPH), 20, ranking="absolute"), scores=made_up(GRAPH), title=EVIL
    )
    return visit(page.content, CHOOSE, tmp_path_factory.mktemp("chosen"))


def test_nothing_is_said_on_the_console(seen: Visit, chosen: Visit):
    assert seen.console == []
    assert chosen.console == []


def test_the_slider_the_size_and_the_threshold_choose_the_best_edges(seen: Visit):
    scores = made_up(GRAPH)
    fifth = abs(scores.top(5, ranking="absolute")[-1][2])
    assert seen.said["start"] == [20, "20"]
    edges, size, threshold, _ = seen.said["slid"]  # the fifth stop is five edges
    assert (edges, size) == (5, "5")
    assert float(threshold) == pytest.approx(fifth, rel=1e-3)  # four digits are written
    assert float(threshold) <= fifth
    assert seen.said["threshold"] == [5, "5"]
    n = GRAPH.n_edges
    assert seen.said["all"] == [min(n, 300), str(n)]


def test_the_nodes_are_those_of_the_circuit(seen: Visit):
    assert seen.said["nodes"] == sorted(top_n(made_up(GRAPH), 20, ranking="absolute").nodes)


def test_faithfulness_is_that_of_the_size_or_between_two_or_not_known(seen: Visit):
    assert seen.said["kept"] == "50.0 % 95 % interval 40.0 % to 60.0 %"
    assert seen.said["slid"][3].startswith("12.5 %")
    share = 0.25 + 0.25 * torch.tensor(1.5).log() / torch.tensor(2.0).log()  # 15, between 10 and 20
    assert seen.said["between"][0].startswith(f"{100 * share:.1f} %")
    assert seen.said["between"][1].startswith("interpolated between 10 and 20 edges")
    assert EVIL.split("\u2028")[0] in seen.said["between"][1]
    assert seen.said["beyond"] == "not measured at this size"


def test_what_is_shown_of_a_circuit_is_what_evaluate_says_of_it(tmp_path: Path):
    model, task = Model.load("truth/induction"), known("truth/induction", n=4).task
    scores = made_up(model.graph)
    sizes = (12, 25)
    sweep = Sweep("absolute", sizes=sizes, prune=False, n_random=0, n_bootstrap=0)
    found = curve(model, task, scores, logit_diff, sweep)
    circuits = [top_n(scores, n, ranking="absolute") for n in sizes]
    shares = evaluate(model, task, circuits, logit_diff).faithfulness.tolist()
    act = """
said.kept = [$("#kept").textContent];
await type($("#size"), "12", "change");
said.kept.push($("#kept").textContent, $("#kept-about").textContent);
"""
    page = explore(circuits[1], scores=scores, curve=found)
    kept = visit(page.content, act, tmp_path).said["kept"]
    written = [f"{100 * share:.1f} %".replace("-", "\u2212") for share in shares]
    assert kept[:2] == written[::-1] and kept[2].startswith("measured at 12 edges")


def test_hiding_query_inputs_leaves_the_others(seen: Visit):
    circuit = top_n(made_up(GRAPH), 20, ranking="absolute")
    others = sum(not dest.endswith(".q") for _, dest in circuit.edges)
    assert seen.said["without_q"] == others
    assert f"{20 - others} hidden" in seen.said["count"]


def test_an_edge_tells_its_score_interval_and_rank(seen: Visit):
    card = seen.said["edge_card"]
    source, dest, score = made_up(GRAPH).top(1, ranking="absolute")[0]
    assert card.startswith(f"{source}→{dest}")
    assert f"{abs(score):.3g}" in card
    assert ("helps" if score > 0 else "hurts") in card
    assert "standard error" in card
    assert "95 % interval" in card
    assert "same sign in100 % of resamples" in card
    assert "among the best in50 % of resamples" in card
    assert f"rank1 of {GRAPH.n_edges}" in card
    assert seen.said["hidden"] is True


def test_a_click_lights_the_paths_through_a_node_and_escape_clears(chosen: Visit):
    is_chosen, words = chosen.said["chosen"]
    circuit = greedy(made_up(GRAPH), 20, ranking="absolute")
    assert is_chosen
    # Grown from the logits, every edge leads there.
    assert f"{len(circuit.nodes) - 1} nodes upstream, 0 nodes downstream, 20 edges" in words
    assert (chosen.said["lit"], chosen.said["behind"]) == (20, 1)
    assert chosen.said["cleared"] == [0, 0, 0]


def test_the_keyboard_reaches_nodes_their_cards_and_their_strongest_edges(chosen: Visit):
    circuit = greedy(made_up(GRAPH), 20, ranking="absolute")
    into = [
        (abs(score), source) for source, dest, score in circuit.scored_edges() if dest == "logits"
    ]
    assert chosen.said["node_card"].startswith("logits")
    assert f"{len(into)} in, 0 out" in chosen.said["node_card"]
    assert chosen.said["focused"] == chosen.said["entered"] == max(into)[1]


def test_search_marks_nodes_and_goes_to_those_that_are_not_yet_shown(chosen: Visit):
    circuit = greedy(made_up(GRAPH), 20, ranking="absolute")
    assert sorted(chosen.said["matched"]) == [n for n in circuit.nodes if n.startswith("a0.h")]
    absent = chosen.said["absent"]
    node, size = chosen.said["gone"]
    assert node == absent
    assert (size > 20) == (absent not in circuit.nodes)
    if size > 20:
        assert f"{absent} comes in at {size} edges" in chosen.said["found"]


def test_themes_and_zoom_change_and_come_back(chosen: Visit):
    assert {chosen.said["theme"], chosen.said["other"]} == {"light", "dark"}
    assert chosen.said["zoomed"]
    assert chosen.said["fitted"]


def test_the_saved_drawing_stands_alone(chosen: Visit):
    tree = ElementTree.fromstring(chosen.said["saved"])
    texts = {text.text for text in tree.iter("{http://www.w3.org/2000/svg}text")}
    assert {"logits", "positive: helps the metric in the clean run"} <= texts
    paths = list(tree.iter("{http://www.w3.org/2000/svg}path"))
    assert len(paths) >= 20
    assert all(path.get("stroke", "none") != "none" for path in paths)
    assert not re.search(r"var\(|class=|transparent", chosen.said["saved"])


def test_strings_are_text_whatever_they_hold(chosen: Visit):
    assert EVIL in chosen.said["provenance"]
    assert chosen.said["images"] == 0
    assert chosen.said["scripts"] == 4  # data, page, and the two of this test
    assert chosen.said["page_title"] == EVIL


def test_two_circuits_are_told_apart(tmp_path: Path):
    a = Circuit.from_edges(GRAPH, [("embed", "m0"), ("m0", "logits")])
    b = Circuit.from_edges(GRAPH, [("embed", "m0"), ("m1", "logits")])
    script = """
    const parts = ["only-a", "only-b", "both"];
    said.parts = parts.map((part) => lines(`.edge.${part}`));
    const path = $("#stage > svg .edge.both");
    const half = path.getPointAtLength(path.getTotalLength() / 2);
    const middle = half.matrixTransform(path.getScreenCTM());
    const point = (aside) => $("#stage > svg").dispatchEvent(
      new PointerEvent("pointermove", { clientX: middle.x + aside, clientY: middle.y }));
    point(2);
    said.card = [$("#card strong").textContent, lines(".edge", ".lit")];
    point(40);
    said.off = [$("#card").hidden, lines(".edge", ".lit")];
    said.nodes = $$("#stage .node").map((node) => [node.dataset.node, node.getAttribute("class")]);
    const tick = $('[data-kind="both"]');
    tick.checked = false; tick.dispatchEvent(new Event("change")); await frame();
    said.left = lines(".edge");
    said.no_threshold = $("#threshold-label").hidden;
    """
    seen = visit(explore(a, other=b).content, script, tmp_path)
    assert seen.console == []
    assert seen.said["parts"] == [1, 1, 1]
    assert seen.said["card"] == ["embed\u2192m0", 1] and seen.said["off"] == [True, 0]
    assert dict(seen.said["nodes"])["m1"].endswith("only-b")
    assert seen.said["left"] == 2
    assert seen.said["no_threshold"]


def test_a_page_without_an_edge_to_draw_works_all_the_same(tmp_path: Path):
    hide = """
    for (const kind of ["embed", "head"]) {
      const tick = $(`[data-kind="${kind}"]`);
      tick.checked = false; tick.dispatchEvent(new Event("change")); await frame();
    }
    said.shown = $("#shown").textContent;
    said.edges = lines(".edge");
    """
    hidden = visit(explore(greedy(made_up(GRAPH), 5, ranking="absolute")).content, hide, tmp_path)
    empty = visit(explore(Circuit.empty(GRAPH)).content, hide, tmp_path)
    assert hidden.console == empty.console == []
    assert (hidden.said["edges"], hidden.said["shown"]) == (0, "0 edges drawn; 5 hidden")
    assert empty.said["shown"] == "0 edges drawn"


def test_pruning_in_the_page_is_pruning_in_the_library(tmp_path: Path):
    graph = Graph(3, 4, 2)  # with shared key-value heads
    scores = made_up(graph, seed=3)
    script = """
    said.sizes = [];
    $("#prune").checked = true; $("#prune").dispatchEvent(new Event("change")); await frame();
    for (const n of [3, 10, 20, 40, 80]) {
      await type($("#size"), n, "change");
      said.sizes.push(lines(".edge"));
    }
    said.links = $$("#stage > svg .link").length;
    """
    seen = visit(explore(scores).content, script, tmp_path)
    sizes = (3, 10, 20, 40, 80)
    pruned = [top_n(scores, n, ranking="absolute", prune=True).size for n in sizes]
    assert seen.said["sizes"] == pruned
    assert seen.said["links"] > 0


def test_32000_edges_open_as_a_matrix_and_the_strongest_are_drawn(tmp_path: Path, monkeypatch):
    monkeypatch.setattr("circuits.explorer.placing.SIZES", (8,))  # larger ones stand in the grid
    page = explore(made_up(Graph(12, 12, 12)), size=32_491)
    act = """
said.first = [$("#matrix").hidden, $("#shown").textContent];
await click($("#as-drawing"));
said.then = [$("#matrix").hidden, $("#shown").textContent];
"""
    seen = visit(page.content, act, tmp_path)
    assert seen.console == []
    assert seen.said["first"] == [False, "32,491 edges drawn"]
    assert seen.said["then"] == [True, "the strongest 300 of 32,491 edges drawn"]


def test_1500_edges_answer_at_once(tmp_path: Path):
    act = """
$("#as-drawing").click();
change("#most", "1500", "change");
said.edges = $("#shown").textContent;
said.paths = $$("#stage > svg .edge").length;
const dashesOf = (place) => getComputedStyle($(`${place} .edge.hurts`)).strokeDasharray;
const dashed = () => ["#stage > svg", "#legend"].map(dashesOf);
said.dashes = [dashed()];
change("#size", "150", "change");
said.dashes.push(dashed());
said.took = {
  size: answer((i) => change("#size", String(1499 - i), "change")),
  choose: answer((i) => $$(".node")[10 + i].dispatchEvent(new MouseEvent("click"))),
};
"""
    seen = timed(explore(made_up(DEEP), size=1500).content, act, tmp_path)
    assert seen.console == []
    assert seen.said["edges"].startswith("1,500 edges drawn")
    assert seen.said["paths"] <= 2 * 9 * 12  # of two signs and eight strengths, in bands
    assert max(seen.said["took"].values()) < 200
    # painting is not in it: dashes would take a second there
    assert seen.said["dashes"] == [["none", "none"], ["7px, 2px", "7px, 2px"]]


DEEP = Graph(30, 9, 3)
READ = """
const stage = $("#stage").getBoundingClientRect();
said.names = Math.min(...$$("#stage .node > text:not(.port)").map((text) => {
  return parseFloat(getComputedStyle(text).fontSize) * text.getScreenCTM().a;
}));
said.inside = $$("#stage .node").filter((node) => {
  const { left, right, top, bottom } = node.getBoundingClientRect();
  return left >= stage.left && right <= stage.right && top >= stage.top && bottom <= stage.bottom;
}).length;
said.nodes = $$("#stage .node").length;
const stands = () => $$("#stage .node").map((node) => node.dataset.node + node.style.transform);
const before = new Set(stands());
await type($("#size"), "60", "change");
said.moved = stands().filter((place) => !before.has(place)).length;
said.falls = [];
for (const size of [20, 59, 100, 101, 140]) {
  await type($("#size"), String(size), "change");
  said.falls.push(Number($("#threshold").value));
}
await click($("#as-matrix"));
const canvas = $("#matrix");
const room = canvas.getBoundingClientRect();
const cards = new Set();
for (let x = 40; x < room.width; x += 9)
  for (let y = 12; y < room.height; y += 4) {
    const at = { clientX: room.left + x, clientY: room.top + y };
    canvas.dispatchEvent(new PointerEvent("pointermove", at));
    if (!$("#card").hidden) cards.add($("#card strong").textContent);
  }
said.cards = cards.size;
canvas.dispatchEvent(new WheelEvent("wheel", { deltaY: -300, clientX: 700, clientY: 400 }));
await click($('[data-kind="q"]'));
said.address = location.hash;
"""


@pytest.fixture(scope="module")
def deep(tmp_path_factory: pytest.TempPathFactory) -> Visit:
    scores = made_up(DEEP)
    page = explore(top_n(scores, 100, ranking="absolute"), scores=scores)
    return visit(page.content, READ, tmp_path_factory.mktemp("deep"))


def test_100_edges_of_30_layers_are_readable_in_the_first_view(deep: Visit):
    assert deep.console == []
    assert deep.said["names"] >= 9
    assert deep.said["inside"] == deep.said["nodes"] > 60


def test_boxes_stand_still_while_the_size_changes_and_the_threshold_only_falls(deep: Visit):
    assert deep.said["moved"] == 0
    assert deep.said["falls"] == sorted(deep.said["falls"], reverse=True)


def test_the_matrix_has_a_cell_for_every_edge_and_the_address_says_what_is_seen(deep: Visit):
    assert deep.said["cards"] == 140  # one for each, found by the pointer
    assert deep.said["address"] == "#edges=140&view=matrix&hidden=q"


def test_an_address_brings_back_what_was_seen(tmp_path: Path):
    page = explore(made_up(GRAPH))
    act = """
said.seen = [$("#size").value, $(".node.chosen").dataset.node, $('[data-kind="q"]').checked];
"""
    seen = visit(page.content, act, tmp_path, address="#edges=90&node=logits&hidden=q")
    assert seen.said["seen"] == ["90", "logits", False]
    act = "said.size = $('#size').value;"
    strange = visit(page.content, act, tmp_path, address="#edges=x&node=<b>&view=9")
    assert strange.console == [] and strange.said["size"] == "50"


INSIDE = """
said.prompt = $$("#prompt .token").map((token) => token.textContent);
await click($('[data-node="a1.h2"]'));
said.head = [$("#details").textContent, $$(".pattern").length, $$(".pattern .share").length];
const map = $(".pattern");
const room = map.getBoundingClientRect();
const at = { clientX: room.left + 2, clientY: room.bottom - 2 };
map.dispatchEvent(new PointerEvent("pointermove", at));
said.card = $("#card").textContent;
said.keys = $$(".keys tr").map((row) => row.textContent);
await click($("#as-scores"));
const counts = [".match", ".clash"].map((look) => $$(`.pattern ${look}`).length);
said.scores = [...counts, document.activeElement.id, location.hash];
await type($("#query"), 1, "change");
said.asked = [$$(".keys tr").map((row) => row.textContent), location.hash];
await click($("#theme"));
said.dark = getComputedStyle($(".match")).fill === getComputedStyle($(".edge.helps")).stroke;
await click($("#as-shares"));
await click($("#skip-first"));
said.skipped = $$(".pattern .share").length;
await click($('[data-node="logits"]'));
said.logits = [$$(".pattern").length, $("#details").textContent.includes("Promotes")];
"""


def test_a_click_shows_what_a_node_does_on_the_prompt(tmp_path: Path):
    pattern = torch.tensor([[1.0, 0, 0], [0.5, 0.5, 0], [0.8, 0, 0.2]], dtype=torch.float64)
    insides = Insides(
        model="m",
        said="a line",
        tokens=("<b>", " b", "c"),
        patterns=pattern.expand(4, 4, 3, 3),
        promoted={"a1.h2": ((" Mary", 1.25), ("<i>", 0.5))},
        effects={"a1.h2": -0.375},
    )
    seen = visit(explore(made_up(GRAPH), size=100, insides=insides).content, INSIDE, tmp_path)
    assert seen.console == []
    assert seen.said["prompt"] == ["<b>", "·b", "c"]
    text, maps, cells = seen.said["head"]
    assert (maps, cells) == (1, 5)  # shares above 0
    for said in ("exact effect −0.375", "·Mary 1.25", "<i> 0.5", "Attention of a1.h2"):
        assert said in text
    assert "c → <b>" in seen.said["card"] and "80.0 %" in seen.said["card"]
    # log .8 and .2 are .69 from their mean; the middle key has no share, and so no score
    assert seen.said["keys"] == ["c matchesq·kshare", "0 <b>+0.6980 %", "2 c−0.6920 %"]
    matched = [1, 1, "as-scores", "#edges=100&node=a1.h2&inside=qk"]
    assert seen.said["scores"] == matched  # scores of one key, or of equal shares, are their mean
    asked = ["·b matchesq·kshare", "0 <b>0.0050 %", "1 ·b0.0050 %"]
    assert seen.said["asked"] == [asked, "#edges=100&node=a1.h2&inside=qk&query=1"]
    assert seen.said["dark"]
    assert seen.said["skipped"] == 2  # b to b, c to c
    assert seen.said["logits"] == [0, False]
