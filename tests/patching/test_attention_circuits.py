"""OV and QK circuits against whole matrices over the vocabulary."""

import families
import pytest
import torch

from patching import attention, memory
from patching.anatomy.blocks import EMBEDDING
from patching.anatomy.norms import find_norm
from patching.model import Model


@pytest.fixture(scope="module", params=families.names())
def model(request):
    return families.load(request.param)


def test_token_embeddings_are_what_enters_the_stream_in_every_family(model):
    task, kept = families.task(), {}
    batch = next(task.batches(len(task)))
    hooks = [(EMBEDDING, lambda x: kept.update(whole=x))]
    if model.learns_positions:
        hooks.append(("pos_embed.hook_out", lambda x: kept.update(positions=x)))
    with torch.no_grad():
        model.answer_logits(batch.clean, batch, hooks)
    expected = kept["whole"] - kept.get("positions", 0.0)
    torch.testing.assert_close(attention.token_embeddings(model)[batch.clean], expected)


def test_a_qk_circuit_is_the_score_of_a_token_with_itself_at_the_first_position(model):
    """At distance 0, in layer 0, without learned positions: what the model itself computes."""
    if model.learns_positions or type(model.blocks[0].bridge.attn).__name__ == "AttentionBridge":
        pytest.skip("learned positions are part of its scores, or no hook shows them")
    found, tokens = {}, torch.arange(4, 40)[:, None]
    hook = ("blocks.0.attn.hook_attn_scores", lambda x, hook: found.update(scores=x[:, :, 0, 0]))
    with torch.no_grad(), model.bridge.hooks(fwd_hooks=[hook]):
        model.bridge(tokens)
    scale = model.blocks[0].bridge.attn.original_component.scaling
    cap = getattr(model.bridge.cfg, "attn_scores_soft_cap", None) or 0.0
    for h in range(model.graph.n_heads):
        circuit = attention.qk_circuit(model, f"a0.h{h}")
        score = (circuit.rows * circuit.columns).sum(dim=1)[4:40] * scale
        score = cap * torch.tanh(score / cap) if cap > 0 else score
        expected = found["scores"][:, h]
        # norms and rotations run in float32
        torch.testing.assert_close(score.to(expected.dtype), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma2", "olmo2"])
def test_an_ov_circuit_is_the_written_out_product(family):
    model = Model.load(families.module(family, torch.float64))
    block, h = model.blocks[1], 3
    embedding = attention.token_embeddings(model)
    norm, final = block.attention_norm, find_norm(model.bridge.ln_final)
    if norm is not None:
        centred = embedding - embedding.mean(1, keepdim=True) if norm.centred else embedding
        size = (centred.square().mean(1, keepdim=True) + norm.eps).sqrt()
        embedding = centred / size * norm.gamma
    write = embedding @ block.w_qkv[2][h * model.graph.n_kv_heads // 4] @ block.w_o[h]
    if block.post_attention_norm is not None:
        write = write * block.post_attention_norm.gamma
    if final.centred:
        write = write - write.mean(1, keepdim=True)
    whole = (write * final.gamma @ model.bridge.unembed.W_U).T  # output, source
    circuit = attention.ov_circuit(model, "a1.h3")
    torch.testing.assert_close(circuit.rows @ circuit.columns.T, whole)
    # the other eigenvalues of the whole matrix are 0, up to rounding
    values = torch.linalg.eigvals(whole)
    largest = values[values.abs().argsort(descending=True)[: block.w_o.shape[1]]]
    torch.testing.assert_close(circuit.eigenvalues, largest.real.sort(descending=True).values)
    score = float(largest.real.sum() / largest.abs().sum())
    found = attention.copying_scores(model).at(layer="1", head="h3")
    assert found == pytest.approx(score, abs=1e-8)


def test_top_pairs_are_those_of_the_whole_matrix_whatever_the_tiles():
    model = Model.load(families.module("llama", torch.float64))
    circuit = attention.qk_circuit(model, "a0.h1")
    whole = circuit.rows @ circuit.columns.T
    expected = whole.flatten().topk(15)
    for size in (1, 97 * 8 * 10, 2**25):
        with memory.budget(size):
            table = circuit.top(15)
        assert list(table.columns) == ["query", "query id", "key", "key id", "value"]
        flat = table["query id"] * families.VOCAB + table["key id"]
        assert flat.tolist() == expected.indices.tolist()
        assert table["value"].tolist() == pytest.approx(expected.values.tolist())
    column = circuit.of(7, 4)
    assert column["query id"].tolist() == whole[:, 7].topk(4).indices.tolist()


def test_the_wired_induction_head_copies_and_its_texts_are_shown():
    model = Model.load("truth/induction")
    table = attention.ov_circuit(model, "a1.h3").top(10)
    assert (table["output"] == table["source"]).all()
    scores = attention.copying_scores(model)
    assert scores.top(8) == [
        (("1", "h3"), pytest.approx(1))
    ]  # all others write nothing that is read


def test_heads_and_tokens_that_do_not_exist_are_refused():
    model = Model.load("truth/induction")
    with pytest.raises(ValueError, match="layer 1 of .* has 4 heads"):
        attention.ov_circuit(model, "a1.h9")
    with pytest.raises(ValueError, match="'m0' is no head"):
        attention.qk_circuit(model, "m0")
    circuit = attention.ov_circuit(model, "a1.h3")
    with pytest.raises(ValueError, match="there is no token 99; ids are 0 to 26"):
        circuit.of(99)
    with pytest.raises(ValueError, match="cannot name the top 0 pairs"):
        circuit.top(0)
    with pytest.raises(ValueError, match="cannot name the top 0 tokens"):
        circuit.of(5, 0)
