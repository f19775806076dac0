import xml.etree.ElementTree as ElementTree

import matplotlib
import pytest
import torch
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch, PathPatch
from matplotlib.text import Text

from circuits.circuit import Circuit
from circuits.drawing.pictures import NEGATIVE, NEUTRAL, POSITIVE
from circuits.drawing.plots import draw, render
from circuits.select import random_circuit
from patching.graph import Graph

SMALL = Graph(n_layers=1, n_heads=1, n_kv_heads=1)
GRAPHS = [SMALL, Graph(4, 4, 4), Graph(5, 8, 4), Graph(3, 4, 4, parallel=True)]


def scored(graph: Graph, n: int) -> Circuit:
    mask = random_circuit(graph, n, seed=0).mask
    noise = torch.randn(mask.shape, generator=torch.Generator().manual_seed(0)).double()
    return Circuit(mask, graph, noise * graph.exists)


def words(figure: Figure) -> list[str]:
    (axes,) = figure.axes
    legends = [text for legend in figure.legends for text in legend.get_texts()]
    return [text.get_text() for text in (*axes.texts, *figure.texts, *legends)]


def edges(figure: Figure) -> list[PathPatch]:
    return [p for p in figure.axes[0].patches if isinstance(p, PathPatch)]


def test_colour_says_the_sign_and_width_the_size():
    circuit = Circuit.from_edges(
        SMALL, [("embed", "m0"), ("embed", "a0.h0.q"), ("embed", "logits"), ("m0", "logits")]
    )
    scores = torch.zeros(SMALL.exists.shape, dtype=torch.float64)
    for edge, score in zip(circuit.edges, (0.25, -1.0, 0.0, 0.5), strict=True):
        scores[SMALL.edge_index(*edge)] = score
    lines = edges(draw(Circuit(circuit.mask, SMALL, scores)))
    drawn = {round(line.get_linewidth(), 3): to_hex(line.get_edgecolor()[:3]) for line in lines}
    # 0.4 points and up to 2 more, in proportion to |score|
    colours = {0.4: NEUTRAL, 0.9: POSITIVE, 1.4: POSITIVE, 2.4: NEGATIVE}
    assert drawn == {width: colour.lower() for width, colour in colours.items()}


def test_the_legend_states_the_sign_convention():
    assert "positive: helps the metric in the clean run" in words(draw(scored(GRAPHS[1], 9)))


def test_a_circuit_without_scores_is_grey_and_claims_no_sign():
    figure = draw(random_circuit(SMALL, 4, seed=0))
    assert {to_hex(line.get_edgecolor()[:3]) for line in edges(figure)} == {NEUTRAL}
    assert figure.legends == []
    assert "4 edges; q: query input" in words(figure)


@pytest.mark.parametrize("graph", GRAPHS)
def test_every_node_and_used_port_is_named(graph):
    circuit = scored(graph, min(20, graph.n_edges))
    figure = draw(circuit, title="the title")
    boxes = [p for p in figure.axes[0].patches if isinstance(p, FancyBboxPatch)]
    assert len(boxes) == len(circuit.nodes)
    found = [text.get_text() for text in figure.axes[0].texts]
    ports = {dest for _, dest in circuit.edges if dest[-2] == "."}
    assert sorted(found) == sorted([*circuit.nodes, *(port[-1] for port in ports)])
    assert figure.get_suptitle() == "the title"


def test_only_the_strongest_edges_are_drawn_and_the_caption_says_so():
    circuit = scored(Graph(4, 4, 4), 300)
    assert circuit.scores is not None
    figure = draw(circuit)
    assert 90 < len(edges(figure)) <= 100  # those that dangle are left out
    said = f"{len(edges(figure))} of 300 edges shown (the strongest); width: |score|; "
    assert any(said in text for text in words(figure))
    widest = max(line.get_linewidth() for line in edges(figure))
    assert widest == pytest.approx(2.4)
    few = draw(random_circuit(circuit.graph, 300, seed=0), most_edges=7)
    assert any("of 300 edges shown (the first)" in text for text in words(few))


def test_drawing_no_edges_at_most_is_refused():
    with pytest.raises(ValueError, match="cannot draw at most 0 edges; 1 is the least"):
        draw(scored(SMALL, 3), most_edges=0)


def test_an_empty_circuit_is_an_empty_picture_that_says_so():
    assert "0 edges" in words(draw(Circuit.empty(SMALL)))


@pytest.mark.parametrize("graph", GRAPHS)
@pytest.mark.parametrize("n", [1, 10, 100])
def test_nothing_is_clipped_and_names_fit_into_their_boxes(graph, n):
    figure = draw(scored(graph, min(n, graph.n_edges)), title="a title")
    figure.draw_without_rendering()
    (axes,) = figure.axes
    names = [text for text in axes.texts if len(text.get_text()) > 1]
    boxes = [p for p in axes.patches if isinstance(p, FancyBboxPatch)]
    for name, box in zip(names, boxes, strict=True):
        inner, outer = name.get_window_extent(), box.get_window_extent()
        assert outer.x0 <= inner.x0 and inner.x1 <= outer.x1
    everything = [*axes.texts, *axes.patches, *figure.texts, *figure.legends]
    for artist in everything:
        extent = artist.get_window_extent()
        assert figure.bbox.x0 <= extent.x0 and extent.x1 <= figure.bbox.x1
        assert figure.bbox.y0 <= extent.y0 and extent.y1 <= figure.bbox.y1


@pytest.mark.parametrize("kind", ["svg", "pdf", "png"])
def test_equal_circuits_give_equal_files(kind):
    first, second = (render(draw(scored(GRAPHS[1], 30)), kind) for _ in range(2))
    assert first == second


def test_text_stays_text_in_svg():
    root = ElementTree.fromstring(render(draw(scored(SMALL, 8)), "svg"))
    found = {element.text for element in root.iter("{http://www.w3.org/2000/svg}text")}
    assert {"embed", "a0.h0", "m0", "logits"} <= found
    assert b"<dc:date>" not in render(draw(scored(SMALL, 8)), "svg")


def test_pdf_embeds_fonts_that_printers_accept():
    assert b"/Type3" not in render(draw(scored(SMALL, 8)), "pdf")


def test_dollars_and_long_titles_are_text_that_fits():
    title = "the price of $x_1$ and of $y$ " * 4
    figure = draw(scored(SMALL, 8), title=title, labels={"logits": "$x_1$"})
    figure.draw_without_rendering()
    texts = [text for text in figure.axes[0].texts if "x" in text.get_text()]
    (suptitle,) = [t for t in figure.findobj(Text) if isinstance(t, Text) and t.get_text() == title]
    assert texts
    assert all(not text.get_parse_math() for text in (*texts, suptitle))
    extent = suptitle.get_window_extent()
    assert figure.bbox.x0 <= extent.x0 and extent.x1 <= figure.bbox.x1


def test_drawing_changes_no_settings():
    before = dict(matplotlib.rcParams)
    render(draw(scored(SMALL, 8)), "svg")
    assert dict(matplotlib.rcParams) == before
