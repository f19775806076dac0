"""The page of a graph of features: its data, and in a browser what a user does and then sees."""

import json
import re
import xml.etree.ElementTree as ElementTree
from dataclasses import replace

import pytest
import torch
from browser import Visit, needs_browser, timed, visit

from circuits.explorer import explore_features
from circuits.features import FeatureGraph, FeatureInsides, Steering
from circuits.features.graph import Nodes
from circuits.features.influence import with_influence
from circuits.features.labelled import labelled
from circuits.features.steering import Steered
from patching.dictionaries import Labels, load_labels
from patching.dictionaries.examples import Context, Example, Examples

EVIL = "</script><img src=x onerror=document.title=1><b>&quot;\u2028"
LAYERS, POSITIONS, UNITS = 5, 12, 960


def made_up(n: int = UNITS, edges_each: int = 9) -> FeatureGraph:
    """Features in five layers over twelve tokens, an embedding at each, two logits."""
    generator = torch.Generator().manual_seed(0)
    layers = (torch.arange(n) * LAYERS) // n
    positions = torch.randint(1, POSITIONS, (n,), generator=generator)
    kinds = torch.zeros(n, dtype=torch.long)
    kinds[::20] = 1
    here, end = torch.arange(POSITIONS), torch.tensor([POSITIONS - 1] * 2)
    nodes = Nodes(
        kinds=torch.cat([kinds, torch.full((POSITIONS,), 2), torch.full((2,), 3)]).to(torch.int8),
        layers=torch.cat([layers, torch.full((POSITIONS,), -1), torch.full((2,), LAYERS)]),
        positions=torch.cat([positions, here, end]),
        indices=torch.cat([torch.arange(n).where(kinds == 0, -1), here, torch.tensor([7, 8])]),
        values=torch.rand(n + POSITIONS + 2, generator=generator),
        weights=torch.cat([torch.zeros(n + POSITIONS), torch.tensor([0.6, 0.3])]).double(),
        influences=torch.zeros(n + POSITIONS + 2),
    )
    readers = torch.cat(
        [(kinds == 0).nonzero()[:, 0], torch.tensor([n + POSITIONS, n + POSITIONS + 1])]
    )
    targets = readers.repeat_interleave(edges_each)
    order = torch.rand(len(targets), generator=generator)
    below = torch.cat([torch.tensor([0]), (layers[1:] != layers[:-1]).nonzero()[:, 0] + 1])
    first = torch.cat([below[layers], torch.full((POSITIONS,), 0), torch.full((2,), n)])[targets]
    sources = (order * (first + POSITIONS)).long()  # of lower layers, or an embedding
    sources = torch.where(sources >= first, n + sources - first, sources)
    weights = torch.randn(len(targets), generator=generator)
    zeros = torch.zeros(len(nodes))
    facts = {"letter": "f", "texts": [EVIL, *(f" t{i}" for i in range(1, POSITIONS))]}
    facts |= {"logits": {"7": EVIL, "8": " other"}, "model": EVIL, "features": "made up"}
    facts["validity"] = {"n": 20, "attention and norms": 0.91, "attention": 0.3, "nothing": None}
    graph = FeatureGraph(here, nodes, targets, sources, weights, zeros, zeros, zeros, zeros, facts)
    return with_influence(graph)


def told_of(graph: FeatureGraph, best: str) -> FeatureInsides:
    """Of the best unit all there is, of the others nothing."""
    place, _, index = best.partition("@")[0].partition(".f")
    context = Context((EVIL, " peak"), (0.0, 2.0), 1)
    example = Example(place, int(index), 0.125, 2.0, (context,), (EVIL, " up"), (" down",))
    units = torch.tensor([[int(place[1:]), int(index)]])
    values = torch.linspace(0, 1, POSITIONS)[None]
    targets = tuple(graph.names[-2:])
    row = Steered(best, 0.0, (-1.5, 0.25), (-1.25, 0.5), ((EVIL, 0.75),))
    steering = Steering(targets, ((" before", 0.5),), (row,))
    examples = Examples({(place, int(index)): example}, {"text": "a text"})
    return FeatureInsides(units, values, examples, steering)


GRAPH = made_up()
BEST = next(name for name, _ in GRAPH.top(50) if ".f" in name)
BEST_KEY = BEST.partition(".")[0], int(BEST.partition("@")[0].partition(".f")[2])
LABELS = Labels({BEST_KEY: EVIL, ("r9.post", 9): "of another place"})

ACT = """
const seen = () => $$(".unit").filter((unit) => !unit.hasAttribute("hidden"));
const unit = (name) => $$(".unit").find((one) => one.getAttribute("aria-label").endsWith(name));
said.start = [seen().length, $("#size").value, $("#shown").textContent];
said.belief = $("#belief").textContent;
await type($("#size"), "50", "change");
said.fifty = [seen().length, $("#shown").textContent, Number($("#threshold").value)];
await type($("#threshold"), $("#threshold").value, "change");
said.threshold = $("#size").value;
await type($("#slider"), 10, "input");
said.slid = $("#size").value;
await type($("#size"), "960", "change");
said.all = seen().length;
const drawn = $$(".edges path").map((path) => path.getAttribute("d").split("M").length - 1);
said.lines = [drawn.length, Math.max(...drawn)];
await click(unit(BEST));
said.chosen = $("#details").textContent;
said.here = $$("#prompt .here").map((token) => token.textContent);
said.sides = [$$(".to-helps").length, $$(".to-hurts").length];
said.label = $("#label").value;
await type($("#label"), "<i>mine</i>", "change");
said.renamed = $("#chosen-title").textContent;
await type($("#search"), "<i>mine", "input");
said.found = $("#found").textContent;
let written = null; // files are kept and given without a disk, which virtual time does not wait for
window.Blob = class { constructor(parts) { written = parts.join(""); } };
URL.createObjectURL = () => "#";
said.unsaved = $("#labels-about").textContent;
await click($("#export"));
said.labels = written;
said.saved_labels = $("#labels-about").textContent;
const give = async (text) => {
  const files = [{ name: "given.json", text: async () => text }];
  Object.defineProperty($("#import"), "files", { value: files, configurable: true });
  $("#import").dispatchEvent(new Event("change"));
  await frame();
};
await give(said.labels.replace("<i>mine</i>", "given"));
said.given = [$("#chosen-title").textContent, $("#labels-said").textContent];
await give('{"format": "feature labels 1", "labels": {"<b>": {"x": "y"}}}');
said.refused = $("#labels-said").textContent;
await click($("#pin"));
said.focus = document.activeElement.tagName;
unit(BEST).focus();
await press(unit(BEST), "ArrowDown");
const below = document.activeElement;
said.below = below.getAttribute("aria-label");
await press(below, "p");
await press(document.activeElement, "ArrowRight");
said.right = document.activeElement.dataset.i !== below.dataset.i;
said.pins = $("#pins h2").textContent;
await click($("#as-pinned"));
said.boxes = [$$(".group-box").length, $$("svg .grip").length];
for (const box of $$("#pins input[type=checkbox]")) {
  box.checked = true;
  box.dispatchEvent(new Event("change"));
}
$("#group-name").value = "<u>both";
await click($("#group"));
said.grouped = $$(".group-box text").map((text) => text.textContent);
await click($("#as-graph"));
const box = $("#stage > svg").getAttribute("viewBox");
await press(document.body, "+");
said.zoomed = box !== $("#stage > svg").getAttribute("viewBox");
await press(document.body, "0");
said.fitted = box === $("#stage > svg").getAttribute("viewBox");
said.address = decodeURIComponent(location.hash);
await click($("#save"));
said.svg = written;
await click($("#theme"));
said.theme = document.documentElement.dataset.theme;
await press(document.body, "Escape");
said.cleared = $$(".chosen").length;
const errors = $('[data-kind="error"]');
errors.checked = false; errors.dispatchEvent(new Event("change")); await frame();
said.no_errors = seen().filter((one) => one.classList.contains("error")).length;
said.images = document.images.length;
said.fits = document.scrollingElement.scrollHeight <= window.innerHeight;
said.page_title = document.title;
said.requests = performance.getEntriesByType("resource").length;
"""


@pytest.fixture(scope="module")
def page():
    return explore_features(GRAPH, insides=told_of(GRAPH, BEST), labels=LABELS, title=EVIL)


@pytest.fixture(scope="module")
def seen(page, tmp_path_factory: pytest.TempPathFactory) -> Visit:
    act = f"const BEST = {json.dumps(BEST)};{ACT}"
    return visit(page.content, act, tmp_path_factory.mktemp("features"))


@needs_browser
def test_sliders_show_the_nodes_of_most_influence(seen: Visit):
    assert seen.console == []
    ends = POSITIONS + 2
    assert seen.said["start"][:2] == [300 + ends, "300"]
    shown, words, threshold = seen.said["fifty"]
    assert shown == 50 + ends and words.startswith("50 of 960 features and errors, ")
    assert threshold == pytest.approx(GRAPH.top(50)[-1][1], rel=5e-3)  # three digits
    assert abs(int(seen.said["threshold"]) - 50) <= 1
    assert seen.said["slid"] == "10" and seen.said["all"] == UNITS + ends
    assert seen.said["lines"] == [1000, 1]  # long paths are slow to paint


@needs_browser
def test_what_is_known_of_a_feature_is_told_and_shown_as_text(seen: Visit):
    told = seen.said["chosen"]
    i = GRAPH.index(BEST)
    title = EVIL.replace(" ", "\u00b7")
    assert told.startswith(EVIL)
    for said in (
        BEST,
        f"{float(GRAPH.nodes.values[i]):.3g}",
        "Promotes",
        title,
        "active on 12.5 %",
    ):
        assert said in told
    assert "removed: the model then says" in told and "\u22121.5\u22121.25" in told
    assert len(seen.said["here"]) == 1
    ends = (GRAPH.sources == i) | (GRAPH.targets == i)
    others = {*GRAPH.sources[ends].tolist(), *GRAPH.targets[ends].tolist()} - {i}
    assert sum(seen.said["sides"]) == len(others)
    assert seen.said["images"] == 0 and seen.said["requests"] == 0 and seen.said["fits"]
    assert seen.said["page_title"] == EVIL
    belief = seen.said["belief"]
    assert "20 units were removed" in belief and "holding nothingunknown" in belief


@needs_browser
def test_labels_are_edited_saved_for_the_library_and_read(seen: Visit, tmp_path):
    assert seen.said["label"].startswith("</script>") and seen.said["renamed"] == "<i>mine</i>"
    assert seen.said["found"].startswith("1 found, 1 of them shown")
    assert "1 change not yet in a file" in seen.said["unsaved"]
    assert "not yet" not in seen.said["saved_labels"]
    path = tmp_path / "labels.json"
    path.write_text(seen.said["labels"], encoding="utf-8")
    assert load_labels(path) == LABELS.replaced({BEST_KEY: "<i>mine</i>"})
    assert seen.said["given"] == ["given", "2 labels read from given.json"]
    assert (
        seen.said["refused"]
        == "given.json holds no labels: <b> x is no feature; a number from 0 on is needed"
    )


@needs_browser
def test_nodes_are_pinned_grouped_and_kept_in_the_address(seen: Visit, page, tmp_path):
    assert seen.said["pins"] == "Pinned (2)" and seen.said["right"]
    assert seen.said["boxes"] == [2, 1]
    assert seen.said["grouped"] == ["<u>both", "2 nodes"]
    below = seen.said["below"].rpartition(", ")[2]
    i = GRAPH.index(BEST)
    into = (GRAPH.targets == i).nonzero()[:, 0]
    strongest = into[GRAPH.weights[into].abs().argmax()]
    assert below == GRAPH.names[int(GRAPH.sources[strongest])]
    address = seen.said["address"]
    assert f"node={BEST}" in address.replace("+", " ") and f"pins={BEST},{below}" in address
    act = "said.seen = [$('#size').value, $('#pins').textContent, $$('.group-box').length];"
    back = visit(page.content, act, tmp_path, address=f"{address}&view=pinned&nodes=5&edges=x")
    assert back.console == []
    assert back.said["seen"][0] == "960" and "<u>both" in back.said["seen"][1]
    assert back.said["seen"][2] == 1


@needs_browser
def test_themes_zoom_kinds_and_the_saved_drawing(seen: Visit):
    assert seen.said["zoomed"] and seen.said["fitted"]
    assert seen.said["theme"] in ("light", "dark") and seen.said["cleared"] == 0
    assert seen.said["no_errors"] == 0
    tree = ElementTree.fromstring(seen.said["svg"])
    paths = list(tree.iter("{http://www.w3.org/2000/svg}path"))
    assert len(paths) > UNITS and not re.search(r"var\(|class=|hidden", seen.said["svg"])


@needs_browser
def test_a_thousand_nodes_answer_at_once(page, tmp_path):
    act = """
said.took = {
  size: answer((i) => change("#size", String(960 - i), "change")),
  edges: answer((i) => change("#most", i % 2 ? "1000" : "10000", "change")),
  choose: answer((i) => $$(".unit")[100 + i].dispatchEvent(
    new MouseEvent("click", { bubbles: true }))),
  search: answer((i) => change("#search", `m${i}`, "input")),
};
"""
    seen = timed(page.content, act, tmp_path)
    assert seen.console == []
    assert max(seen.said["took"].values()) < 200


def test_a_page_holds_the_best_of_a_graph_that_is_too_large(monkeypatch):
    monkeypatch.setattr("circuits.explorer.featured.MOST_NODES", 40)
    monkeypatch.setattr("circuits.explorer.featured.MOST_EDGES", 20)
    data = data_of(explore_features(GRAPH))
    assert len(data["names"]) == 40 and data["total"]["nodes"] == len(GRAPH)
    assert set(data["names"]) == {name for name, _ in GRAPH.top(26)} | {*GRAPH.names[UNITS:]}
    assert data["total"]["edges"] == GRAPH.n_edges


def test_labels_of_the_graph_are_there_and_others_go_before_them():
    graph = labelled(GRAPH, Labels({BEST_KEY: "its own"}))
    own, place = data_of(explore_features(graph))["labels"], BEST_KEY[0]
    assert own == {place: {str(BEST_KEY[1]): "its own"}}
    given = data_of(explore_features(graph, labels=LABELS))["labels"]
    assert given[place] == {str(BEST_KEY[1]): EVIL} and "r9.post" in given


def test_a_graph_without_facts_or_features_has_a_page():
    data = data_of(explore_features(replace(GRAPH, facts={})))
    assert data["validity"] is None and data["tokens"] == [str(i) for i in range(POSITIONS)]
    ends = GRAPH.nodes.kinds >= 2
    bare = GRAPH.kept(ends, torch.zeros(GRAPH.n_edges, dtype=torch.bool))
    assert data_of(explore_features(bare))["start"] == 0


def test_a_title_keeps_words_apart():
    words = {**GRAPH.facts, "texts": ["a", "cat"] + ["b"] * (POSITIONS - 2)}
    page = explore_features(replace(GRAPH, facts=words))
    assert page.title.startswith("Features of \u201ca cat b b")
    assert explore_features(GRAPH).title.endswith("\u2026\u201d")  # too long to be told whole


def test_a_size_that_is_not_there_is_refused():
    with pytest.raises(
        ValueError, match="cannot show 961 features and errors at first; there are 960"
    ):
        explore_features(GRAPH, size=961)


def data_of(page) -> dict:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page.content)
    assert found
    return json.loads(found[1])
