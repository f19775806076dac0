"""Gemma 4: what is written otherwise on loading, what is refused; judged against plain hooks."""

import copy

import pytest
import torch
import zoo
from judged import _corrupted, _task, _tokens, judge

from circuits import eap, relp
from circuits.features import Neurons, trace
from patching import attention
from patching.anatomy.norms import widen
from patching.anatomy.ungrouping import Ungrouped
from patching.metrics import logit_diff
from patching.model import Model

WIDE = "Gemma4ForCausalLM:wide"


@pytest.fixture(scope="module")
def plain():
    """The last layer's heads are twice as wide, its values its keys, and one group shares them."""
    return zoo.build(WIDE)


@pytest.fixture(scope="module")
def model(plain):
    return Model.load(copy.deepcopy(plain))


def refused(name, what, **changes):
    module = zoo.build(name)
    for key, value in changes.items():
        module.get_submodule("model.layers.1").get_buffer(key).fill_(value)
    with pytest.raises(ValueError, match=f"Gemma4ForCausalLM is refused: .*{what}"):
        Model.load(module)


@pytest.mark.parametrize("name", [WIDE, "Gemma4ForCausalLM:experts"])
def test_circuits_are_what_plain_hooks_give(name):
    assert judge(name).verdict == "right"


def test_the_plain_model_is_computed(plain, model):
    torch.testing.assert_close(model.run(_tokens()).logits, zoo.logits_of(plain, _tokens()))


def test_heads_are_even_and_what_a_narrower_one_does_not_have_is_zero(model):
    assert model.graph.describe() == "2 sequential layers, 4 heads, 2 key-value heads"
    for weight in model.blocks[0].w_qkv:
        assert weight.shape[2] == 16 and not weight[:, :, 8:].any()
    keys, values = model.blocks[1].w_qkv[1:]
    assert torch.equal(keys, values) and torch.equal(keys[0], keys[1])  # one head, for two groups


def test_the_stream_is_counted_without_the_scales_of_layers(plain, model):
    """Behind layer 1 the stream is the plain one's over the scales of both."""
    scales = [float(layer.layer_scalar) for layer in plain.model.layers]
    assert max(scales) < 0.8
    last = []
    handle = plain.model.norm.register_forward_pre_hook(lambda _, x: last.append(x[0]))
    zoo.logits_of(plain, _tokens())
    handle.remove()
    found = model.run(_tokens(), cache=["r1.post"])["r1.post"]
    torch.testing.assert_close(found * scales[0] * scales[1], last[0])


def test_heads_may_each_have_keys_and_values_of_their_own(plain, model):
    apart = Model.load(Ungrouped(copy.deepcopy(plain)))
    assert apart.graph == model.graph.ungrouped
    task, readers = _task(_tokens(), _corrupted()), model.graph.k_readers(1)
    found, together = (eap(m, task, logit_diff).matrix for m in (apart, model))
    sums = found[:, apart.graph.k_readers(1)].unflatten(1, (2, 2)).sum(dim=2)
    rows = [apart.graph.source_index(node.name) for node in model.graph.sources]
    torch.testing.assert_close(sums[rows], together[:, readers], rtol=1e-4, atol=1e-5)


def test_rules_know_the_norms_of_queries_keys_and_values(model):
    assert relp(model, _task(_tokens(), _corrupted()), logit_diff).provenance["unruled"] == []


def test_an_attribution_graph_holds_the_norms_of_values(model):
    """Else what neurons read would not add up, and the graph be refused."""
    graph = trace(model, _tokens()[0].tolist(), Neurons(model), validity=0)
    assert len(graph.nodes) > 20


def test_a_qk_circuit_is_the_score_of_a_token_with_itself(plain, model):
    """Narrower heads, of layer 0; an OV circuit is refused, as its values pass a norm."""
    layer, h = plain.model.layers[0], 1
    x = layer.input_layernorm(plain.model.embed_tokens(_tokens()[0]))
    inside = layer.self_attn
    queries = inside.q_norm(inside.q_proj(x).view(-1, 4, 8))[:, h]
    keys = inside.k_norm(inside.k_proj(x).view(-1, 2, 8))[:, 0]
    circuit = attention.qk_circuit(model, "a0.h1")
    found = (circuit.rows * circuit.columns).sum(dim=1)[_tokens()[0]]
    torch.testing.assert_close(found, widen((queries * keys).sum(dim=1)), rtol=1e-4, atol=1e-4)
    with pytest.raises(ValueError, match="is not what mixes its values"):
        attention.ov_circuit(model, "a0.h1")


def test_a_folder_is_the_module_and_a_deep_copy_scores_alike(plain, model, tmp_path):
    plain.save_pretrained(tmp_path)
    read = Model.load(tmp_path)
    assert torch.equal(read.run(_tokens()).logits, model.run(_tokens()).logits)
    assert copy.deepcopy(model).identity == model.identity
    assert Model.load(tmp_path).identity == read.identity


def test_what_no_edge_carries_is_refused():
    refused("Gemma4ForCausalLM", "an embedding of their own for every token .per-layer inputs.")
    refused(WIDE, "layer 1 multiplies its stream by -2", layer_scalar=-2.0)
