"""Laws for whatever hypothesis thinks of: files round trip, names parse, circuits are sets."""

import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from circuits import Circuit, Scores, load, load_scores, random_circuit, save, top_n
from circuits.export import from_mib_json, from_mib_pt, to_mib_json, to_mib_pt
from circuits.export.networks import from_networkx
from circuits.select import greedy, threshold
from patching.files.parsing import parse_json
from patching.graph import Graph
from patching.neurons.selection import Neurons
from patching.tasks import Prompt, Task, files

# beartype looks at random items of lists
pytestmark = pytest.mark.filterwarnings("ignore:Do not use the `random` module")

quick = settings(
    derandomize=True,  # the same examples on every machine
    database=None,
    deadline=None,
    max_examples=25,
    suppress_health_check=[HealthCheck.too_slow],
)

ids = st.integers(0, 50_000)
words = st.text(st.characters(codec="utf-8"), max_size=12)
plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | words,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3),
    max_leaves=6,
)


@st.composite
def graphs(draw: st.DrawFn) -> Graph:
    n_kv_heads, group = draw(st.integers(1, 2)), draw(st.integers(1, 2))
    return Graph(draw(st.integers(1, 3)), n_kv_heads * group, n_kv_heads, draw(st.booleans()))


@st.composite
def scores(draw: st.DrawFn, graph: Graph | None = None, *, few: bool = False) -> Scores:
    """Any finite numbers; `few` makes many of them equal."""
    graph = draw(graphs()) if graph is None else graph
    numbers = st.integers(-3, 3).map(float) if few else st.floats(-1e300, 1e300)
    found = draw(st.lists(numbers, min_size=8, max_size=8))
    matrix = torch.zeros(graph.exists.shape, dtype=torch.float64)
    n = graph.n_edges
    order = torch.randperm(n, generator=torch.Generator().manual_seed(draw(st.integers(0, 99))))
    matrix[graph.exists] = torch.tensor(found, dtype=torch.float64).repeat(n // 8 + 1)[order]
    provenance = draw(st.dictionaries(words, plain, max_size=3))
    return Scores(matrix, graph, provenance)


@st.composite
def circuits(draw: st.DrawFn, graph: Graph | None = None) -> Circuit:
    graph = draw(graphs()) if graph is None else graph
    share, seed = draw(st.floats(0, 1)), draw(st.integers(0, 99))
    drawn = torch.rand(graph.exists.shape, generator=torch.Generator().manual_seed(seed))
    mask = graph.exists & (drawn < share)
    told = draw(st.none() | scores(graph))
    made_by = draw(st.dictionaries(words, plain, max_size=3))
    return Circuit(mask, graph, None if told is None or not mask.any() else told.matrix, made_by)


@st.composite
def tasks(draw: st.DrawFn) -> Task:
    def prompt() -> Prompt:
        n = draw(st.integers(1, 4))
        row = st.lists(ids, min_size=n, max_size=n).map(tuple)
        answers = draw(st.lists(ids, min_size=1, max_size=4, unique=True))
        right = draw(st.integers(1, len(answers)))
        keys = st.text("abcxyz _", min_size=1, max_size=5).map(lambda key: f"x {key}")
        extra = draw(st.dictionaries(keys, plain, max_size=2))
        return Prompt(draw(row), draw(row), tuple(answers[:right]), tuple(answers[right:]), extra)

    return Task(draw(words), tuple(prompt() for _ in range(draw(st.integers(1, 3)))))


def through(suffix: str, write, read):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"file{suffix}"
        write(path)
        return read(path)


@quick
@given(tasks())
def test_tasks_round_trip(task):
    back = through(".json", lambda path: files.to_json(task, path), files.from_json)
    assert back == task
    assert [p.extra for p in back.prompts] == [p.extra for p in task.prompts]


@pytest.mark.parametrize("suffix", [".json", ".graphml", ".gexf", ".gml", ".nodelink.json"])
def test_circuits_round_trip_with_scores_and_provenance(suffix):
    @quick
    @given(circuits())
    def law(circuit):
        back = through(suffix, lambda path: save(circuit, path), load)
        assert_same(back, circuit)
        assert back.provenance == circuit.provenance

    law()


@quick
@given(circuits())
def test_tables_and_networkx_graphs_round_trip(circuit):
    back = through(".csv", lambda path: save(circuit, path), lambda p: load(p, circuit.graph))
    assert_same(back, circuit)
    assert_same(from_networkx(circuit.to_networkx()), circuit)


@pytest.mark.parametrize(
    ("write", "read"), [(to_mib_json, from_mib_json), (to_mib_pt, from_mib_pt)]
)
def test_mib_files_round_trip(write, read):
    """Scores of a group are split evenly among its heads and summed again: halves lose nothing."""

    @quick
    @given(st.one_of(circuits(), scores()))
    def law(result):
        back = through(
            ".mib", lambda p: write(result, p, d_model=8), lambda p: read(p, result.graph)
        )
        assert type(back) is type(result)
        assert back.graph == result.graph
        if isinstance(result, Scores):
            torch.testing.assert_close(back.matrix, result.matrix, rtol=1e-15, atol=1e-320)
        else:
            assert back == result
        assert back.provenance == result.provenance

    law()


@quick
@given(scores())
def test_scores_round_trip(found):
    back = through(".safetensors", found.save, load_scores)
    assert torch.equal(back.matrix, found.matrix)
    assert (back.graph, back.provenance) == (found.graph, found.provenance)


@quick
@given(st.lists(st.tuples(st.integers(0, 99), st.integers(0, 9999)), unique=True), st.data())
def test_neurons_round_trip(places, data):
    worth = {place: data.draw(st.floats(-1e9, 1e9)) for place in places[::2]}
    back = through(".json", Neurons(places, worth, {"method": "x"}).save, Neurons.load)
    assert tuple(back) == tuple(places)
    assert back.scores == worth
    assert Neurons.named(*back.names).places == back.places


@quick
@given(graphs())
def test_every_name_of_a_graph_leads_back_to_its_place(graph):
    assert [graph.source_index(node.name) for node in graph.sources] == [*range(len(graph.sources))]
    places = [graph.dest_index(node.name) for node in graph.destinations]
    assert places == [*range(len(graph.destinations))]
    assert Graph.from_dict(graph.to_dict()) == graph
    assert Circuit.from_edges(graph, Circuit.full(graph).edges) == Circuit.full(graph)


@quick
@given(st.data())
def test_circuits_are_sets(data):
    graph = data.draw(graphs())
    a, b, c = (data.draw(circuits(graph)) for _ in range(3))
    assert (a | b) == (b | a)
    assert (a & b) == (b & a)
    assert (a | (b & c)) == ((a | b) & (a | c))
    assert ~(a | b) == (~a & ~b)
    assert ~~a == a
    assert (a - b) == (a & ~b)
    assert (a - b).size + (a & b).size == a.size == len({*a.edges})
    assert (a <= b) == ({*a.edges} <= {*b.edges})
    assert (a & b) <= a <= (a | b)


@quick
@given(scores(few=True), st.data(), st.sampled_from(["absolute", "signed"]))
def test_selectors_choose_exactly_as_many_and_the_best(found, data, ranking):
    n = data.draw(st.integers(0, found.graph.n_edges))
    chosen = top_n(found, n, ranking=ranking)
    assert chosen.size == n
    merit = found.matrix.abs() if ranking == "absolute" else found.matrix
    rest = found.graph.exists & ~chosen.mask
    if n and rest.any():
        assert merit[chosen.mask].min() >= merit[rest].max()
    assert chosen <= top_n(found, min(n + 1, found.graph.n_edges), ranking=ranking)
    assert top_n(replace(found, provenance={}), n, ranking=ranking) == chosen
    assert greedy(found, n, ranking=ranking).size <= n
    assert random_circuit(found.graph, n, seed=n).size == n
    limit = float(data.draw(st.integers(-3, 3)))
    assert torch.equal(
        threshold(found, limit, ranking=ranking).mask, found.graph.exists & (merit >= limit)
    )


@quick
@given(plain)
def test_json_of_plain_values_is_read_back(value):
    import json

    assert parse_json(json.dumps(value)) == value


def assert_same(back: Circuit, circuit: Circuit) -> None:
    assert back == circuit
    assert (back.scores is None) == (circuit.scores is None)
    if circuit.scores is not None and back.scores is not None:
        assert torch.equal(back.scores, circuit.scores)
