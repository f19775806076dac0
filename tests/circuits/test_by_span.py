"""Scores and circuits that keep spans apart: sums, sets, files, selection."""

import json
from dataclasses import replace

import families
import pytest
import spanned
import torch
import toys

from circuits import (
    Circuit,
    Scores,
    curve,
    evaluate,
    load_circuit,
    load_scores,
    prune,
    top_n,
    verify,
)
from circuits.drawing.layout import lay_out
from circuits.drawing.pictures import picture
from circuits.drawing.placement import place_columns
from circuits.drawing.span_pictures import picture_spans
from circuits.export import load, save, to_mib_json
from circuits.export.networks import from_networkx
from circuits.judging.faithfulness import Sweep
from circuits.scoring import METHODS, Recipe, along_activations, exact, position_scores, score
from circuits.select import greedy, random_circuit
from circuits.spans import at_span, by_span, collapsed
from patching.attention import attention_between_spans, patterns
from patching.graph import Graph
from patching.metrics import logit_diff, logprob
from patching.model import Model
from patching.span_graph import SpanGraph, graph_of
from patching.tasks import each_position

PLAIN = Graph(n_layers=2, n_heads=2, n_kv_heads=1)
GRAPH = SpanGraph.of(PLAIN, ("rest", "a", "end"))
TASK = spanned.task().by_span()
WHOLE = ("qk-fix", "atp-star", "eap-hvp")
NOT_SUMS = ("grad-drop", "exact")  # absolute values; effects that are not linear


def _circuit(*edges: str) -> Circuit:
    ends = (edge.partition("->") for edge in edges)
    return Circuit.from_edges(GRAPH, [(source, dest) for source, _, dest in ends])


# Scores


@pytest.mark.parametrize("name", [n for n in METHODS if n not in (*WHOLE, *NOT_SUMS)])
def test_scores_by_span_sum_to_those_without(gpt2, name):
    function = METHODS[name].function
    expected = function(gpt2, replace(TASK, apart=()), logit_diff)
    found = function(gpt2, TASK, logit_diff, batch_size=2)
    assert found.graph == SpanGraph.of(gpt2.graph, TASK.apart)
    error = (collapsed(found).matrix - expected.matrix).abs().max()
    assert error <= 1e-12 * expected.matrix.abs().max()


def test_scores_by_span_sum_on_paths_and_with_several_answers(gpt2):
    recipe = Recipe(along_activations(1, own_edges_only=True))
    task = spanned.several()
    expected = score(gpt2, task, logprob, recipe).matrix
    found = collapsed(score(gpt2, task.by_span(), logprob, recipe)).matrix
    assert (found - expected).abs().max() <= 1e-12 * expected.abs().max()


@pytest.mark.parametrize("family", ["gpt2", "gemma2"])
def test_scores_at_each_position_are_those_with_positions_kept(family):
    model, task = Model.load(families.module(family, torch.float64)), families.task()
    expected = position_scores(model, task, logit_diff).tensor
    alone = each_position(task)
    found = score(model, alone.by_span(), logit_diff, Recipe())
    for place in range(9):
        at = at_span(found, str(place)).matrix
        assert (at - expected[:, :, place]).abs().max() <= 1e-12 * expected.abs().max()
    spans = found.provenance["spans"]
    assert isinstance(spans, dict) and spans["names"] == ["rest", *map(str, range(9))]


def test_on_a_linear_model_the_head_reads_at_the_first_token_and_the_metric_at_the_second():
    task = each_position(toys.task(3)).by_span()
    scores = score(toys.linear_model(), task, logit_diff, Recipe())
    by_hand = {
        ("embed", "a0.h0.v"): (8, 0),
        ("embed", "a0.h1.v"): (-3, 0),
        ("a0.h0", "m0"): (0, 10),
        ("m0", "logits"): (0, 10),
    }
    for (source, dest), expected in by_hand.items():
        found = [scores.of(source, f"{dest}@{i}") for i in range(2)]
        assert found == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("name", WHOLE)
def test_methods_that_keep_no_spans_apart_say_so(gpt2, name):
    with pytest.raises(ValueError, match="keeps no spans apart.*by_span"):
        METHODS[name].function(gpt2, TASK, logit_diff)


def test_exact_scores_by_span_are_what_the_edge_is_worth_there(gpt2):
    graph = SpanGraph.of(gpt2.graph, TASK.apart)
    edges = [("embed", "a1.h0.v@b"), ("m0", "logits@end"), ("embed", "m0@a")]
    found = exact(gpt2, TASK, logit_diff, edges=edges)
    full = Circuit.full(graph)
    without = [full - Circuit.from_edges(graph, [edge]) for edge in edges]
    runs = evaluate(gpt2, TASK, without, logit_diff)
    for edge, kept in zip(edges, runs.values, strict=True):
        expected = float((runs.clean - kept).mean())
        assert found.of(*edge) == pytest.approx(expected, abs=1e-12) and expected
    linear, alone = toys.linear_model(), each_position(toys.task(3)).by_span()
    by_gradient = score(linear, alone, logit_diff, Recipe()).matrix
    torch.testing.assert_close(
        exact(linear, alone, logit_diff).matrix, by_gradient, atol=1e-9, rtol=0
    )


def test_scores_by_span_are_kept_in_files_and_show_their_edges(gpt2, tmp_path):
    scores = METHODS["eap"].function(gpt2, TASK, logit_diff)
    scores.save(tmp_path / "s.safetensors")
    again = load_scores(tmp_path / "s.safetensors")
    assert again.graph == scores.graph and torch.equal(again.matrix, scores.matrix)
    source, dest, value = scores.top(1, ranking="absolute")[0]
    assert scores.of(source, dest) == value and dest.split("@")[1] in TASK.apart


# The graph


def test_an_edge_is_a_writer_a_reader_and_a_span():
    assert GRAPH.n_edges == 3 * PLAIN.n_edges
    assert GRAPH.edge_index("a0.h1", "m0@a") == (2, 3 * PLAIN.dest_index("m0") + 1)
    assert GRAPH.edge_index("a0.h1@a", "m0@a") == GRAPH.edge_index("a0.h1", "m0@a")
    assert graph_of(GRAPH.to_dict()) == GRAPH and graph_of(PLAIN.to_dict()) == PLAIN
    assert GRAPH != PLAIN and GRAPH.plain == PLAIN
    with pytest.raises(ValueError, match="nothing moves from span to span; heads move"):
        GRAPH.edge_index("a0.h1@rest", "m0@a")
    with pytest.raises(ValueError, match="no destination named 'm0'.*did you mean 'm0@"):
        GRAPH.edge_index("a0.h1", "m0")


@pytest.mark.parametrize("spans", [(), ("a", "a"), ("a b",), ("a@b",)])
def test_spans_have_names_of_their_own(spans):
    with pytest.raises(ValueError, match="1 to 1000 spans apart, each with a name of its own"):
        SpanGraph(2, 2, 1, spans=spans)
    with pytest.raises(ValueError, match="spans apart, each with a name of its own"):
        graph_of({**PLAIN.to_dict(), "spans": list(spans), "fingerprint": "x"})


# Circuits


def test_circuits_by_span_are_sets_and_collapse_and_expand():
    plain = random_circuit(PLAIN, 9, seed=0)
    whole = by_span(plain, GRAPH.spans)
    assert whole.size == 27 and collapsed(whole) == plain and collapsed(plain) == plain
    part = _circuit("embed->m0@a", "embed->m0@end", "m0->logits@end")
    assert collapsed(part).edges == [("embed", "m0"), ("m0", "logits")]
    assert at_span(part, "a").edges == [("embed", "m0")]
    assert (part | ~part) == Circuit.full(GRAPH) and (part & ~part).size == 0
    assert part - _circuit("embed->m0@a") == _circuit("embed->m0@end", "m0->logits@end")
    assert ("embed", "m0@a") in part and ("embed", "m0@rest") not in part
    with pytest.raises(ValueError, match="of different graphs: .* spans rest, a, end"):
        _ = part | plain
    with pytest.raises(ValueError, match="keeps spans apart: rest, a, end; collapse it first"):
        by_span(part, ("x",))
    with pytest.raises(ValueError, match="no span 'b'; there is rest, a, end"):
        at_span(part, "b")


def test_scores_of_circuits_are_added_up_when_they_collapse():
    scores = Scores(GRAPH.exists.double(), GRAPH, {})
    circuit = collapsed(top_n(scores, GRAPH.n_edges, ranking="signed"))
    assert circuit.scores is not None and torch.equal(circuit.scores, 3 * PLAIN.exists.double())


def test_pruning_follows_heads_from_span_to_span():
    alive = _circuit(
        "embed->a0.g0.v@a",  # moved by the head to where it writes
        "a0.h1->m1@end",
        "m1->logits@end",
    )
    dead = _circuit(
        "embed->a0.h1.q@rest",  # a query at a span where the head writes nothing that is read
        "embed->m0@a",  # an MLP whose write is read at another span alone
        "m0->logits@end",
        "a0.h0->a1.h0.q@a",
    )
    assert prune(alive) == alive
    assert prune(alive | dead) == alive
    queried = _circuit("embed->a0.h1.q@end")
    assert prune(alive | queried) == alive | queried


def test_greedy_reaches_keys_at_any_span_and_queries_at_the_heads_own():
    best = ["m1->logits@end", "a0.h1->m1@end", "embed->a0.g0.k@a", "embed->a0.h1.q@end"]
    never = "embed->a0.h1.q@a"
    matrix = torch.zeros(GRAPH.exists.shape, dtype=torch.float64)
    for i, edge in enumerate([*best, never]):
        matrix[GRAPH.edge_index(*edge.split("->"))] = 5.0 if edge == never else 4.0 - i / 2
    found = greedy(Scores(matrix, GRAPH, {}), 4, ranking="signed")
    assert found == _circuit(*best) and prune(found) == found


def test_selection_without_spans_is_as_before():
    scores = Scores(torch.rand(PLAIN.exists.shape).double() * PLAIN.exists, PLAIN, {})
    apart = Scores(
        scores.matrix.repeat_interleave(3, dim=1), SpanGraph.of(PLAIN, ("x", "y", "z")), {}
    )
    for n in (4, 12):
        few = top_n(scores, n, ranking="signed", prune=True)
        assert collapsed(top_n(apart, 3 * n, ranking="signed", prune=True)) == few


@pytest.mark.parametrize("suffix", ["json", "graphml", "gexf", "csv", "gml"])
def test_files_and_networks_go_both_ways(tmp_path, suffix):
    scores = Scores(torch.rand(GRAPH.exists.shape).double() * GRAPH.exists, GRAPH, {"made": "up"})
    circuit = top_n(scores, 30, ranking="signed")
    path = tmp_path / f"c.{suffix}"
    save(circuit, path)
    graph = None if suffix in ("json", "graphml", "gml") else GRAPH
    found = load(path, graph=graph)
    assert found == circuit
    assert from_networkx(circuit.to_networkx()) == circuit


def test_json_says_which_version_reads_it(tmp_path):
    for circuit, version in ((_circuit("embed->m0@a"), 2), (Circuit.empty(PLAIN), 1)):
        circuit.save(tmp_path / "c.json")
        assert json.loads((tmp_path / "c.json").read_text())["version"] == version
        assert load_circuit(tmp_path / "c.json") == circuit


def test_networks_have_a_node_a_span():
    network = _circuit("embed->a0.h1.q@a", "a0.h1->m1@end").to_networkx()
    assert [*network.nodes] == ["embed@a", "a0.h1@a", "a0.h1@end", "m1@end"]
    assert network.nodes["m1@end"] == {"kind": "mlp", "layer": 1, "span": "end"}


# Judging


def test_curves_of_scores_by_span_run_circuits_by_span(gpt2):
    scores = METHODS["eap"].function(gpt2, TASK, logit_diff)
    n = scores.graph.n_edges
    sweep = Sweep(ranking="absolute", sizes=(0, n // 2, n), n_random=1, n_bootstrap=10)
    found = curve(gpt2, spanned.task(), scores, logit_diff, replace(sweep, wrong_sign=True))
    assert found.requested == (0, n // 2, n)
    assert found.faithfulness[[0, 2]].tolist() == [0.0, 1.0]
    assert found.conditions.positions == "by span: rest, a, b, end"
    with pytest.raises(ValueError, match="whole nodes have no span"):
        nodes = replace(sweep, granularity="nodes", sizes=(1,))
        curve(gpt2, spanned.task(), scores, logit_diff, nodes)


# Pictures


def test_figures_have_a_column_a_span_and_arrows_where_heads_move():
    circuit = _circuit(
        "embed->a0.g0.v@a",
        "a0.h1->m1@end",
        "m1->logits@end",
        "embed->m1@end",
        "embed->a1.h0.q@rest",
    )
    layout = lay_out(circuit)
    places = {node.name: node for node in layout.nodes}
    assert [name for name, _ in layout.heads] == ["rest", "a", "end"]
    assert places["embed@rest"].x < places["embed@a"].x < places["embed@end"].x
    assert places["embed@rest"].y == places["embed@a"].y == places["embed@end"].y
    assert places["m1@end"].y > places["a0.h1@end"].y > places["a0.g0@a"].y > places["embed@a"].y
    assert [(move.source, move.dest_node) for move in layout.moves] == [("a0.g0@a", "a0.h1@end")]
    assert {(arc.source, arc.reader) for arc in layout.arcs} >= {("m1@end", "logits@end")}
    drawn = picture(circuit)
    assert {"rest", "a", "end"} <= {mark.text for mark in drawn.marks}
    assert sum(stroke.arrow == "end" for stroke in drawn.strokes) == 1


def test_columns_share_heights_whatever_is_in_them():
    tall = [[["a"], ["b"], ["c"]], [["x"], [], ["y"]]]
    edges = [[("a", "c", "c")], [("x", "y", "y")]]
    (left, _), (right, routes) = place_columns(tall, edges)
    assert left["a"][1] == right["x"][1] and left["c"][1] == right["y"][1]
    assert left["c"][0] + 1 < right["x"][0]
    assert len(routes[0]) == 4  # it passes the row in which its column has no box


@pytest.mark.parametrize("who", ["EAP-IG's form", "Neuronpedia's form"])
def test_forms_without_spans_say_so(tmp_path, who):
    circuit = _circuit("embed->m0@a")
    write = {
        "EAP-IG's form": lambda: to_mib_json(circuit, tmp_path / "c.json", d_model=8),
        "Neuronpedia's form": lambda: save(circuit, tmp_path / "c.neuronpedia.json"),
    }
    with pytest.raises(ValueError, match=f"{who} knows no spans; give what"):
        write[who]()


def test_arrows_are_as_wide_as_heads_attend(gpt2):
    found = attention_between_spans(gpt2, spanned.task(), batch_size=2)
    assert found.spans == TASK.apart
    torch.testing.assert_close(found.weights.sum(dim=3), torch.ones(2, 4, 4).double())
    grid = patterns(gpt2, spanned.task().take(1)).values[
        0
    ]  # one prompt by hand: its end, and its "b"
    alone = attention_between_spans(gpt2, spanned.task().take(1))
    by_hand = float(grid[1, 2, 8, 4:6].sum())
    assert alone.of("a1.h2", "end", "b") == pytest.approx(by_hand, abs=1e-9)
    graph = SpanGraph.of(gpt2.graph, TASK.apart)
    edges = [("embed", "a1.h2.v@b"), ("a1.h2", "logits@end"), ("embed", "a1.h2.k@a")]
    circuit = Circuit.from_edges(graph, edges)
    moved = [s for s in picture_spans(circuit, found.of).strokes if s.ends is not None]
    shares = [found.of("a1.h2", "end", span) for span in "ab"]
    assert len(moved) == sum(share >= 0.05 for share in shares) > 0
    assert picture_spans(circuit, lambda *_: 0.01).strokes == tuple(
        stroke for stroke in picture(circuit).strokes if stroke.ends is None
    )
    with pytest.raises(ValueError, match="no span 'x'; there is rest, a, b, end"):
        found.of("a0.h0", "end", "x")
    with pytest.raises(ValueError, match="no head 'm0'; there are 2 layers of 4 heads"):
        found.of("m0", "end", "a")


def test_scores_by_span_are_verified_at_single_spans(gpt2):
    scores = METHODS["eap"].function(gpt2, TASK, logit_diff)
    found = verify(gpt2, spanned.task(), logit_diff, scores, k=6)
    assert all(dest.partition("@")[2] in TASK.apart for _, dest in found.edges)
    true = exact(gpt2, TASK, logit_diff, edges=found.edges)
    assert found.exact.tolist() == [true.of(*edge) for edge in found.edges]
