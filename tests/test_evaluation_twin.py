"""Evaluation against a slow twin: one circuit at a time, every reader put together in a loop."""

import families
import pytest
import torch

from circuits import Circuit, random_circuit
from circuits.evaluate import evaluate
from patching.capture import capture, expand_writes
from patching.metrics import logit_diff
from patching.model import Model


@pytest.fixture(scope="module", params=["gpt2", "llama", "gemma2", "qwen3", "neox", "phi"])
def model(request):
    return Model.load(families.module(request.param, torch.float64))


def slow_values(model, task, circuit):
    """The metric of one circuit: readers one by one, each from all writers, in plain loops."""
    (batch,) = task.batches(len(task))
    batch_pos = batch.clean.shape
    corrupt = _whole_writes(model, batch.corrupt, batch)
    live = torch.zeros_like(corrupt)
    graph = model.graph
    streams = {}

    def seen_by(dest, stream):
        total = stream.clone()
        for source in range(len(graph.sources)):
            if graph.exists[source, dest] and not circuit.mask[source, dest]:
                total += corrupt[source] - live[source]
        return total

    def keep_embedding(x):
        live[0] = x

    hooks = [("blocks.0.hook_in", keep_embedding)]
    for block in model.blocks:
        hooks += _slow_block(model, block, seen_by, live, streams)
    hooks.append(("ln_final.hook_in", lambda x: seen_by(len(graph.destinations) - 1, x)))
    with torch.no_grad():
        logits = model.answer_logits(batch.clean, batch, hooks)
    assert batch_pos == batch.clean.shape
    return logit_diff(logits, batch)


def _slow_block(model, block, seen_by, live, streams):
    graph, i = model.graph, block.index

    def keep(name):
        def hook(x):
            streams[name] = x

        return hook

    def project(part, span):
        def hook(live_values):
            out = live_values.clone()
            for j in range(span.start, span.stop):
                x = seen_by(j, streams[i, "in"])
                x = x if block.attention_norm is None else block.attention_norm(x)
                head = j - span.start
                out[:, :, head] = x @ block.w_qkv[part][head]
                if block.b_qkv[part] is not None:
                    out[:, :, head] += block.b_qkv[part][head]
            return out

        return hook

    def to_mlp(x):
        x = seen_by(graph.mlp_reader(i), streams[i, "mid"])
        return x if block.mlp_norm is None else block.mlp_norm(x)

    def heads(z, total=None):
        flat = None if total is None else total.flatten(0, 1)
        writes = block.head_writes(block.head_input(z.flatten(0, 1), flat))
        live[graph.head_sources(i)] = writes.unflatten(1, z.shape[:2])

    def keep_mlp(x):
        live[graph.mlp_source(i)] = x

    spans = (graph.q_readers(i), graph.k_readers(i), graph.v_readers(i))
    hooks = [(block.stream_in, keep((i, "in")))]
    hooks += [(block.qkv[part], project(part, span)) for part, span in enumerate(spans)]
    if block.post_attention_norm is None:
        hooks.append((block.z, heads))
    else:
        hooks.append((block.z, keep((i, "z"))))
        hooks.append((block.attention_sum, lambda total: heads(streams[i, "z"], total)))
    hooks.append((block.mlp_stream, keep((i, "mid"))))
    return [*hooks, (block.mlp_in, to_mlp), (block.mlp_out, keep_mlp)]


def _whole_writes(model, tokens, batch):
    """All writes of a run at all positions, `[source, batch, pos, d_model]`."""
    everything = _all_tokens(batch)
    writes = expand_writes(model, capture(model, tokens, everything).writes)
    return writes.unflatten(1, tokens.shape)


def _all_tokens(batch):
    from dataclasses import replace

    whole = replace(batch)
    whole.__dict__["can_differ"] = torch.ones_like(batch.is_token)
    return whole


def test_batched_circuits_equal_the_slow_twin(model):
    task = families.task()
    graph = model.graph
    sizes = (1, 5, graph.n_edges // 2, graph.n_edges - 3)
    circuits = [random_circuit(graph, n, seed=i) for i, n in enumerate(sizes)]
    result = evaluate(model, task, circuits, logit_diff)
    for circuit, found in zip(circuits, result.values, strict=True):
        expected = slow_values(model, task, circuit)
        size = expected.abs().max()
        # Rotary families run parts in float32, where the two orders of adding differ
        torch.testing.assert_close(found / size, expected.double() / size, atol=2e-6, rtol=0)


def test_a_circuit_does_not_depend_on_the_others_in_its_batch(model):
    task, graph = families.task(), model.graph
    circuits = [random_circuit(graph, n, seed=n) for n in (3, 20, 60, 61)]
    circuits += [Circuit.full(graph), Circuit.empty(graph)]
    together = evaluate(model, task, circuits, logit_diff).values
    for circuit, values in zip(circuits, together, strict=True):
        alone = evaluate(model, task, [circuit], logit_diff, batch_size=2).values[0]
        torch.testing.assert_close(values, alone, atol=1e-5 * float(values.abs().max()), rtol=0)
