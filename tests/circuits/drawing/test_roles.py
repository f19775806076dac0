"""Roles: what may be one, circuits seen through them, and their pictures."""

import json

import pytest
import torch
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch, Polygon

from circuits.circuit import Circuit
from circuits.drawing.canvas import LEAST_TYPE
from circuits.drawing.pictures import NEGATIVE, POSITIVE
from circuits.drawing.plots import draw, draw_roles, render
from circuits.drawing.role_pictures import picture_roles
from circuits.drawing.roles import TINTS, RoleEdge, Roles, by_role, load_roles
from circuits.select import random_circuit
from patching.graph import Graph

GRAPH = Graph(3, 2, 2)
EDGES = {
    ("embed", "a0.h0.v"): 1.0,
    ("a0.h0", "a1.h0.q"): 0.5,
    ("a0.h0", "a1.h1.k"): -2.0,
    ("a0.h1", "a1.h1.v"): 0.25,
    ("a1.h0", "a2.h0.q"): 4.0,
    ("a2.h0", "logits"): 3.0,
    ("embed", "logits"): -0.125,
}
ROLES = Roles({"early": ("a0.h0", "a0.h1"), "late": ("a1.h0", "a1.h1", "a2.h0")})


def scored(edges: dict[tuple[str, str], float] = EDGES, graph: Graph = GRAPH) -> Circuit:
    scores = graph.exists.double() * 0
    for edge, score in edges.items():
        scores[graph.edge_index(*edge)] = score
    return Circuit(Circuit.from_edges(graph, edges).mask, graph, scores)


def test_the_rest_may_be_one_role():
    roles = Roles({"early": ("a0.h0", "a0.h1")}, {"early": "gold"})
    whole = roles.with_rest(scored())
    assert whole.members["other nodes"] == ("a1.h0", "a1.h1", "a2.h0")
    assert (whole.colours, whole.with_rest(scored(), "none left")) == (roles.colours, whole)


def test_edges_between_two_roles_are_summed():
    seen = by_role(scored(), ROLES)
    assert seen.boxes == {
        "embed": ("embed",),
        "early": ("a0.h0", "a0.h1"),
        "late": ("a1.h0", "a1.h1", "a2.h0"),
        "logits": ("logits",),
    }
    assert list(seen.boxes) == ["embed", "early", "late", "logits"]
    assert set(seen.edges) == {
        RoleEdge("embed", "early", 1.0, 1),
        RoleEdge("embed", "logits", -0.125, 1),
        RoleEdge("early", "late", -1.25, 3),
        RoleEdge("late", "logits", 3.0, 1),
    }
    assert seen.within == 1


def test_no_edge_is_lost_and_the_sum_of_scores_stays():
    circuit = scored()
    for members in ({"all": tuple(circuit.nodes)}, {"one": ("embed", "a2.h0")}, {}):
        seen = by_role(circuit, Roles(members))
        assert sum(edge.count for edge in seen.edges) + seen.within == circuit.size
        if not seen.within:
            total = sum(edge.score or 0.0 for edge in seen.edges)
            assert total == pytest.approx(sum(EDGES.values()))


def test_a_circuit_without_scores_has_counts_only():
    seen = by_role(Circuit.from_edges(GRAPH, EDGES), ROLES)
    assert {edge.score for edge in seen.edges} == {None}


@pytest.mark.parametrize(
    ("members", "box"),
    [
        ({"r": ("a1.h2",)}, "a1.g1"),  # h3, of the same group, is no part of it
        ({"r": ("a1.h2", "a1.h3")}, "r"),
        ({"r": ("a1.h2", "a1.h3"), "s": ("a1.g1",)}, "s"),
    ],
)
def test_a_shared_head_goes_with_the_heads_that_use_it(members, box):
    graph = Graph(2, 4, 2)
    edges = [("embed", "a1.g1.k"), ("a1.h2", "logits"), ("a1.h3", "logits")]
    seen = by_role(Circuit.from_edges(graph, edges), Roles(members))
    assert "a1.g1" in seen.boxes[box]


@pytest.mark.parametrize(
    ("members", "colours", "message"),
    [
        ({"r": ()}, {}, r"the role 'r' has the nodes \(\); a name and a list of nodes"),
        ({"": ("m0",)}, {}, "the role '' has the nodes"),
        ({"r": "m0"}, {}, "the role 'r' has the nodes 'm0'; a name and a list"),
        ({"r": ("m0",), "s": ("m0",)}, {}, "m0 is in two roles: r and s"),
        ({"r": ("m0",)}, {"s": "red"}, "a colour for 's', which is no role; there are r"),
        ({"r": ("m0",)}, {"r": "reddish"}, "the colour 'reddish' of the role 'r' is unknown"),
    ],
)
def test_what_cannot_be_roles_is_refused(members, colours, message):
    with pytest.raises(ValueError, match=message):
        Roles(members, colours)


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"r": ("a9.h9",)}, "the role 'r' names 'a9.h9'; this graph has heads such as a0.h0 to "),
        ({"r": ("a0.h0.q",)}, "the role 'r' names 'a0.h0.q'"),
        ({"m1": ("m0",)}, "'m1' is the name of a node; call the role something else"),
    ],
)
def test_roles_that_do_not_fit_the_graph_are_refused(members, message):
    with pytest.raises(ValueError, match=message):
        by_role(scored(), Roles(members))


def test_colours_are_the_users_or_the_next_tint():
    roles = Roles({"a": ("m0",), "b": ("m1",)}, {"b": "gold"})
    assert (roles.colour("a"), roles.colour("b")) == (TINTS[0], "#FFD700")


@pytest.mark.parametrize(
    "content",
    [{"r": ["m0"]}, {"members": {"r": ["m0"]}, "colours": {"r": "gold"}}],
)
def test_roles_are_read_from_json(content, tmp_path):
    (tmp_path / "r.json").write_text(json.dumps(content))
    found = load_roles(tmp_path / "r.json")
    assert found == Roles({"r": ("m0",)}, content.get("colours", {}))


@pytest.mark.parametrize("content", ["[]", '{"r": "m0"}', '{"r": [1]}', '{"members": {"r": 1}}'])
def test_other_json_is_refused(content, tmp_path):
    (tmp_path / "r.json").write_text(content)
    with pytest.raises(ValueError, match=r"r.json holds no roles; .* would be right"):
        load_roles(tmp_path / "r.json")


def test_damaged_and_wrong_files_are_named(tmp_path):
    (tmp_path / "r.json").write_text("{")
    with pytest.raises(ValueError, match=r"r.json is not a whole JSON file"):
        load_roles(tmp_path / "r.json")
    (tmp_path / "r.json").write_text('{"r": []}')
    with pytest.raises(ValueError, match=r"r.json: the role 'r' has the nodes"):
        load_roles(tmp_path / "r.json")


class TestPicture:
    def test_widths_colours_and_heads_follow_the_sums(self):
        drawn = picture_roles(scored(), ROLES)
        widths = {round(s.width, 3): (s.colour, s.dashed, s.arrow) for s in drawn.strokes}
        # 0.6 points and up to 2.4 more, in proportion to |sum|
        assert widths == {
            1.4: (POSITIVE, False, "end"),
            0.7: (NEGATIVE, True, "end"),
            1.6: (NEGATIVE, True, "end"),
            3.0: (POSITIVE, False, "end"),
        }
        assert (
            drawn.caption
            == "7 edges in 4 arrows, 1 within a role not drawn; width: |sum of " + ("scores|")
        )

    def test_a_role_is_one_box_with_its_nodes(self):
        drawn = picture_roles(scored(), ROLES)
        found = {box.label: box.details for box in drawn.boxes}
        assert found["late"] == ("a1.h0, a1.h1, a2.h0",)
        assert found["embed"] == ()
        many = Roles({"all": tuple(n for n in Circuit.full(GRAPH).nodes if n[0] in "am")})
        (box,) = [b for b in picture_roles(Circuit.full(GRAPH), many).boxes if b.details]
        assert len(box.details) == 3
        assert " ".join(box.details).startswith("a0.h0, a0.h1, m0, ")
        wide = Graph(3, 12, 12)
        many = Roles({"all": tuple(n for n in Circuit.full(wide).nodes if n[0] == "a")})
        (box,) = [b for b in picture_roles(Circuit.full(wide), many).boxes if b.details]
        listed = " ".join(box.details)
        assert int(listed.split(" and ")[1].split()[0]) + listed.count("h") == 36

    def test_roles_that_write_to_each_other_have_an_arrow_each_way(self):
        roles = Roles({"x": ("a0.h0", "a2.h0"), "y": ("a1.h0", "a1.h1")})
        drawn = picture_roles(scored(), roles)
        assert sorted(s.arrow for s in drawn.strokes if s.arrow) == ["end"] * 5 + ["start"]

    def test_boxes_do_not_overlap_and_logits_are_on_top(self):
        drawn = picture_roles(Circuit.full(GRAPH), Roles({"x": ("a0.h0", "m2"), "y": ("a1.h0",)}))
        for i, a in enumerate(drawn.boxes):
            for b in drawn.boxes[:i]:
                assert abs(a.x - b.x) > a.width or abs(a.y - b.y) > a.height
        top = max(drawn.boxes, key=lambda box: box.y)
        assert top.label == "logits"
        assert [box.label for box in drawn.boxes if box.y == top.y] == ["logits"]

    def test_names_too_long_and_pictures_too_narrow_are_refused(self):
        with pytest.raises(ValueError, match="the name of the role 'x.*' is too long for its box"):
            picture_roles(scored(), Roles({"x" * 30: ("a0.h0",)}))
        with pytest.raises(
            ValueError, match=r"\d+ boxes are not legible at 1.5 inches; .* would do"
        ):
            picture_roles(Circuit.full(GRAPH), ROLES, width=1.5)
        assert all(
            box.size >= LEAST_TYPE for box in picture_roles(scored(), ROLES, width=3.25).boxes
        )

    def test_it_is_drawn_with_arrow_heads_and_white_text_on_dark_boxes(self):
        roles = Roles(ROLES.members, {"late": "#102030"})
        figure = draw_roles(scored(), roles, title="by role")
        assert isinstance(figure, Figure)
        (axes,) = figure.axes
        assert len([p for p in axes.patches if isinstance(p, FancyBboxPatch)]) == 4
        assert len([p for p in axes.patches if type(p) is Polygon]) == 4
        inks = {text.get_text(): text.get_color() for text in axes.texts}
        assert (inks["late"], inks["early"]) == ("white", "black")
        assert render(figure, "svg") == render(draw_roles(scored(), roles, title="by role"), "svg")

    @pytest.mark.parametrize("width", [None, 3.25])
    def test_text_stays_in_its_box_and_entries_of_the_legend_apart(self, width):
        graph = Graph(3, 12, 12)
        members = {
            "Backup name movers": tuple(f"a2.h{i}" for i in range(12)),
            "Negative name movers": ("a1.h0", "a1.h1"),
        }
        roles = Roles(members).with_rest(Circuit.full(graph), "the whole rest")
        for figure in (
            draw_roles(Circuit.full(graph), roles, width=width),
            draw(random_circuit(graph, 40, seed=0), roles=roles, width=width),
        ):
            figure.set_dpi(300)  # as files are; at 100 letters are widened to whole pixels
            figure.draw_without_rendering()
            (axes,) = figure.axes
            boxes = [p.get_window_extent() for p in axes.patches if isinstance(p, FancyBboxPatch)]
            for text in axes.texts:
                part = text.get_window_extent()
                assert any(
                    box.x0 <= part.x0
                    and part.x1 <= box.x1
                    and box.y0 <= part.y0
                    # half a pixel: the height of text is rounded up
                    and part.y1 <= box.y1 + 0.5
                    for box in boxes
                )
            entries = [text.get_window_extent() for text in figure.texts]
            for i, a in enumerate(entries):
                assert not any(a.overlaps(b) for b in entries[:i])
                assert figure.bbox.x0 <= a.x0 and a.x1 <= figure.bbox.x1

    def test_an_empty_circuit_is_an_empty_picture(self):
        assert picture_roles(Circuit.empty(GRAPH), ROLES).caption == "0 edges in 0 arrows"
        assert torch.equal(Circuit.empty(GRAPH).mask, torch.zeros_like(GRAPH.exists))
