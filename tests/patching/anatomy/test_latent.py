"""Latent attention: its readers, and what of it is refused; against plain hooks in `judged`."""

import copy

import pytest
import torch
import zoo
from judged import _corrupted, _task, _tokens, judge

from circuits import eap, relp
from patching import attention
from patching.anatomy.latent import LatentAttention
from patching.anatomy.ungrouping import Ungrouped
from patching.decoding import continue_greedily
from patching.metrics import logit_diff
from patching.model import Model


@pytest.fixture(scope="module")
def plain():
    return zoo.build("DeepseekV3ForCausalLM")


@pytest.fixture(scope="module")
def model(plain):
    return Model.load(copy.deepcopy(plain))


@pytest.mark.parametrize("name", ["DeepseekV3ForCausalLM", "DeepseekV2ForCausalLM:lite"])
def test_circuits_are_what_plain_hooks_on_the_plain_projections_give(name):
    """Queries made of a latent, and of the stream; keys and values together, and values alone."""
    assert judge(name).verdict == "right"


def test_the_latent_is_read_for_keys_and_for_values_and_shared_by_all_heads(model):
    names = [node.name for node in model.graph.destinations[:7]]
    assert names == ["a0.h0.q", "a0.h1.q", "a0.h2.q", "a0.h3.q", "a0.g0.k", "a0.g0.v", "m0"]
    assert model.graph.feeds[model.graph.dest_index("a1.g0.v")].sum() == 4


def test_the_plain_model_is_computed_to_the_bit(plain, model):
    assert torch.equal(model.run(_tokens()).logits, zoo.logits_of(plain, _tokens()))


def test_what_a_reader_does_not_have_is_zero(model):
    (attention,) = (model.blocks[1].bridge.attn.original_component,)
    assert isinstance(attention, LatentAttention)
    queries, keys, values = model.blocks[1].w_qkv
    latent = 16  # of 24 with the part that is rotated; queries are made of 12
    assert queries.shape[2] == keys.shape[2] == 24
    assert not queries[:, :, 12:].any() and not values[:, :, latent:].any()
    assert torch.equal(values[:, :, :latent], keys[:, :, :latent])


def test_norms_of_latents_are_said_to_be_without_rule(model):
    scores = relp(model, _task(_tokens(), _corrupted()), logit_diff)
    assert "head norm at blocks.0.attn: norms of its latents" in str(scores.provenance["unruled"])


def test_a_deep_copy_scores_alike(model):
    task = _task(_tokens(), _corrupted())
    found = eap(copy.deepcopy(model), task, logit_diff).matrix
    assert torch.equal(found, eap(model, task, logit_diff).matrix)
    assert copy.deepcopy(model).identity == model.identity


def test_its_circuits_over_the_vocabulary_are_refused(model):
    """Zeros fill values and heads up to one size: their product would be of numbers by chance."""
    with pytest.raises(ValueError, match="layer 0 is not what mixes its values"):
        attention.ov_circuit(model, "a0.h1")
    with pytest.raises(ValueError, match="layer 0 is not what mixes its values"):
        attention.copying_scores(model)
    with pytest.raises(ValueError, match="makes queries and keys of latents"):
        attention.qk_circuit(model, "a0.h1")


def test_a_latent_is_not_given_out_to_heads():
    with pytest.raises(ValueError, match="is refused: .*all its keys and values come from one lat"):
        Model.load(Ungrouped(zoo.build("YoutuForCausalLM")))


INDEXED = ["GlmMoeDsaForCausalLM", "GlmMoeDsaForCausalLM:shared", "DeepseekV32ForCausalLM"]


@pytest.mark.parametrize("name", sorted({*INDEXED} & {*zoo.names()}))
def test_attention_that_chooses_its_tokens_is_right_while_it_takes_all(name):
    """The choice of a layer may be that of the layer before, which circuits may skip."""
    plain = zoo.build(name)
    model = Model.load(copy.deepcopy(plain))
    assert torch.equal(model.run(_tokens()).logits, zoo.logits_of(plain, _tokens()))
    assert judge(name).verdict == "right"
    how = {"max_new_tokens": 3, "do_sample": False, "pad_token_id": 0, "eos_token_id": zoo.VOCAB}
    greedy = plain.generate(_tokens()[:1], **how)[0, -3:]
    assert continue_greedily(model, _tokens()[0].tolist(), n=3) == tuple(greedy.tolist())


def test_a_prompt_too_long_to_take_all_its_tokens_is_refused():
    model = Model.load(zoo.build("GlmMoeDsaForCausalLM"))
    with pytest.raises(ValueError, match="prompt of 65 tokens: from 65 on, this model's atten"):
        model.run(torch.full((1, 65), 3))
    with pytest.raises(ValueError, match="chooses 4 of them by what it reads in the stream, which"):
        Model.load(zoo.build("GlmMoeDsaForCausalLM:sparse"))
