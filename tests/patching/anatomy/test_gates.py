"""Gates of heads are readers: their names, their place in the graph, and what cannot take them."""

import feature_laws
import judged
import pytest
import zoo

from circuits import Circuit, Scores
from circuits.export.mib import table_of
from circuits.features import Transcoders
from circuits.grouping import join_scores
from circuits.judging.subsets import class_subsets
from circuits.scoring import relp
from patching.graph import Graph
from patching.metrics import logit_diff
from patching.model import Model
from patching.span_graph import SpanGraph, graph_of

GRAPH = Graph(n_layers=2, n_heads=4, n_kv_heads=2, gated=True)


@pytest.fixture(scope="module", params=["AfmoeForCausalLM", "LagunaForCausalLM"])
def model(request):
    return Model.load(zoo.build(request.param))


def test_every_head_has_a_gate_that_reads_before_its_layer():
    assert GRAPH.destinations[GRAPH.gate_readers(1).start + 2].name == "a1.h2.gate"
    head = GRAPH.source_index("a1.h2")
    assert GRAPH.feeds[:, head].nonzero().flatten().tolist() == [
        GRAPH.dest_index(name) for name in ("a1.h2.q", "a1.g1.k", "a1.g1.v", "a1.h2.gate")
    ]
    assert GRAPH.exists[GRAPH.edge_index("m0", "a1.h2.gate")]
    with pytest.raises(ValueError, match=r"a1.h0 writes .* only after a1.h2.gate has read it"):
        GRAPH.edge_index("a1.h0", "a1.h2.gate")


def test_the_graph_comes_back_from_a_file_with_its_gates_and_is_another_one_without():
    plain = Graph(2, 4, 2)
    assert Graph.from_dict(GRAPH.to_dict()) == GRAPH != plain
    assert GRAPH.fingerprint != plain.fingerprint and "gated" not in plain.to_dict()
    assert GRAPH.describe() == "2 sequential layers, 4 gated heads, 2 key-value heads"
    apart = SpanGraph.of(GRAPH, ("S", "rest"))
    assert graph_of(apart.to_dict()) == apart
    assert apart.destinations[apart.gate_readers(0).start].name == "a0.h0.gate@S"


def test_gates_stay_where_groups_are_joined_and_are_a_class_of_their_own():
    wide = GRAPH.ungrouped
    joined = join_scores(Scores(wide.exists.double(), wide, {}), GRAPH)
    assert (joined.of("embed", "a1.h2.gate"), joined.of("embed", "a1.g1.k")) == (1.0, 2.0)
    assert class_subsets(Circuit.full(GRAPH))["into gates"].size == 4 * 1 + 4 * 6


def test_attribution_graphs_hold_gates_as_they_hold_patterns(model):
    features = Transcoders(model, feature_laws.synthetic(model), first=True)
    subject = feature_laws.subject(model, features)
    for law, missed in feature_laws.misses(subject, feature_laws.some_units(subject)):
        assert missed < 1e-4, law  # float32


def test_what_knows_no_gates_says_so(model):
    assert model.graph == GRAPH
    with pytest.raises(ValueError, match="EAP-IG's graphs know no gates of heads"):
        table_of(Circuit.full(GRAPH))
    task = judged._task(judged._tokens(), judged._corrupted())
    said = relp(model, task, logit_diff).provenance["unruled"]
    assert any("a1's gates: no rule says" in one for one in said)
