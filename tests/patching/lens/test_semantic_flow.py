"""Semantic information flow: shares add up, the graph conserves, words are those of the lens."""

import families
import lensed
import networkx as nx
import pytest
import torch

from patching.lens import logit_lens, semantic_flow
from patching.model import Model

FAMILIES = ["gpt2", "llama", "gemma2", "neox", "phi", "granite", "mixtral"]


@pytest.fixture(scope="module")
def gpt2():
    return lensed.of_family("gpt2")


@pytest.fixture(scope="module")
def toy():
    return lensed.toy()


@pytest.fixture(scope="module", params=FAMILIES)
def family(request):
    return request.param


@pytest.fixture(scope="module")
def model(family):
    return lensed.of_family(family)


@pytest.fixture(scope="module")
def flow(family, model):
    return semantic_flow(model, [5, 9, 3, 7, 11], neurons=0 if family == "mixtral" else 2)


def test_contributions_sum_to_the_centred_logit_of_the_predicted_token(family, model, flow):
    logits = logit_lens(model, [5, 9, 3, 7, 11], "r1.post", positions=-1, softcap=False).logits()
    logits = logits.flatten().double()
    expected = float(logits.max() - logits.mean())
    assert flow.token == str(int(logits.argmax()))
    assert flow.total == pytest.approx(expected, rel=1e-5)
    writers = flow.table[flow.table.kind != "neuron"]
    # float32 norms of Hugging Face, and float32 throughout for experts
    assert writers.contribution.sum() == pytest.approx(expected, rel=1e-5)
    assert writers.share.sum() == pytest.approx(1, rel=1e-5)
    assert set(flow.table.position) == {4}


def test_what_flows_into_a_state_of_the_stream_flows_out(family, model, flow):
    states = [n for n, kind in flow.graph.nodes(data="kind") if kind == "stream"]
    has_mid = not model.blocks[0].parallel
    assert len(states) == 1 + len(model.blocks) * (1 + has_mid)
    for state in (*states, "logits"):
        into = sum(w for *_, w in flow.graph.in_edges(state, data="contribution"))
        out = [w for *_, w in flow.graph.out_edges(state, data="contribution")]
        assert len(out) == (state != "logits")
        assert into == pytest.approx(out[0] if out else flow.total, rel=1e-5)
    assert nx.is_directed_acyclic_graph(flow.graph)


def test_words_of_a_state_are_those_of_the_frozen_lens(family, model, flow):
    lens = logit_lens(
        model, [5, 9, 3, 7, 11], "r1.pre", positions=-1, scale="frozen", softcap=False
    )
    zero = torch.zeros_like(lens.states.final)
    sigma = lens.vocabulary.sigma(lens.states.final)
    biases = lens.vocabulary.logits(zero, sigma=sigma, softcap=False)
    moved = (lens.logits()[0] - biases).flatten()
    moved = moved - moved.mean()
    order = moved.argsort(descending=True).tolist()
    node = flow.graph.nodes["r1.pre"]
    assert [int(text) for text, _ in node["promoted"]] == order[:5]
    assert [int(text) for text, _ in node["suppressed"]] == order[::-1][:5]
    values = torch.tensor([value for _, value in node["promoted"]])
    assert (values - moved[order[:5]]).abs().max() < 1e-5 * moved.abs().max()


def test_the_strongest_neurons_point_at_their_mlp(gpt2):
    flow = semantic_flow(gpt2, [5, 9, 3], neurons=2, k=1)
    neurons = flow.table[flow.table.kind == "neuron"]
    assert neurons.groupby("layer").size().tolist() == [2, 2]
    every = semantic_flow(gpt2, [5, 9, 3], neurons=10_000, k=1).table
    every = every[(every.kind == "neuron") & (every.layer == 1)]
    assert len(every) == 128
    strongest = every.contribution.abs().nlargest(2).tolist()
    found = neurons[neurons.layer == 1]
    assert found.contribution.abs().tolist() == pytest.approx(strongest)
    assert all(flow.graph.has_edge(node, "m1") for node in found.node)


def test_a_table_speaks_in_words_and_any_token_can_be_followed(toy):
    flow = semantic_flow(toy, "The capital of France is", k=2)
    assert flow.token == "Paris"
    assert flow.table[flow.table.node == "a1.h1"].promoted.item().startswith("'Paris' +")
    rome = semantic_flow(toy, "The capital of France is", token="Rome", position=5)
    assert rome.token == "Rome"
    assert rome.total < flow.total


def test_wrong_wishes_are_refused(toy):
    with pytest.raises(ValueError, match=r"read for one prompt, got 2"):
        semantic_flow(toy, ["The", "The"])
    with pytest.raises(ValueError, match=r"the top 0 tokens"):
        semantic_flow(toy, "The", k=0)
    with pytest.raises(ValueError, match=r"how many to show of every MLP, got -1"):
        semantic_flow(toy, "The", neurons=-1)
    with pytest.raises(ValueError, match=r"position 2 lies beyond prompt 0"):
        semantic_flow(toy, "The", position=2)
    experts = Model.load(families.module("mixtral", torch.float32))
    with pytest.raises(ValueError, match=r"shows no neurons in m0"):
        semantic_flow(experts, [5, 6])
