"""What a circuit's rows compute does not depend on which circuits share their passes."""

import families
import pytest
import torch

from circuits import Circuit, random_circuit, top_n
from circuits.running.evaluation import evaluate
from circuits.scores import Scores
from circuits.select import greedy
from patching.ablations import mean, resample, zero
from patching.memory import budget
from patching.metrics import logit_diff
from patching.model import Model

TASK = families.task()
ABLATIONS = {"resample": resample, "zero": zero, "mean": mean(TASK)}


@pytest.fixture(
    scope="module",
    params=[
        (family, dtype)
        for family in ("gpt2", "llama", "gemma2", "qwen3")
        for dtype in (torch.float64, torch.bfloat16)
    ],
    ids=lambda param: f"{param[0]}-{param[1]}",
)
def model(request):
    family, dtype = request.param
    return Model.load(families.module(family, dtype))


def circuits_of(model):
    """Dense and sparse ones, some that start late, some without any path."""
    graph, size = model.graph, model.graph.n_edges
    draw = torch.rand(graph.exists.shape, generator=torch.Generator().manual_seed(0)).double()
    scores = Scores(draw * graph.exists, graph, {})
    edges = Circuit.full(graph).edges
    late = [edge for edge in edges if edge[1].startswith(("a1", "m1", "logits"))]
    return [
        Circuit.full(graph),
        Circuit.empty(graph),
        *(random_circuit(graph, size * part // 10, seed=part) for part in range(1, 10, 2)),
        *(greedy(scores, n, ranking="absolute") for n in (4, 12, 30)),
        top_n(scores, size // 2, ranking="absolute"),
        *(Circuit.full(graph) - Circuit.from_edges(graph, late[i::7]) for i in range(3)),
        Circuit.full(graph) - Circuit.from_edges(graph, [("embed", "logits")]),
    ]


def everything_from_embed(graph):
    edges = Circuit.full(graph).edges
    return Circuit.from_edges(graph, [edge for edge in edges if edge[0] == "embed"])


def is_batch_invariant(model):
    """Whether the model itself gives each row the same bits in a larger batch."""
    (batch,) = TASK.batches(len(TASK))
    alone = model.bridge(batch.clean)
    return all(
        torch.equal(model.bridge(batch.clean.repeat(n, 1))[: len(alone)], alone)
        for n in (2, 3, 5, 8)
    )


@pytest.mark.parametrize("name", ABLATIONS)
def test_a_circuit_alone_measures_as_it_does_among_others(model, name):
    circuits, ablation = circuits_of(model), ABLATIONS[name]
    if name == "zero":  # a norm that reads nothing blows rounding up (by 1,000 in Gemma 2)
        circuits = [circuit | everything_from_embed(model.graph) for circuit in circuits]
    exact = model.dtype == torch.bfloat16
    if exact and not is_batch_invariant(model):
        pytest.skip("this model's own numbers depend on the size of the batch")

    def values(chosen):
        return evaluate(model, TASK, chosen, logit_diff, ablation=ablation).values

    together = values(circuits)
    backwards = values(circuits[::-1]).flip(0)
    alone = torch.cat([values([circuit]) for circuit in circuits])
    with budget(2**17):
        chunked = values(circuits)
    for other in (backwards, alone, chunked):
        if exact:
            assert torch.equal(together, other)
        else:  # values are of order ten
            torch.testing.assert_close(together, other, atol=1e-10, rtol=0)
