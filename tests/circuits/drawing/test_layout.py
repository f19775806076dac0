import itertools

import pytest
import torch

from circuits.circuit import Circuit
from circuits.drawing.bands import bands
from circuits.drawing.layout import BOX_HEIGHT, BOX_WIDTH, PORTS, Layout, lay_out
from circuits.drawing.placement import _apart, _crossings, _Item, _offsets
from circuits.scores import Scores
from circuits.select import greedy, random_circuit
from patching.graph import Graph

GRAPHS = [
    Graph(1, 1, 1),
    Graph(4, 4, 4),
    Graph(12, 12, 12),
    Graph(5, 8, 4),
    Graph(4, 4, 1, parallel=True),
]
DEEP = Graph(30, 3, 1)
MOST_ROWS = 12


def circuits_of(graph: Graph) -> list[Circuit]:
    """Scattered ones, connected ones, one edge and none."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(graph.exists.shape, generator=generator).double()
    scores = Scores(noise * graph.exists, graph, {})
    sizes = [min(n, graph.n_edges) for n in (0, 1, 10, 40, 100)]
    connected = [greedy(scores, n, ranking="absolute") for n in sizes]
    return [*connected, *(random_circuit(graph, n, seed) for seed, n in enumerate(sizes))]


@pytest.fixture(params=[*GRAPHS, DEEP], ids=lambda graph: graph.describe(), scope="module")
def drawn(request: pytest.FixtureRequest) -> list[tuple[Circuit, Layout]]:
    most = MOST_ROWS if request.param == DEEP else None
    return [(circuit, lay_out(circuit, most_rows=most)) for circuit in circuits_of(request.param)]


def test_a_small_circuit_by_hand():
    circuit = Circuit.from_edges(
        Graph(2, 2, 2), [("embed", "a0.h1.q"), ("a0.h1", "m1"), ("m1", "logits")]
    )
    layout = lay_out(circuit)
    assert [(node.name, node.kind) for node in layout.nodes] == [
        ("embed", "embed"),
        ("a0.h1", "head"),
        ("m1", "mlp"),
        ("logits", "logits"),
    ]
    assert {arc.reader: len(arc.points) for arc in layout.arcs} == {
        "a0.h1.q": 2,
        "m1": 2,
        "logits": 2,
    }
    assert layout.links == ()


def test_exactly_the_nodes_and_edges_of_the_circuit_are_placed(drawn):
    for circuit, layout in drawn:
        assert sorted(node.name for node in layout.nodes) == sorted(circuit.nodes)
        placed = [(arc.source, arc.reader, arc.score) for arc in layout.arcs]
        assert placed == circuit.scored_edges()


def test_boxes_do_not_overlap(drawn):
    for _, layout in drawn:
        for a, b in itertools.combinations(layout.nodes, 2):
            assert abs(a.x - b.x) > BOX_WIDTH or abs(a.y - b.y) > BOX_HEIGHT


def test_every_edge_runs_upwards_between_its_boxes(drawn):
    for _, layout in drawn:
        node = {n.name: n for n in layout.nodes}
        for arc in (*layout.arcs, *layout.links):
            heights = [y for _, y in arc.points]
            assert heights == sorted(heights)
            assert heights[0] == node[arc.source].y + BOX_HEIGHT / 2
            assert heights[-1] == node[arc.dest_node].y - BOX_HEIGHT / 2
            assert abs(arc.points[0][0] - node[arc.source].x) < BOX_WIDTH / 2
            assert abs(arc.points[-1][0] - node[arc.dest_node].x) < BOX_WIDTH / 2


def test_no_edge_runs_behind_a_box(drawn):
    for _, layout in drawn:
        for arc in (*layout.arcs, *layout.links):
            for (_, low), (_, high) in zip(arc.points[::2], arc.points[1::2], strict=True):
                # a curve from row to row stays within the free space between them
                assert not any(
                    low < node.y + BOX_HEIGHT / 2 - 1e-9 and node.y - BOX_HEIGHT / 2 < high - 1e-9
                    for node in layout.nodes
                )
            for (x, low), (same, high) in zip(arc.points[1:-1:2], arc.points[2::2], strict=True):
                assert x == same
                assert not any(
                    abs(node.x - x) < BOX_WIDTH / 2 and low <= node.y <= high
                    for node in layout.nodes
                )


def test_no_two_edges_share_a_lane(drawn):
    for _, layout in drawn:
        lanes = [p for arc in (*layout.arcs, *layout.links) for p in arc.points[1:-1:2]]
        assert len({(round(x, 6), round(y, 6)) for x, y in lanes}) == len(lanes)


def test_layers_are_in_order_and_attention_is_below_its_mlp(drawn):
    for circuit, layout in drawn:
        order = {node.name: node.order for node in circuit.graph.sources} | {"logits": 10**6}
        nodes = [node for node in layout.nodes if node.kind != "group"]
        for a, b in itertools.combinations(nodes, 2):
            if order[a.name] == order[b.name]:
                assert a.y == b.y
            elif circuit.graph == DEEP:  # whose rows are merged
                assert a.y == b.y or (order[a.name] < order[b.name]) == (a.y < b.y)
            else:
                assert (order[a.name] < order[b.name]) == (a.y < b.y)


def test_rows_are_merged_where_there_are_too_many_and_embed_and_logits_stay_alone():
    circuit = circuits_of(DEEP)[3]  # 40 edges
    assert bands(circuit, most=None) == bands(circuit, most=99)
    sizes = {}
    for most in (MOST_ROWS, 25):
        rows = bands(circuit, most)
        sizes[most] = len(rows)
        assert sorted(name for row in rows for name in row) == sorted(circuit.nodes)
        assert ["embed"] in rows and ["logits"] in rows
    assert sizes[MOST_ROWS] < sizes[25] <= 25 < len(bands(circuit))


def test_query_key_and_value_edges_end_at_their_ports(drawn):
    for _, layout in drawn:
        node = {n.name: n for n in layout.nodes}
        for arc in layout.arcs:
            if arc.reader != arc.dest_node:
                port = node[arc.dest_node].x + PORTS[arc.reader[-1]]
                # ports are 0.3 apart
                assert abs(arc.points[-1][0] - port) < 0.15


def test_a_shared_head_is_linked_to_the_heads_that_use_it():
    graph = Graph(2, 4, 2)
    edges = [
        ("embed", "a1.g1.k"),
        ("embed", "a1.g1.v"),
        ("a1.h2", "logits"),
        ("a1.h0", "logits"),
    ]
    layout = lay_out(Circuit.from_edges(graph, edges))
    assert [(link.source, link.dest_node) for link in layout.links] == [("a1.g1", "a1.h2")]
    height = {node.name: node.y for node in layout.nodes}
    assert height["embed"] < height["a1.g1"] < height["a1.h2"] == height["a1.h0"]


def test_the_same_circuit_is_placed_the_same_way():
    circuit = random_circuit(GRAPHS[1], 50, seed=3)
    assert lay_out(circuit) == lay_out(circuit)


def test_bounds_hold_everything_and_are_zero_for_nothing(drawn):
    assert Layout((), (), ()).bounds() == (0, 0, 0, 0)
    for _, layout in drawn:
        left, right, bottom, top = layout.bounds()
        for arc in layout.arcs:
            assert all(left <= x <= right and bottom <= y <= top for x, y in arc.points)


def test_pushing_apart_is_the_nearest_allowed_placement():
    generator = torch.Generator().manual_seed(0)
    row = ["a", (0, 1), (1, 1), "b", "c", (2, 1)]
    offsets = torch.tensor(_offsets(row), dtype=torch.float64)
    for _ in range(50):
        wish = (torch.randn(len(row), generator=generator) * 2).double()
        found = _apart(row, dict(zip(row, wish.tolist(), strict=True)))
        x = torch.tensor([found[item] for item in row], dtype=torch.float64)
        assert ((x - offsets).diff() > -1e-12).all()
        # any other allowed placement (sorted shifts) is at least as far from the wish
        shifts = (x - offsets + 0.3 * torch.randn(20, len(row), generator=generator)).sort(1).values
        others = shifts + offsets
        assert ((others - wish).square().sum(1) >= (x - wish).square().sum() - 1e-12).all()


def test_crossings_equal_those_counted_pair_by_pair():
    generator = torch.Generator().manual_seed(0)
    rows: list[list[_Item]] = [[f"{r}{i}" for i in range(5)] for r in "xyz"]
    above: dict[_Item, list[_Item]] = {item: [] for row in rows for item in row}
    steps = []
    for _ in range(30):
        r, i, j = (int(torch.randint(n, (), generator=generator)) for n in (2, 5, 5))
        above[rows[r][i]].append(rows[r + 1][j])
        steps.append((r, i, j))
    pairs = itertools.combinations(steps, 2)
    slow = sum(a[0] == b[0] and (a[1] - b[1]) * (a[2] - b[2]) < 0 for a, b in pairs)
    assert _crossings(rows, above) == slow
