import math

import pytest
import torch

from circuits.circuit import Circuit
from circuits.scores import Scores
from circuits.select import greedy, prune, random_circuit, threshold, top_n
from patching.graph import Graph

GRAPHS = [
    Graph(1, 1, 1),
    Graph(2, 2, 2),
    Graph(3, 2, 2, parallel=True),
    Graph(3, 4, 2),
    Graph(3, 3, 1, parallel=True),
]
SMALL = Graph(n_layers=1, n_heads=1, n_kv_heads=1)
GROUPED = Graph(n_layers=2, n_heads=2, n_kv_heads=1)
# sources embed a0.h0 m0; destinations a0.h0.q a0.h0.k a0.h0.v m0 logits
BY_HAND = torch.tensor(
    [[1.0, -3.0, 0.0, 2.0, -2.0], [0, 0, 0, 2.0, 0.5], [0, 0, 0, 0, -0.25]], dtype=torch.float64
)


def random_scores(graph: Graph, seed: int) -> Scores:
    """Scores with many ties and zeros."""
    generator = torch.Generator().manual_seed(seed)
    whole = torch.randint(-3, 4, graph.exists.shape, generator=generator)
    return Scores(whole.double() * graph.exists, graph, {"method": "dice"})


def feeds(graph: Graph, reader: str) -> list[str]:
    """The writers a reader is an input of, from the names alone."""
    node, _, letter = reader.rpartition(".")
    if letter not in "qkv" or not node:
        return [] if reader == "logits" else [reader]
    layer, _, place = node.partition(".")
    if place[0] == "h":
        return [node]
    size = graph.n_heads // graph.n_kv_heads
    return [f"{layer}.h{h}" for h in range(graph.n_heads) if h // size == int(place[1:])]


def slow_prune(circuit: Circuit) -> set[tuple[str, str]]:
    """Edges that can be reached from embed and from which logits can be reached."""
    graph, edges = circuit.graph, set(circuit.edges)

    def forward(node: str) -> set[str]:
        ends = [dest for source, dest in edges if source == node]
        return {node}.union(*(forward(n) for end in ends for n in feeds(graph, end)))

    def arrives(node: str) -> bool:
        ends = [dest for source, dest in edges if source == node]
        return any(end == "logits" or any(map(arrives, feeds(graph, end))) for end in ends)

    reached = forward("embed")
    return {
        (source, dest)
        for source, dest in edges
        if source in reached and (dest == "logits" or any(map(arrives, feeds(graph, dest))))
    }


def slow_greedy(scores: Scores, n: int, ranking: str) -> list[tuple[str, str]]:
    """Look at every edge before each step."""
    graph = scores.graph
    taken: list[tuple[str, str]] = []
    everything = [
        (graph.sources[s].name, graph.destinations[d].name)
        for s, d in graph.exists.nonzero().tolist()
    ]
    for _ in range(n):
        nodes = {source for source, _ in taken}
        allowed = [
            (source, dest)
            for source, dest in everything
            if (source, dest) not in taken and (dest == "logits" or nodes & set(feeds(graph, dest)))
        ]
        merit = {edge: scores.of(*edge) for edge in allowed}
        taken.append(
            max(
                allowed, key=lambda edge: abs(merit[edge]) if ranking == "absolute" else merit[edge]
            )
        )
    return taken


def test_the_best_edges_by_hand():
    scores = Scores(BY_HAND, SMALL, {})
    assert top_n(scores, 2, ranking="absolute").edges == [("embed", "a0.h0.k"), ("embed", "m0")]
    assert top_n(scores, 2, ranking="signed").edges == [("embed", "m0"), ("a0.h0", "m0")]


@pytest.mark.parametrize("graph", GRAPHS)
@pytest.mark.parametrize("ranking", ["absolute", "signed"])
def test_top_n_has_exactly_n_edges_and_grows_with_n(graph, ranking):
    scores = random_scores(graph, 0)
    sizes = range(0, graph.n_edges + 1, max(1, graph.n_edges // 10))
    chosen = [top_n(scores, n, ranking=ranking) for n in sizes]
    assert [circuit.size for circuit in chosen] == list(sizes)
    assert all(small < large for small, large in zip(chosen, chosen[1:], strict=False))


def test_no_edge_left_out_is_better_than_one_taken():
    scores = random_scores(GRAPHS[3], 1)
    circuit = top_n(scores, 30, ranking="absolute")
    size = scores.matrix.abs()
    assert size[circuit.mask].min() >= size[(~circuit).mask].max()


@pytest.mark.parametrize("select", [top_n, greedy])
@pytest.mark.parametrize("n", [-1, 9])
def test_a_size_the_graph_does_not_have_is_refused(select, n):
    with pytest.raises(ValueError, match=f"cannot choose {n} edges; this graph has 8"):
        select(Scores(BY_HAND, SMALL, {}), n, ranking="signed")
    with pytest.raises(ValueError, match=f"cannot choose {n} edges"):
        random_circuit(SMALL, n, seed=0)


def test_the_threshold_itself_is_enough():
    scores = Scores(BY_HAND, SMALL, {})
    assert threshold(scores, 2.0, ranking="signed").edges == [("embed", "m0"), ("a0.h0", "m0")]
    assert threshold(scores, 2.0, ranking="absolute").size == 4
    assert threshold(scores, 0.0, ranking="absolute") == Circuit.full(SMALL)
    assert threshold(scores, math.inf, ranking="absolute") == Circuit.empty(SMALL)


def test_a_threshold_that_is_no_number_is_refused():
    with pytest.raises(ValueError, match="the threshold is NaN"):
        threshold(Scores(BY_HAND, SMALL, {}), math.nan, ranking="signed")


def test_greedy_takes_a_weak_edge_to_reach_a_strong_one_but_never_an_unconnected_one():
    # embed->a0.h0.k is the strongest edge, and waits until a0.h0 is reached
    scores = Scores(BY_HAND, SMALL, {})
    assert greedy(scores, 1, ranking="absolute").edges == [("embed", "logits")]
    assert ("embed", "a0.h0.k") not in greedy(scores, 1, ranking="absolute")
    assert greedy(scores, 3, ranking="absolute").edges == [
        ("embed", "a0.h0.k"),
        ("embed", "logits"),
        ("a0.h0", "logits"),
    ]


def test_greedy_enters_a_group_through_any_of_its_heads():
    graph = GROUPED
    matrix = torch.zeros(graph.exists.shape, dtype=torch.float64)
    for edge in [("a1.h1", "logits"), ("m0", "a1.g0.k"), ("embed", "m0")]:
        matrix[graph.edge_index(*edge)] = 1.0
    found = greedy(Scores(matrix, graph, {}), 3, ranking="signed")
    assert set(found.edges) == {("a1.h1", "logits"), ("m0", "a1.g0.k"), ("embed", "m0")}


@pytest.mark.parametrize("graph", GRAPHS)
@pytest.mark.parametrize("ranking", ["absolute", "signed"])
def test_greedy_equals_its_slow_twin(graph, ranking):
    for seed in range(3):
        scores = random_scores(graph, seed)
        n = min(25, graph.n_edges)
        assert set(greedy(scores, n, ranking=ranking).edges) == set(slow_greedy(scores, n, ranking))


@pytest.mark.parametrize("graph", GRAPHS)
def test_greedy_for_all_edges_takes_the_whole_graph(graph):
    assert greedy(random_scores(graph, 0), graph.n_edges, ranking="signed") == Circuit.full(graph)


def test_pruning_by_hand():
    graph = Graph(2, 1, 1)
    path = [("embed", "a0.h0.v"), ("a0.h0", "m1"), ("m1", "logits")]
    no_input = [("m0", "a1.h0.q"), ("a1.h0", "logits")]  # m0 has none, then a1.h0 has none
    no_output = [("embed", "m0"), ("a0.h0", "m0")]
    assert prune(Circuit.from_edges(graph, path + no_input)).edges == path
    assert set(prune(Circuit.from_edges(graph, path + no_output)).edges) == set(path)
    assert prune(Circuit.from_edges(graph, path[:2])) == Circuit.empty(graph)


def test_a_shared_key_reader_is_used_if_any_head_of_its_group_is():
    edges = [("embed", "a1.g0.k"), ("a1.h1", "logits")]
    assert prune(Circuit.from_edges(GROUPED, edges)).edges == edges


@pytest.mark.parametrize("graph", GRAPHS)
def test_pruning_equals_its_slow_twin_and_is_stable(graph):
    for seed in range(8):
        n = graph.n_edges * (seed + 1) // 12
        circuit = random_circuit(graph, n, seed)
        pruned = prune(circuit)
        assert set(pruned.edges) == slow_prune(circuit)
        assert pruned <= circuit
        assert prune(pruned) == pruned


@pytest.mark.parametrize("graph", GRAPHS)
def test_pruning_leaves_whole_and_empty_graphs_alone(graph):
    assert prune(Circuit.full(graph)) == Circuit.full(graph)
    assert prune(Circuit.empty(graph)) == Circuit.empty(graph)


@pytest.mark.parametrize("select", [top_n, greedy, threshold])
def test_selecting_with_pruning_is_pruning_the_selected(select):
    scores = random_scores(GRAPHS[3], 2)
    amount = 2 if select is threshold else 20
    kept = select(scores, amount, ranking="absolute", prune=True)
    plain = select(scores, amount, ranking="absolute")
    assert kept == prune(plain)
    assert kept.provenance == prune(plain).provenance


@pytest.mark.parametrize("select", [top_n, greedy, threshold])
def test_a_circuit_says_how_it_was_chosen_and_keeps_its_scores(select):
    scores = random_scores(GRAPHS[1], 2)
    circuit = select(scores, 2, ranking="signed")
    assert circuit.provenance == {
        "method": "dice",
        "selection": {
            "selector": select.__name__,
            "requested": 2,
            "size": circuit.size,
            "ranking": "signed",
            "pruned": False,
        },
    }
    assert torch.equal(circuit.scores, scores.matrix * circuit.mask)


def test_pruning_a_circuit_made_by_hand_reports_both_sizes():
    circuit = Circuit.from_edges(SMALL, [("embed", "m0"), ("embed", "logits")])
    assert prune(circuit).provenance["selection"] == {"requested": 2, "size": 1, "pruned": True}


def test_random_circuits_have_their_size_and_depend_on_the_seed():
    graph = GRAPHS[3]
    circuits = [random_circuit(graph, 10, seed) for seed in range(20)]
    assert all(circuit.size == 10 and circuit <= Circuit.full(graph) for circuit in circuits)
    assert len(set(circuits)) == 20
    assert random_circuit(graph, 10, 3) == circuits[3]


def test_random_circuits_take_every_edge_equally_often():
    n, draws = 2, 4000
    masks = torch.stack([random_circuit(SMALL, n, seed).mask for seed in range(draws)])
    share = masks.double().mean(dim=0)[SMALL.exists]
    # binomial with p = 1/4: five standard deviations are 0.035
    assert (share - n / SMALL.n_edges).abs().max() < 0.035
