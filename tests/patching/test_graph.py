"""The graph by hand, by published counts, and by what its parts must have in common."""

import pytest
import torch

from patching.graph import Graph

GRAPHS = [
    Graph(1, 1, 1),
    Graph(1, 2, 1),
    Graph(3, 4, 4),
    Graph(3, 4, 2),
    Graph(2, 6, 2, parallel=True),
    Graph(4, 2, 2, parallel=True),
]


def edge_names(graph: Graph) -> list[str]:
    return [
        f"{graph.sources[source].name}->{graph.destinations[dest].name}"
        for source, dest in graph.exists.nonzero().tolist()
    ]


def names_at(nodes, where: slice | int) -> list[str]:
    chosen = nodes[where]
    return [node.name for node in (chosen if isinstance(where, slice) else [chosen])]


@pytest.mark.parametrize(
    ("name", "graph", "n_edges"),
    [
        ("gpt2", Graph(12, 12, 12), 32_491),
        ("gpt2-medium", Graph(24, 16, 16), 231_877),
        ("gpt2-xl", Graph(48, 25, 25), 2_235_025),
        ("pythia-160m", Graph(12, 12, 12, parallel=True), 32_347),
        ("pythia-2.8b", Graph(32, 32, 32, parallel=True), 1_591_857),
        ("qwen2.5-0.5b, ungrouped", Graph(24, 14, 14), 179_749),
        ("gemma-2-2b, ungrouped", Graph(26, 8, 8), 74_218),
        ("llama-3.1-8b, ungrouped", Graph(32, 32, 32), 1_592_881),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_edge_counts_are_the_published_ones(name, graph, n_edges):
    """EAP-IG's and MIB's counts (hannamw/EAP-IG, src/eap/graph.py)."""
    assert graph.n_edges == n_edges
    assert len(graph.sources) == 1 + graph.n_layers * (graph.n_heads + 1)
    assert len(graph.destinations) == graph.n_layers * (3 * graph.n_heads + 1) + 1


def test_a_graph_of_one_layer_by_hand():
    assert edge_names(Graph(n_layers=1, n_heads=2, n_kv_heads=2)) == [
        "embed->a0.h0.q",
        "embed->a0.h1.q",
        "embed->a0.h0.k",
        "embed->a0.h1.k",
        "embed->a0.h0.v",
        "embed->a0.h1.v",
        "embed->m0",
        "embed->logits",
        "a0.h0->m0",
        "a0.h0->logits",
        "a0.h1->m0",
        "a0.h1->logits",
        "m0->logits",
    ]


def test_heads_that_share_keys_and_values_have_one_reader_a_group_by_hand():
    assert edge_names(Graph(n_layers=1, n_heads=2, n_kv_heads=1)) == [
        "embed->a0.h0.q",
        "embed->a0.h1.q",
        "embed->a0.g0.k",
        "embed->a0.g0.v",
        "embed->m0",
        "embed->logits",
        "a0.h0->m0",
        "a0.h0->logits",
        "a0.h1->m0",
        "a0.h1->logits",
        "m0->logits",
    ]


def test_heads_of_a_parallel_block_do_not_feed_its_mlp_by_hand():
    assert edge_names(Graph(n_layers=2, n_heads=1, n_kv_heads=1, parallel=True)) == [
        *(f"embed->{x}" for x in ("a0.h0.q", "a0.h0.k", "a0.h0.v", "m0")),
        *(f"embed->{x}" for x in ("a1.h0.q", "a1.h0.k", "a1.h0.v", "m1", "logits")),
        *(f"a0.h0->{x}" for x in ("a1.h0.q", "a1.h0.k", "a1.h0.v", "m1", "logits")),
        *(f"m0->{x}" for x in ("a1.h0.q", "a1.h0.k", "a1.h0.v", "m1", "logits")),
        "a1.h0->logits",
        "m1->logits",
    ]


@pytest.mark.parametrize("graph", GRAPHS, ids=Graph.describe)
def test_names_are_unique_and_found_where_they_are(graph):
    for nodes, index in (
        (graph.sources, graph.source_index),
        (graph.destinations, graph.dest_index),
    ):
        names = [node.name for node in nodes]
        assert len(set(names)) == len(names)
        assert [index(name) for name in names] == list(range(len(names)))


@pytest.mark.parametrize("graph", GRAPHS, ids=Graph.describe)
def test_the_places_of_a_layer_hold_the_nodes_they_are_named_for(graph):
    shared = "h" if graph.n_kv_heads == graph.n_heads else "g"
    heads, groups = range(graph.n_heads), range(graph.n_kv_heads)
    for layer in range(graph.n_layers):
        queries = [f"a{layer}.h{h}.q" for h in heads]
        keys = [f"a{layer}.{shared}{g}.k" for g in groups]
        values = [f"a{layer}.{shared}{g}.v" for g in groups]
        at = graph.destinations
        assert names_at(at, graph.q_readers(layer)) == queries
        assert names_at(at, graph.k_readers(layer)) == keys
        assert names_at(at, graph.v_readers(layer)) == values
        assert names_at(at, graph.attention_readers(layer)) == queries + keys + values
        assert names_at(at, graph.mlp_reader(layer)) == [f"m{layer}"]
        assert names_at(graph.sources, graph.head_sources(layer)) == [
            f"a{layer}.h{h}" for h in heads
        ]
        assert names_at(graph.sources, graph.mlp_source(layer)) == [f"m{layer}"]


@pytest.mark.parametrize("graph", GRAPHS, ids=Graph.describe)
def test_a_layer_reads_exactly_the_first_so_many_writers(graph):
    """The engines slice the source axis by these numbers instead of masking it."""
    positions = torch.arange(len(graph.sources))
    for layer in range(graph.n_layers):
        attention = graph.exists[:, graph.attention_readers(layer)]
        before = positions < graph.sources_before_attention(layer)
        assert torch.equal(attention, before[:, None].expand_as(attention))
        mlp = graph.exists[:, graph.mlp_reader(layer)]
        assert torch.equal(mlp, positions < graph.sources_before_mlp(layer))
    assert graph.exists[:, -1].all(), "the logits read everything"


@pytest.mark.parametrize("graph", GRAPHS, ids=Graph.describe)
def test_layers_and_orders_of_the_nodes_follow_the_forward_pass(graph):
    assert (graph.sources[0].layer, graph.sources[0].order) == (-1, 0)
    assert graph.destinations[-1].layer == graph.n_layers
    for node in [*graph.sources[1:], *graph.destinations[:-1]]:
        assert node.name[1 : 1 + len(str(node.layer))] == str(node.layer)
    orders = [node.order for node in graph.sources]
    assert orders == sorted(orders)


def test_each_reader_feeds_its_own_writer_by_hand():
    graph = Graph(n_layers=2, n_heads=4, n_kv_heads=2)
    fed = {
        graph.destinations[dest].name: [
            graph.sources[source].name for source in graph.feeds[dest].nonzero().flatten().tolist()
        ]
        for dest in range(len(graph.destinations))
    }
    assert fed["a0.h2.q"] == ["a0.h2"]
    assert fed["a1.g0.k"] == fed["a1.g0.v"] == ["a1.h0", "a1.h1"]
    assert fed["a1.g1.k"] == fed["a1.g1.v"] == ["a1.h2", "a1.h3"]
    assert fed["m1"] == ["m1"]
    assert fed["logits"] == []


@pytest.mark.parametrize("graph", GRAPHS, ids=Graph.describe)
def test_every_writer_but_the_embedding_is_fed_by_its_readers(graph):
    n_readers = graph.feeds.sum(dim=0)
    assert n_readers[0] == 0
    for layer in range(graph.n_layers):
        assert (n_readers[graph.head_sources(layer)] == 3).all(), "q, k and v"
        assert n_readers[graph.mlp_source(layer)] == 1


@pytest.mark.parametrize("sizes", [(0, 1, 1), (1, 0, 1), (1, 1, 0), (-1, 2, 2)])
def test_a_graph_without_layers_or_heads_is_refused(sizes):
    with pytest.raises(ValueError, match="at least one layer and one head, got Graph"):
        Graph(*sizes)


@pytest.mark.parametrize("sizes", [(1, 3, 2), (1, 2, 4)])
def test_heads_that_do_not_share_evenly_are_refused(sizes):
    with pytest.raises(ValueError, match=r"\d heads cannot share \d key-value heads evenly"):
        Graph(*sizes)


def test_unknown_nodes_are_refused_with_what_there_is():
    graph = Graph(2, 2, 1)
    with pytest.raises(ValueError, match=r"no source named 'a9.h0'; .* has embed, .*, m1"):
        graph.source_index("a9.h0")
    with pytest.raises(ValueError, match=r"no source named 'logits'"):
        graph.source_index("logits")
    with pytest.raises(ValueError, match=r"no destination named 'a0.h0.k'; .*, logits"):
        graph.dest_index("a0.h0.k")  # here one reader serves the group: a0.g0.k
    with pytest.raises(ValueError, match="no destination named 'embed'"):
        graph.dest_index("embed")


def test_an_edge_is_found_by_the_names_of_its_ends():
    graph = Graph(2, 2, 2)
    assert graph.edge_index("embed", "a0.h0.q") == (0, 0)
    assert graph.edge_index("m1", "logits") == (6, 14)
    with pytest.raises(ValueError, match="no source named 'x'"):
        graph.edge_index("x", "logits")
    with pytest.raises(ValueError, match="no destination named 'x'"):
        graph.edge_index("embed", "x")


@pytest.mark.parametrize(
    ("source", "dest"),
    [("m1", "m0"), ("a1.h0", "a0.h0.q"), ("a0.h0", "a0.h1.k"), ("m0", "m0"), ("m0", "a0.h0.v")],
)
def test_an_edge_from_later_to_earlier_is_refused(source, dest):
    with pytest.raises(ValueError, match=rf"no edge {source}->{dest}: {source} writes .* only aft"):
        Graph(2, 2, 2).edge_index(source, dest)


@pytest.mark.parametrize("graph", GRAPHS, ids=Graph.describe)
def test_a_graph_survives_the_trip_through_plain_values(graph):
    assert Graph.from_dict(graph.to_dict()) == graph
    without_fingerprint = {k: v for k, v in graph.to_dict().items() if k != "fingerprint"}
    assert Graph.from_dict(without_fingerprint) == graph


def test_different_graphs_have_different_fingerprints():
    assert len({graph.fingerprint for graph in GRAPHS}) == len(GRAPHS)
    assert Graph(2, 2, 2).fingerprint == Graph(2, 2, 2).fingerprint
    assert Graph(2, 2, 2).fingerprint != Graph(2, 2, 2, parallel=True).fingerprint


@pytest.mark.parametrize(
    "altered", [{"n_layers": 3}, {"n_kv_heads": 2}, {"parallel": True}, {"fingerprint": "0" * 16}]
)
def test_an_altered_description_is_noticed(altered):
    values = {**Graph(2, 4, 4).to_dict(), **altered}
    with pytest.raises(ValueError, match="fingerprint is .*, the file says .* it was altered"):
        Graph.from_dict(values)


def test_a_description_that_lacks_a_field_is_refused():
    values = Graph(2, 4, 4).to_dict()
    del values["n_layers"], values["n_kv_heads"]
    with pytest.raises(ValueError, match="description of the graph lacks n_layers, n_kv_heads"):
        Graph.from_dict(values)


def test_a_graph_is_described_in_words():
    assert Graph(2, 4, 1).describe() == "2 sequential layers, 4 heads, 1 key-value heads"
    assert Graph(2, 4, 4, parallel=True).describe().startswith("2 parallel layers")
