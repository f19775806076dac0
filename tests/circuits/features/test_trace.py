"""Attribution graphs: circuit-tracer's own numbers, and what is asked for wrongly."""

from pathlib import Path

import families
import feature_laws
import numpy as np
import pytest
import torch

from circuits.features import Convention, Transcoders, trace
from circuits.features.pruning import prune_masks
from circuits.features.validity import total_effects
from patching.dictionaries import Dictionaries, Dictionary, load_dictionaries
from patching.lens.direct import Aim
from patching.memory import budget
from patching.model import Model
from patching.models import known

SHARED = Path(__file__).resolve().parents[4] / "shared"
GOLDEN = SHARED / "golden" / "features"
NEEDED = [GOLDEN / "attribution_graph.npz", SHARED / "models" / "stories260K"]
TOKENS = [1, 5, 6, 7]


@pytest.fixture(scope="module")
def stored():
    if not all(path.exists() for path in NEEDED):
        pytest.skip("the reference graph is not here")
    return np.load(NEEDED[0])


@pytest.fixture(scope="module")
def stories(stored):
    return Model.load(str(NEEDED[1]))


@pytest.fixture(scope="module")
def transcoders():
    return load_dictionaries(GOLDEN / "transcoders")


@pytest.fixture(scope="module")
def toy():
    return Model.load("toy-llama")


@pytest.fixture(scope="module")
def theirs(stored, stories, transcoders):
    tokens = stored["tokens"].tolist()
    return trace(stories, tokens, transcoders, convention="circuit-tracer", prune=False)


def test_circuit_tracers_graph_is_repeated_cell_by_cell(stored, theirs):
    nodes, adjacency = theirs.nodes, torch.tensor(stored["adjacency"])
    features = torch.stack([nodes.layers, nodes.positions, nodes.indices], dim=1)[:1140]
    assert torch.equal(features.int(), torch.tensor(stored["active_features"]))
    assert nodes.indices[-10:].tolist() == stored["logit_tokens"].tolist()
    found = torch.zeros_like(adjacency).index_put((theirs.targets, theirs.sources), theirs.weights)
    torch.testing.assert_close(found, adjacency, atol=1e-5, rtol=0)  # both in float32, up to 2.9
    assert [theirs.replacement, theirs.completeness] == pytest.approx(stored["scores"])


def test_circuit_tracers_pruning_is_repeated_edge_by_edge(stored, theirs):
    nodes, edges = prune_masks(theirs, nodes=0.8, edges=0.98)
    n = len(theirs)
    theirs_kept = np.unpackbits(stored["edge_mask"])[: n * n].reshape(n, n)
    kept = torch.zeros(n, n, dtype=torch.bool)
    kept[theirs.targets[edges], theirs.sources[edges]] = True
    assert torch.equal(nodes, torch.tensor(stored["node_mask"]))
    assert torch.equal(kept, torch.tensor(theirs_kept, dtype=torch.bool))


def test_our_own_graph_leaves_no_sum_open(stored, stories, transcoders):
    graph = trace(stories, stored["tokens"].tolist(), transcoders)
    # dense, in float64, by plain PyTorch: .788 and .933; 1 % of each row is not kept here
    assert graph.replacement == pytest.approx(0.788, abs=0.01)
    assert graph.completeness == pytest.approx(0.933, abs=0.005)
    torch.testing.assert_close(graph.incoming(), graph.reads, atol=2e-5, rtol=0)
    assert (
        graph.facts["pruned"] == {"nodes": 0.8, "edges": 0.98, "of": 1270}
        and 100 < len(graph) < 160
    )


def test_all_neurons_leave_no_error(toy):
    graph = trace(toy, TOKENS[:2], "neurons", prune=False, validity=0)
    assert not bool((graph.nodes.kinds == 1).any())
    assert graph.replacement == graph.completeness == 1.0
    assert graph.names[0].startswith("m0.n") and graph.names[-1].startswith("logit.")


def test_few_neurons_are_those_of_largest_total_effect(toy):
    """The effect of each by the whole graph's paths: (I - W)^-1, W per unit of activation."""
    whole = trace(
        toy, TOKENS[:2], "neurons", logits=1, convention=Convention(keep=1.0), prune=False
    )
    n = int((whole.nodes.kinds == 0).sum())
    dense = torch.zeros(len(whole), n, dtype=torch.float64)
    inner = whole.sources < n
    dense[whole.targets[inner], whole.sources[inner]] = whole.weights[inner].double()
    paths = dense / whole.nodes.values[:n]
    effects = torch.linalg.solve((torch.eye(n) - paths[:n]).T, paths[-1]) * whole.nodes.values[:n]
    best = {whole.names[i] for i in effects.abs().topk(20).indices.tolist()}
    few = trace(toy, TOKENS[:2], "neurons", logits=1, convention=Convention(most=20), prune=False)
    assert {name for name in few.names if ".n" in name} == best
    torch.testing.assert_close(few.incoming(), few.reads, atol=1e-4, rtol=0)


def test_a_difference_of_logits_is_one_target(toy):
    aim = Aim(torch.tensor([[5, 6]]), torch.tensor([[1.0, -1.0]], dtype=torch.float64))
    graph = trace(toy, TOKENS, "neurons", aim=aim, convention=Convention(most=50), prune=False)
    logits = toy.run(TOKENS).logits[0, -1]
    assert graph.names[-1] == "logit difference@3"
    assert float(graph.reads[-1]) == pytest.approx(float(logits[5] - logits[6]), abs=1e-4)


def test_rows_are_the_same_in_small_pieces(toy):
    features = Transcoders(toy, feature_laws.synthetic(toy))
    at_once = trace(toy, TOKENS, features, aim=[5, 9], prune=False)
    with budget(2**16):
        cut = trace(toy, TOKENS, features, aim=[5, 9], prune=False)
    assert at_once.names == cut.names
    torch.testing.assert_close(at_once.weights, cut.weights, atol=1e-5, rtol=1e-4)


def test_the_first_position_is_an_error_unless_said_otherwise(toy):
    made = feature_laws.synthetic(toy)
    names = trace(toy, TOKENS, made, prune=False).names
    assert "m0.error@0" in names and not any(".f" in name and "@0" in name for name in names)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"features": "nerves"}, "no features named 'nerves'; 'neurons', or dictionaries"),
        ({"convention": "mine"}, "no convention named 'mine'; there are own, circuit-tracer"),
        ({"logits": 0}, "at least one logit, got 0"),
        ({"prompt": [[1, 2], [3, 4]]}, "a graph is of one prompt, got 2"),
        ({"aim": []}, "got no tokens to aim at"),
        ({"aim": 10**6}, "there is no token 1000000"),
    ],
)
def test_what_cannot_be_traced_is_refused(toy, change, message):
    wanted = {"prompt": TOKENS, "features": "neurons", **change}
    rest = {name: wanted[name] for name in ("aim", "logits", "convention") if name in wanted}
    with pytest.raises(ValueError, match=message):
        trace(toy, wanted["prompt"], wanted["features"], **rest)


def test_dictionaries_of_other_places_widths_and_models_are_refused(toy):
    d = toy.blocks[0].w_o.shape[-1]

    def made(reads: str, writes: str, width: int = d) -> Dictionaries:
        zeros = torch.zeros(width, 3), torch.zeros(3), torch.zeros(3, width), torch.zeros(width)
        one = Dictionary("x", reads, writes, *zeros, torch.zeros(3))
        return Dictionaries("x", (one,))

    with pytest.raises(ValueError, match="'x' reads r0.post and writes r0.post; a graph needs"):
        trace(toy, TOKENS, made("r0.post", "r0.post"))
    with pytest.raises(ValueError, match="'x': there is no place 'm9': toy-llama has 4 layers"):
        trace(toy, TOKENS, made("m9.in", "m9"))
    with pytest.raises(ValueError, match=f"it takes 5 numbers at m1.in, where .* has {d}"):
        trace(toy, TOKENS, made("m1.in", "m1", width=5))
    other = Model.load("truth/induction")
    with pytest.raises(ValueError, match="made ready for toy-llama, not this"):
        trace(other, TOKENS, Transcoders(toy, made("m1.in", "m1")))


def test_validity_is_how_well_removals_in_the_real_model_are_foreseen(stored, stories, transcoders):
    graph = trace(stories, stored["tokens"].tolist(), transcoders, prune=False, validity=60)
    told = graph.facts["validity"]
    assert isinstance(told, dict) and told["n"] == 60
    # by plain PyTorch in float64, of ten logits: .91, .30 and .22
    held, attention, nothing = (told[k] for k in ("attention and norms", "attention", "nothing"))
    assert (held, attention, nothing) == pytest.approx((0.91, 0.30, 0.22), abs=0.03)


def test_total_effects_are_those_of_answering_units(toy):
    subject = feature_laws.subject(toy, Transcoders(toy, feature_laws.synthetic(toy), first=True))
    n = subject.writers.n_units
    removed = feature_laws.held(subject, list(range(n)), 0.0, answer=True)
    as_it_is = feature_laws.held(subject, [0], 1.0, answer=True)
    found = total_effects(subject.graph)[:, :n]
    expected = (as_it_is - removed)[:, n:].T.double()
    error = (found - expected).abs().max() / expected.abs().max()
    assert error < 1e-3  # float32, over paths of four layers


def test_relu_neurons_are_their_own_dictionary():
    """The graph is the model: nothing is left over, and reads plus bias are activations."""
    model = Model.load(families.module("opt", torch.float64))
    graph = trace(model, TOKENS, "neurons", prune=False)
    units = graph.nodes.kinds == 0
    assert not bool((graph.nodes.kinds == 1).any())
    assert graph.replacement == graph.completeness == 1.0
    weights = dict(families.module("opt", torch.float64).named_parameters())
    names = [f"model.decoder.layers.{i}.fc1.bias" for i in range(len(model.blocks))]
    biases = torch.stack([weights[name].detach() for name in names])
    offset = biases[graph.nodes.layers[units], graph.nodes.indices[units]]
    torch.testing.assert_close(graph.reads[units] + offset, graph.nodes.values[units])
    told = graph.facts["validity"]
    assert isinstance(told, dict) and told["attention and norms"] > 0.6  # all but switches


def test_a_known_circuit_shows_the_neuron_that_computes_it():
    """The table of `truth/comparison` has a neuron a row; on a pair, one fires at the end."""
    model = Model.load("truth/comparison")
    prompt = known("truth/comparison", n=1).task.prompts[0]
    graph = trace(model, prompt.clean, "neurons", logits=1)
    assert graph.replacement == graph.completeness == 1.0
    assert graph.names[-1].startswith(f"logit.{prompt.answers[0]}@")
    fired = [name for name in graph.names if ".n" in name]
    assert len(fired) == 1 and fired[0].endswith(f"@{len(prompt.clean) - 1}")
