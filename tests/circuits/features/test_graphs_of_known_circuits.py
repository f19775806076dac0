"""Models whose neurons are ReLUs, each a row of a known table: the graph is the model."""

import feature_laws
import pytest
import torch

from circuits.features import Convention, Neurons, Transcoders, heads_through, trace
from patching.dictionaries import Dictionaries, Dictionary, attach
from patching.model import Model
from patching.models import known
from patching.models.truth import library


@pytest.fixture(scope="module", params=library.relu_names())
def name(request):
    return request.param


@pytest.fixture(scope="module")
def model(name):
    return Model.load(name, dtype=torch.float64)


@pytest.fixture(scope="module")
def prompt(name):
    return known(name, n=4).task.prompts[1]


@pytest.fixture(scope="module")
def graph(model, prompt):
    whole = Convention(keep=1.0)
    return trace(model, prompt.clean, "neurons", logits=1, convention=whole, prune=False)


def own_neurons(model) -> Dictionaries:
    """Every MLP as a dictionary: `W_enc = W_in`, `W_dec = W_out`, nothing left over."""
    members = []
    for block in model.blocks:
        mlp = block.bridge.mlp
        w_in, w_out = mlp.W_in.detach(), mlp.W_out.detach()
        place, zeros = f"m{block.index}", torch.zeros(w_in.shape[1], dtype=w_in.dtype)
        tensors = w_in, mlp.b_in.detach(), w_out, mlp.b_out.detach(), zeros
        members.append(Dictionary(f"neurons of {place}", f"{place}.in", place, *tensors))
    return Dictionaries("own neurons", tuple(members))


def test_nothing_is_left_over_and_the_answer_is_foreseen(graph, prompt):
    assert graph.replacement == graph.completeness == 1.0
    assert graph.names[-1].startswith(f"logit.{prompt.answers[0]}@")
    told = graph.facts["validity"]
    assert isinstance(told, dict) and told["attention and norms"] == 1.0  # of removals, for real


def test_the_graph_of_their_dictionaries_is_that_of_the_neurons(model, prompt, graph):
    made = own_neurons(model)
    assert all(fit.fvu < 1e-12 for fit in attach(model, made, [prompt.clean]).fits)
    whole = Convention(keep=1.0)
    features = Transcoders(model, made, first=True)
    found = trace(
        model, prompt.clean, features, logits=1, convention=whole, prune=False, validity=0
    )
    assert found.replacement == pytest.approx(1.0) and found.completeness == pytest.approx(1.0)
    for source, target, weight in zip(graph.sources, graph.targets, graph.weights, strict=True):
        ends = (graph.names[int(i)].replace(".n", ".f") for i in (source, target))
        assert found.of(*ends) == pytest.approx(float(weight), abs=1e-9)


def test_only_heads_of_the_known_circuit_carry_edges(name, model, prompt, graph):
    structural = known(name).structural
    reading = {edge.partition("->")[0] for edge in structural}
    end, last = f"@{len(prompt.clean) - 1}", f"m{len(model.blocks) - 1}.n"
    target = next(x for x in graph.names[::-1] if x.startswith(last) and x.endswith(end))
    carried = set()
    for position in range(len(prompt.clean)):
        source = f"embed@{position}"
        through = heads_through(model, graph, "neurons", source=source, target=target)
        carried |= {f"a{i}.h{j}" for i, j in (through.abs() > 1e-6).nonzero().tolist()}
    assert carried and carried <= reading


def test_the_laws_hold_to_rounding(model, prompt):
    subject = feature_laws.subject(model, Neurons(model), tokens=prompt.clean)
    for law, missed in feature_laws.misses(subject, [*range(subject.writers.n_units)]):
        assert missed < 1e-11, law
