"""What readers see where little is kept: right in float32, whatever was taken away."""

import families
import pytest
import torch
from plain_llama import logits_under_zero

from circuits import Circuit, path, path_patching, random_circuit
from circuits.running.evaluation import evaluate
from circuits.running.pair import run_pair
from circuits.running.starts import replaced_streams
from patching.ablations import resample, zero
from patching.anatomy.blocks import FINAL_STREAM
from patching.capture import indices
from patching.metrics import logit_diff
from patching.model import Model

TASK = families.task()
ABLATIONS = families.ablations()
QUICK = ("gpt2", "llama", "gemma2", "phi")
FAMILIES = families.slow_but(QUICK, without=families.FLOAT32_ONLY)


@pytest.fixture(scope="module", params=FAMILIES)
def models(request) -> tuple[Model, Model]:
    return families.loud(request.param, torch.float64), families.loud(request.param, torch.float32)


@pytest.mark.parametrize("name", ABLATIONS)
def test_float32_equals_float64_however_little_is_kept(models, name):
    graph = models[0].graph
    n = graph.n_edges
    circuits = [random_circuit(graph, k, seed=k) for k in (4, n // 2, n - 4)]
    circuits += [Circuit.empty(graph), Circuit.full(graph)]
    wide, narrow = (
        evaluate(model, TASK, circuits, logit_diff, ablation=ABLATIONS[name]) for model in models
    )
    gap = (wide.clean - wide.corrupt).abs().mean()
    assert (wide.values - narrow.values).abs().max() < 1e-3 * gap


@pytest.mark.parametrize("frozen", [True, False])
def test_paths_are_right_in_float32_whatever_is_left_of_the_corrupt_run(models, frozen):
    graph = models[0].graph
    head = graph.destinations[graph.k_readers(1).start].name
    ways = ["embed -> a0.h1.q -> a1.h2.q -> logits", "a0.h3 -> m1 -> logits", "a0.h0 -> logits"]
    ways = [path(graph, way) for way in ways if frozen or "m1" not in way]
    ways += [path(graph, f"a0.h1 -> {head} -> a1.h0 -> logits")] if ".g" in head else []
    options = {"freeze_others": frozen}
    wide, narrow = (path_patching(m, TASK, logit_diff, ways, **options) for m in models)
    clean = evaluate(models[0], TASK, [Circuit.empty(graph)], logit_diff)
    gap = (clean.clean - clean.corrupt).abs().max()  # Gemma 2's cap leaves one prompt a gap
    assert (wide.values.double() - narrow.values.double()).abs().max() < 1e-3 * gap


def test_float32_gives_what_a_plain_model_computes_from_the_kept_writers_alone():
    plain = families.module("llama", torch.float64)
    with torch.no_grad():
        plain.get_input_embeddings().weight.mul_(1000)
    model = families.loud("llama", torch.float32)
    circuits = [random_circuit(model.graph, n, seed=n) for n in (10, 30, model.graph.n_edges - 9)]
    found = evaluate(model, TASK, circuits, logit_diff, ablation=zero)
    gap = (found.clean - found.corrupt).abs().mean()
    for circuit, values in zip(circuits, found.values, strict=True):
        for prompt, value in zip(TASK.prompts, values.tolist(), strict=True):
            logits = logits_under_zero(plain, torch.tensor(prompt.clean), circuit.edges)[-1]
            expected = float(logits[prompt.answers[0]] - logits[prompt.wrong_answers[0]])
            assert abs(expected - value) < 1e-3 * gap


def test_one_loud_writer_taken_off_leaves_no_rounding():
    """Half of all edges: some readers keep most of what they read, but not the embedding."""
    wide, narrow = (families.loud("llama", dtype) for dtype in (torch.float64, torch.float32))
    graph = wide.graph
    circuits = [random_circuit(graph, graph.n_edges // 2, seed=seed) for seed in range(6)]
    expected, found = (
        evaluate(model, TASK, circuits, logit_diff, ablation=zero) for model in (wide, narrow)
    )
    gap = (expected.clean - expected.corrupt).abs().mean()
    assert (expected.values - found.values).abs().max() < 1e-3 * gap


def test_without_any_edge_the_logits_see_constants_alone_to_the_bit():
    model = families.loud("llama", torch.float32)
    (batch,) = TASK.batches(len(TASK))
    empty = Circuit.empty(model.graph)
    found = evaluate(model, TASK, [empty], logit_diff, ablation=zero)
    with torch.no_grad():
        silent = model.answer_logits(batch.clean, batch, [(FINAL_STREAM, torch.zeros_like)])
    assert torch.equal(found.values[0], logit_diff(silent, batch).double())
    assert torch.equal(found.values[0], found.corrupt)


@pytest.mark.parametrize("family", QUICK)
def test_the_replaced_stream_of_a_run_by_its_own_writes_is_its_stream(family):
    model = Model.load(families.module(family, torch.float64))
    (batch,) = TASK.batches(len(TASK))
    pair = run_pair(model, batch, resample(model))
    at = indices(pair.tokens)
    streams = replaced_streams(model, pair.clean.writes, pair.clean.positions[at])
    for name in (*(block.stream_in for block in model.blocks), FINAL_STREAM):
        # Some families norm in float32, whatever their weights are
        torch.testing.assert_close(streams[name], pair.streams[name][at], atol=2e-6, rtol=2e-6)
