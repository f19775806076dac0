"""Groups of circuits: what one by one gives, in as many operations for many as for one."""

from functools import partial

import families
import pytest
import torch
import transformers

from benchmarks.operations import count, tensors_of
from circuits import Circuit, random_circuit
from circuits.running.batched import run_pass
from circuits.running.evaluation import evaluate
from circuits.running.many import run_circuits
from circuits.running.pair import run_pair
from circuits.running.plan import make_plans
from circuits.scores import Scores
from circuits.scoring.single_edges import exact
from circuits.select import greedy
from patching.ablations import resample
from patching.memory import budget, grouping
from patching.metrics import kl, logit_diff
from patching.model import Model
from patching.tasks import Task
from patching.tasks.task import Batch

TASK = families.task()
ABLATIONS = families.ablations()
QUICK = ("gpt2", "gemma2", "qwen3", "phi", "olmo2")
FAMILIES = families.slow_but(QUICK)


@pytest.fixture(scope="module", params=FAMILIES)
def model(request) -> Model:
    return families.load(request.param)


def removed_of(model: Model) -> torch.Tensor:
    """Dense and sparse circuits, some that start late, some blended, the ends."""
    graph, n = model.graph, model.graph.n_edges
    circuits = [random_circuit(graph, k, seed=k) for k in (3, 10, n // 4, n // 2, n - 10, n - 3)]
    late = [edge for edge in Circuit.full(graph).edges if edge[1].startswith(("m1", "logits"))]
    circuits += [Circuit.full(graph) - Circuit.from_edges(graph, late[::5])]
    circuits += [Circuit.full(graph), Circuit.empty(graph)]
    removed = torch.stack([graph.exists & ~circuit.mask for circuit in circuits]).to(model.dtype)
    draw = torch.rand(2, *graph.exists.shape, generator=torch.Generator().manual_seed(0))
    return torch.cat([removed, draw.to(model.dtype) * graph.exists])


def logits_of(model: Model, batch: Batch, name: str, *, many: bool) -> torch.Tensor:
    removed = removed_of(model)
    with grouping(many):
        pair = run_pair(model, batch, ABLATIONS[name](model))
        found = {}
        for chunk, some in run_circuits(model, batch, pair, removed):
            found |= dict(zip(chunk, some, strict=True))
    return torch.stack([found[i] for i in range(len(removed))])


@pytest.mark.parametrize("name", ABLATIONS)
def test_a_group_of_many_equals_groups_of_one(model, name):
    (batch,) = TASK.batches(len(TASK))
    alone, together = (logits_of(model, batch, name, many=many) for many in (False, True))
    size = alone.abs().max()
    # Experts need float32, in which rows of another batch size are rounded otherwise
    tolerance = 1e-12 if model.dtype == torch.float64 else 1e-5
    torch.testing.assert_close(together / size, alone / size, atol=tolerance, rtol=0)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_in_bfloat16_a_group_equals_groups_of_one_where_nothing_is_skipped(family):
    model = Model.load(families.module(family, torch.bfloat16))
    graph = model.graph
    draw = torch.rand(3, *graph.exists.shape, generator=torch.Generator().manual_seed(0))
    removed = (draw * 0.4 + 0.3) * graph.exists  # every edge is kept in part
    (batch,) = TASK.batches(len(TASK))
    pair = run_pair(model, batch, resample(model))
    found = []
    for many in (False, True):
        with grouping(many):
            some = dict(
                (i, logits)
                for chunk, rows in run_circuits(model, batch, pair, removed)
                for i, logits in zip(chunk, rows, strict=True)
            )
        found.append(torch.stack([some[i] for i in range(3)]))
    assert torch.equal(*found)


def test_both_directions_and_metrics_that_ask_for_the_clean_run_are_those_of_one_by_one():
    model = Model.load(families.module("gpt2", torch.float64))
    circuits = [random_circuit(model.graph, n, seed=n) for n in (5, 40, 90)]
    task = families.ragged_task()
    for metric in (logit_diff, kl):
        for direction in ("noising", "denoising"):
            with grouping(True):
                many = evaluate(model, task, circuits, metric, direction=direction)
            alone = evaluate(model, task, circuits, metric, direction=direction)
            torch.testing.assert_close(many.values, alone.values, atol=1e-11, rtol=0)


def test_exact_scores_of_groups_are_those_of_one_by_one():
    model = Model.load(families.module("gemma2", torch.float64))
    edges = random_circuit(model.graph, 40, seed=0).edges
    with grouping(True):
        many = exact(model, TASK, logit_diff, edges=edges)
    alone = exact(model, TASK, logit_diff, edges=edges)
    torch.testing.assert_close(many.matrix, alone.matrix, atol=1e-10, rtol=0)


def test_groups_hold_what_fits_and_are_halved_where_memory_runs_out(monkeypatch):
    model = Model.load(families.module("gpt2", torch.float64))
    circuits = [random_circuit(model.graph, 40, seed=n) for n in range(8)]
    sizes = []

    def crowded(model, batch, pair, plans, *, together):
        sizes.append(len(plans))
        if len(plans) > 3:
            raise RuntimeError("CUDA out of memory")
        return run_pass(model, batch, pair, plans, together=together)

    monkeypatch.setattr("circuits.running.many.run_pass", crowded)
    with grouping(True), budget(None) as ledger:
        halved = evaluate(model, TASK, circuits, logit_diff)
    assert sizes == [8, 4, 2, 2, 2, 2]
    assert (ledger.halved, ledger.largest_tile) == (2, 2)
    sizes.clear()
    with grouping(True), budget(1):
        alone = evaluate(model, TASK, circuits, logit_diff)
    assert sizes == [1] * 8
    torch.testing.assert_close(halved.values, alone.values, atol=1e-11, rtol=0)


# What a device is asked for. Operations depend on layers, not on widths.


@pytest.fixture(scope="module")
def deep() -> Model:
    torch.manual_seed(0)
    sizes = {"n_layer": 12, "n_head": 12, "n_embd": 48, "n_positions": 32, "vocab_size": 97}
    config = transformers.GPT2Config(**sizes)
    model = Model.load(transformers.GPT2LMHeadModel(config).eval())
    assert model.blocks_return_tuples is not None  # found out by a run, once
    return model


DEEP_TASK = Task("deep", families.task(8, 16).prompts)


def some_circuits(model: Model, share: float, n: int) -> list[Circuit]:
    graph, size = model.graph, int(share * model.graph.n_edges)
    if share >= 0.5:
        return [random_circuit(graph, size, seed=i) for i in range(n)]
    draw = torch.rand(graph.exists.shape, generator=torch.Generator().manual_seed(0)).double()
    scores = Scores(draw * graph.exists, graph, {})
    return [greedy(scores, size - i, ranking="absolute") for i in range(n)]


@pytest.mark.parametrize("share", [0.5, 0.01])
def test_many_circuits_are_as_many_operations_as_one(deep, share):
    circuits, device = some_circuits(deep, share, 32), tensors_of(deep.bridge)
    with grouping(True):
        one, many = (
            count(lambda some=some: evaluate(deep, DEEP_TASK, some, logit_diff), device)
            for some in (circuits[:1], circuits)
        )
    assert many.launches <= 2600
    assert many.launches <= 1.05 * one.launches
    assert many.read_backs <= 4  # where pairs differ; the values of circuits and of both ends


def test_nothing_is_read_back_inside_a_pass(deep):
    (batch,) = DEEP_TASK.batches(8)
    pair = run_pair(deep, batch, resample(deep))
    circuits = some_circuits(deep, 0.01, 4) + some_circuits(deep, 0.5, 2)
    removed = torch.stack([deep.graph.exists & ~circuit.mask for circuit in circuits])
    plans = make_plans(removed.float(), deep.graph, paired=True, coupled=[False] * 12)
    given = [*tensors_of(deep.bridge), batch.clean, *pair.streams.values()]
    done = count(lambda: run_pass(deep, batch, pair, plans, together=True), given)
    assert done.read_backs == 0


def test_exact_takes_few_operations_an_edge(deep):
    """Counted as what the next layer's edges take, since whose weights they are is asked once."""
    edges = Circuit.full(deep.graph).edges
    into = [[edge for edge in edges if edge[1].startswith(layer)] for layer in ("a1.", "a2.")]

    def launches(edges):
        with grouping(True):
            score = partial(exact, deep, DEEP_TASK, logit_diff, edges=edges)
            return count(score, tensors_of(deep.bridge)).launches

    assert launches(into[0][:64] + into[1][:64]) - launches(into[0][:64]) <= 12 * 64
