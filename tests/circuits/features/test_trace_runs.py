"""Traces that take long: kept in a run's folder, and of long prompts."""

import pytest
import torch
import transformers as hf

from circuits.features import rows, trace
from patching.model import Model
from patching.work import Run
from patching.work.chunk import carry_out

TOKENS = [1, 5, 6, 7]


def stop(work, missing, keep):
    """An engine that somebody interrupts after the first chunk."""
    keep(0, carry_out(work, 0))
    raise KeyboardInterrupt


def test_a_trace_goes_on_where_it_was_stopped(tmp_path, monkeypatch):
    toy, done = Model.load("toy-llama"), []
    real = rows.SparseRows.add
    monkeypatch.setattr(rows, "TARGETS_A_CHUNK", 300)
    monkeypatch.setattr(
        rows.SparseRows, "add", lambda *args: (done.append(len(args[1])), real(*args))[1]
    )

    def traced(run=None):
        done.clear()
        graph = trace(toy, TOKENS[:2], "neurons", logits=2, run=run, validity=0, prune=False)
        return graph, sum(done)

    with pytest.raises(KeyboardInterrupt):
        traced(Run(tmp_path, stop))
    whole, n = traced()
    rest, n_rest = traced(Run(tmp_path))
    assert n_rest == n - 300
    again, n_again = traced(Run(tmp_path))
    assert n_again == 0
    for graph in (rest, again):
        assert graph.names == whole.names and torch.equal(graph.weights, whole.weights)
        assert torch.equal(graph.reads, whole.reads) and torch.equal(graph.rests, whole.rests)


@pytest.mark.slow
def test_a_prompt_of_2400_tokens_is_traced():
    """A model of stories260K's shape with random weights, over its neurons."""
    torch.manual_seed(0)
    config = hf.LlamaConfig(
        vocab_size=512, hidden_size=64, intermediate_size=172, num_hidden_layers=5,
        num_attention_heads=8, num_key_value_heads=4, max_position_embeddings=4096,
        attn_implementation="eager",
    )  # fmt: skip
    model = Model.load(hf.LlamaForCausalLM(config).eval())
    tokens = (torch.arange(2400) * 7 % 500 + 3).tolist()
    graph = trace(model, tokens, "neurons", validity=0)
    torch.testing.assert_close(graph.incoming(), graph.reads, atol=1e-4, rtol=0)
