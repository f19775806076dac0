"""Evaluation against a slow twin: one circuit at a time, every reader put together in a loop."""

import families
import pytest
import torch
from slow_twin import slow_logits

from circuits import Circuit, random_circuit
from circuits.running.evaluation import evaluate
from patching.ablations import resample
from patching.metrics import logit_diff


@pytest.fixture(scope="module", params=["gpt2", "llama", "gemma2", "qwen3", "neox", "phi"])
def model(request):
    return families.load(request.param, torch.float64)


@torch.no_grad()
def slow_values(model, task, circuit):
    (batch,) = task.batches(len(task))
    removed = (model.graph.exists & ~circuit.mask).double()
    return logit_diff(slow_logits(model, batch, resample(model), removed), batch)


def test_batched_circuits_equal_the_slow_twin(model):
    task, graph = families.task(), model.graph
    sizes = (1, 5, graph.n_edges // 2, graph.n_edges - 3)
    circuits = [random_circuit(graph, n, seed=i) for i, n in enumerate(sizes)]
    result = evaluate(model, task, circuits, logit_diff)
    for circuit, found in zip(circuits, result.values, strict=True):
        expected = slow_values(model, task, circuit).double()
        size = expected.abs().max()
        # Rotary families run parts in float32, where the two orders of adding differ
        torch.testing.assert_close(found / size, expected / size, atol=2e-6, rtol=0)


def test_a_circuit_does_not_depend_on_the_others_in_its_batch(model):
    task, graph = families.task(), model.graph
    circuits = [random_circuit(graph, n, seed=n) for n in (3, 20, 60, 61)]
    circuits += [Circuit.full(graph), Circuit.empty(graph)]
    together = evaluate(model, task, circuits, logit_diff).values
    for circuit, values in zip(circuits, together, strict=True):
        alone = evaluate(model, task, [circuit], logit_diff, batch_size=2).values[0]
        size = together.abs().max()
        torch.testing.assert_close(values / size, alone / size, atol=2e-6, rtol=0)
