"""Pictures: widths, labels, roles' colours, differences, and what is too much for the paper."""

from dataclasses import replace
from itertools import combinations

import pytest
import torch

from circuits.circuit import Circuit
from circuits.drawing.canvas import (
    LEAST_TYPE,
    PAGE_HEIGHT,
    WIDTHS,
    Key,
    arranged,
    fitted,
    inches,
    is_dark,
)
from circuits.drawing.pictures import FIRST, NEUTRAL, SECOND, picture, picture_difference
from circuits.drawing.plots import draw_difference, paint, render
from circuits.drawing.roles import TINTS, Roles
from circuits.drawing.strongest import strongest
from circuits.scores import Scores
from circuits.select import greedy, prune, random_circuit
from circuits.spans import by_span
from patching.graph import Graph

GRAPH, GRAPH_6 = Graph(4, 4, 4), Graph(6, 8, 8)


def scored(n: int, graph: Graph = GRAPH, seed: int = 0) -> Circuit:
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(graph.exists.shape, generator=generator).double()
    return greedy(Scores(noise * graph.exists, graph, {}), n, ranking="absolute")


@pytest.mark.parametrize(
    ("width", "found"), [("column", 3.25), ("page", 6.75), (5, 5.0), (4.5, 4.5)]
)
def test_a_picture_has_the_width_that_was_asked_for(width, found):
    assert picture(scored(10), width=width).width == found
    assert inches(None) is None


@pytest.mark.parametrize("width", ["colum", 0, -1, 300, float("nan")])
def test_other_widths_are_refused(width):
    message = r"a width is 'column' \(3.25 in\), 'page' .* or a number of inches .*; got"
    with pytest.raises(ValueError, match=message):
        picture(scored(10), width=width)


@pytest.mark.parametrize("width", [None, *WIDTHS])
@pytest.mark.parametrize("n", [10, 50, 100, 300])
def test_names_are_legible_whatever_the_size_and_nothing_leaves_the_page(width, n):
    drawn = picture(scored(n, Graph(6, 8, 8)), width=width, title="a title")
    assert min(box.size for box in drawn.boxes) >= LEAST_TYPE
    places = [point for stroke in drawn.strokes for point in stroke.points]
    for box in drawn.boxes:
        places += [(box.x + s * box.width / 2, box.y + s * box.height / 2) for s in (-1, 1)]
    assert all(0 <= x <= drawn.width and 0 <= y <= drawn.height for x, y in places)
    lowest = min(y for _, y in places)
    assert all(0 <= key.x <= drawn.width and key.y + 0.1 < lowest for key in drawn.legend)
    n_drawn = sum(not stroke.faint for stroke in drawn.strokes)
    assert n_drawn == n or f"{n_drawn} of {n} edges shown (the strongest" in drawn.caption
    assert drawn.height <= PAGE_HEIGHT


def test_more_edges_than_are_legible_are_refused_if_asked_for():
    with pytest.raises(ValueError, match=r"100 edges are not legible at 2 inches: names would be "):
        picture(scored(100), width=2, most_edges=100)


def test_a_deep_circuit_fits_a_page_and_a_height_that_is_asked_for():
    circuit = scored(60, Graph(30, 9, 3))
    whole = picture(circuit, width="page")
    assert whole.height <= PAGE_HEIGHT and len(whole.boxes) == len(circuit.nodes)
    low = picture(circuit, height=4.0)
    assert low.height <= 4.0 and min(box.size for box in low.boxes) >= LEAST_TYPE
    assert min(box.height for box in (*whole.boxes, *low.boxes)) * 72 > LEAST_TYPE + 4  # and letter
    for box in (*whole.boxes, *low.boxes):
        assert box.lift + 0.37 * box.size / 72 < box.height / 2  # no name leaves its box
    for mark in whole.marks:  # and none meets a letter below it
        (box,) = (one for one in whole.boxes if _is_in(mark, one))
        assert mark.y + 0.76 * mark.size / 72 < box.y + box.lift - 0.59 * box.size / 72
    with pytest.raises(ValueError, match=r"60 edges are not legible at 2 inches of height; draw"):
        picture(circuit, height=2.0, most_edges=60)
    with pytest.raises(ValueError, match="a height is a number of inches from 1 to 100; got 0"):
        picture(circuit, height=0)


def _is_in(mark, box) -> bool:
    return abs(box.x - mark.x) < box.width / 2 and abs(box.y - mark.y) < box.height / 2


@pytest.mark.parametrize(("n", "graph"), [(20, GRAPH), (60, Graph(30, 9, 3))])
def test_across_edges_run_to_the_right_and_boxes_stand_apart(n, graph):
    circuit = scored(n, graph)
    drawn = picture(circuit, width="page", across=True)
    assert drawn.height < picture(circuit, width="page").height
    assert min(box.size for box in drawn.boxes) >= LEAST_TYPE - 1e-9
    assert all(stroke.across and stroke.points[0] < stroke.points[-1] for stroke in drawn.strokes)
    (x0, y0), near, far, (x1, y1) = drawn.strokes[-1].bends()[0]
    assert near == ((x0 + x1) / 2, y0) and far == ((x0 + x1) / 2, y1)
    for a, b in combinations(drawn.boxes, 2):
        apart = abs(a.x - b.x) >= a.width - 1e-9 or abs(a.y - b.y) >= a.height - 1e-9
        assert apart, (a.label, b.label)
    for box in drawn.boxes:
        assert box.width / 2 <= box.x <= drawn.width - box.width / 2
        assert box.height / 2 <= box.y <= drawn.height - box.height / 2
    with pytest.raises(ValueError, match="spans have columns side by side; leave out across"):
        picture(by_span(circuit, ("rest", "IO")), across=True)


def test_the_strongest_edges_that_are_drawn_do_not_dangle():
    circuit = scored(60, Graph(6, 8, 8))
    few = strongest(circuit, 20)
    assert 10 < few.size <= 20 and prune(few) == few
    assert circuit.scores is not None
    within = circuit.scores.abs()[few.mask].min()
    better = Circuit(circuit.mask & (circuit.scores.abs() >= within), GRAPH_6, circuit.scores)
    assert prune(better) == few  # of the strongest, all that join embed to logits
    chains = scored(300, Graph(30, 9, 3))  # of the strongest hardly any join embed to logits
    assert prune(chains).size > 60
    few = strongest(chains, 60)
    assert 50 < few.size <= 60 and prune(few) == few
    assert 5 <= strongest(chains, 10).size <= 10, "the strongest of all with its way"
    dead = Circuit.from_edges(GRAPH, [("a0.h0", "m1"), ("a0.h1", "m2"), ("m1", "a2.h0.q")])
    assert strongest(dead, 2).edges == dead.edges[:2]  # nothing joins them: as they are


def test_the_legend_names_what_is_drawn_and_nothing_else():
    edges = [("embed", "a1.g1.k"), ("a1.h2", "logits"), ("embed", "logits")]
    circuit = Circuit.from_edges(Graph(2, 4, 2), edges)
    scores = circuit.mask.double()
    drawn = picture(replace(circuit, scores=scores))
    assert [key.label[:8] for key in drawn.legend] == ["positive", "shared k"]
    assert drawn.caption == "3 edges; width: |score|; k: key input"
    scores = scores * -1
    scores[circuit.graph.edge_index("embed", "logits")] = 0
    drawn = picture(replace(circuit, scores=scores))
    assert [key.label[:8] for key in drawn.legend] == ["negative", "score 0", "shared k"]
    same = picture_difference(circuit, circuit)
    assert [key.label for key in same.legend][:1] == ["in both"]


def test_legend_and_caption_can_be_left_out_with_their_room():
    whole = picture(scored(10), title="t")
    bare = whole.without("legend", "caption")
    assert (bare.legend, bare.caption) == ((), "")
    saved = whole.height - bare.height
    assert saved > 0.3  # a line of either
    lowest = [min(y for stroke in p.strokes for _, y in stroke.points) for p in (whole, bare)]
    assert lowest[0] - lowest[1] == pytest.approx(saved) and lowest[1] > 0
    assert len(render(paint(bare), "svg")) < len(render(paint(whole), "svg"))
    assert whole.without() == whole
    with pytest.raises(ValueError, match="'legend' and 'caption' can be left out; got 'title'"):
        whole.without("title")


def test_users_labels_take_the_place_of_names():
    drawn = picture(scored(10), labels={"logits": "output"})
    labels = [box.label for box in drawn.boxes]
    assert "output" in labels
    assert "logits" not in labels
    long = picture(scored(10), labels={"logits": "fourteen chars"})
    assert min(box.size for box in long.boxes) < 6.5


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ({"m9": "x"}, "a label for 'm9', which is no node of this circuit"),
        ({"logits": "x" * 15}, "the label 'x*' of logits does not fit into its box; 1 to 14"),
        ({"logits": ""}, "the label '' of logits does not fit"),
        ({"logits": "a\nb"}, "does not fit into its box"),
    ],
)
def test_labels_that_do_not_fit_are_refused(labels, message):
    with pytest.raises(ValueError, match=message):
        picture(scored(10), labels=labels)


def test_roles_colour_the_boxes_and_are_explained():
    circuit = scored(10)
    (head, *_) = [node for node in circuit.nodes if node[0] == "a"]
    absent = next(n for n in Circuit.full(GRAPH).nodes if n not in circuit.nodes)
    drawn = picture(circuit, roles=Roles({"the role": (head,), "unused": (absent,)}))
    assert {box.label: box.fill for box in drawn.boxes}[head] == TINTS[0]
    assert [key.label for key in drawn.legend if key.square] == ["the role"]
    with pytest.raises(ValueError, match="the role 'r' names 'a9.h9'"):
        picture(circuit, roles=Roles({"r": ("a9.h9",)}))


class TestDifference:
    def test_every_edge_has_the_look_of_where_it_is(self):
        a = Circuit.from_edges(GRAPH, [("embed", "m0"), ("m0", "m1"), ("m1", "logits")])
        b = Circuit.from_edges(GRAPH, [("m0", "m1"), ("m0", "logits")])
        drawn = picture_difference(a, b, ("old", "new"))
        looks = sorted((s.colour, s.dashed) for s in drawn.strokes)
        assert looks == sorted([(FIRST, False)] * 2 + [(SECOND, True)] + [(NEUTRAL, False)])
        assert [key.label for key in drawn.legend] == ["only in old", "only in new", "in both"]
        assert drawn.caption == "edges: 2 only in old, 1 only in new, 1 in both"

    def test_only_the_strongest_of_either_are_drawn_where_all_are_too_many(self):
        a, b = scored(200), scored(200, seed=1)
        drawn = picture_difference(a, b)
        assert 90 < len(drawn.strokes) <= 100
        assert f"in both; {len(drawn.strokes)} shown" in drawn.caption
        bare = picture_difference(random_circuit(GRAPH, 9, seed=0), b, most_edges=5)
        assert 0 < len(bare.strokes) <= 5

    def test_equal_circuits_differ_nowhere(self):
        drawn = picture_difference(scored(10), scored(10))
        assert {stroke.colour for stroke in drawn.strokes} == {NEUTRAL}

    def test_circuits_of_different_graphs_are_refused(self):
        with pytest.raises(ValueError, match="the two circuits are of different graphs"):
            picture_difference(scored(10), scored(10, Graph(2, 2, 2)))

    def test_it_is_drawn(self):
        figure = draw_difference(scored(10), scored(12), ("a", "b"), title="t", width="column")
        assert figure.get_figwidth() == 3.25


def test_a_legend_fills_centred_rows():
    keys = [Key(f"entry number {i}", "#000000") for i in range(5)]
    found = arranged(keys, 2.5)
    assert sorted({key.y for key in found}, reverse=True)[0] == found[0].y
    assert len({key.y for key in found}) == 3
    assert [key.label for key in found] == [key.label for key in keys]


def test_text_shrinks_to_fit_and_knows_dark_from_light():
    assert fitted("abc", 1.0, 6.5) == 6.5
    assert fitted("x" * 20, 1.0, 6.5) == pytest.approx(72 / 20 / 0.635)  # the width of a letter
    assert fitted("i" * 20, 1.0, 6.5) == 6.5
    assert [is_dark(colour) for colour in ("#000000", "#0072B2", "#FFFFFF", *TINTS)] == [
        *(True, True, False),
        *[False] * len(TINTS),
    ]
