"""Circuits of whole nodes, the complement, and denoising."""

import families
import pytest
import torch
import toys

from circuits.circuit import Circuit
from circuits.judging.chance import layer_matched_nodes, uniform_nodes
from circuits.judging.faithfulness import Sweep, curve
from circuits.nodes import inner_nodes, node_circuit, top_nodes
from circuits.running.evaluation import evaluate, evaluate_all
from circuits.scores import Scores
from circuits.select import random_circuit
from patching.ablations import mean, zero
from patching.graph import Graph
from patching.metrics import accuracy, kl, logit_diff


@pytest.fixture(scope="module")
def linear():
    return toys.linear_model()


@pytest.fixture(scope="module", params=["gpt2", "llama", "gemma2", "neox"])
def model(request):
    return families.load(request.param)


def by_hand(graph):
    matrix = torch.zeros(graph.exists.shape, dtype=torch.float64)
    for edge, score in toys.SCORES.items():
        matrix[graph.edge_index(*edge)] = score
    return Scores(matrix, graph, {"method": "by hand"})


def test_nodes_outside_write_what_they_write_in_the_corrupt_run(linear):
    """Head 0 writes 2 (third coordinate), the MLP 10, the corrupt head 1 writes 3."""
    chosen = [["a0.h0", "m0"], ["m0"], ["a0.h1", "m0"], ["a0.h0", "a0.h1", "m0"], []]
    circuits = [node_circuit(linear.graph, nodes) for nodes in chosen]
    found = evaluate(linear, toys.task(), circuits, logit_diff)
    assert found.values[:, 0].tolist() == pytest.approx([11, 3, 0, 8, 3], abs=1e-9)


def test_a_node_removed_is_its_outgoing_edges_removed(model):
    if model.blocks[0].post_attention_norm is not None:
        pytest.skip("what the removed head reads changes the norm over its layer's heads")
    graph, task = model.graph, families.task()
    full, nodes = Circuit.full(graph), [node.name for node in graph.sources[1:]]
    for gone in (nodes[0], nodes[-1]):
        edges = [edge for edge in full.edges if edge[0] == gone]
        apart = full - Circuit.from_edges(graph, edges)
        whole = node_circuit(graph, [name for name in nodes if name != gone])
        a, b = evaluate(model, task, [apart, whole], logit_diff).values
        torch.testing.assert_close(a, b, atol=1e-9, rtol=0)


def test_the_best_nodes_are_by_the_sum_of_their_edges(linear):
    scores = by_hand(linear.graph)  # heads 0 and 1: 8 and -3, MLP: 10
    assert inner_nodes(top_nodes(scores, 2, ranking="signed")) == ["a0.h0", "m0"]
    assert inner_nodes(top_nodes(scores, 1, ranking="absolute")) == ["m0"]
    with pytest.raises(ValueError, match="cannot choose 4 nodes; this graph has 3 heads and MLPs"):
        top_nodes(scores, 4, ranking="signed")
    with pytest.raises(ValueError, match="no source named 'a7.h0'"):
        node_circuit(linear.graph, ["a7.h0"])


def test_random_nodes_are_as_many_and_matched_in_every_layer():
    graph = Graph(3, 4, 2)
    circuit = node_circuit(graph, ["a0.h1", "a0.h2", "m1", "a2.h0"])
    for drawn in uniform_nodes(circuit, 5, seed=0):
        assert len(inner_nodes(drawn)) == 4
    for drawn in layer_matched_nodes(circuit, 5, seed=0):
        assert sorted(name.split(".")[0] for name in inner_nodes(drawn)) == ["a0", "a0", "a2", "m1"]
    assert len({drawn for drawn in uniform_nodes(circuit, 20, seed=0)}) > 10


def test_a_curve_over_nodes(linear):
    sweep = Sweep("signed", sizes=(0, 1, 2, 3), n_random=3, n_bootstrap=50, granularity="nodes")
    found = curve(linear, toys.task(4), by_hand(linear.graph), logit_diff, sweep)
    assert [p.metric for p in found.points] == pytest.approx([3, 3, 11, 8])
    assert found.conditions.granularity == "nodes: whole heads and MLPs"
    assert not found.pruned
    assert [p.share for p in found.points] == pytest.approx([0, 1 / 3, 2 / 3, 1])
    with pytest.raises(ValueError, match="no circuit can have 9 nodes; this graph has 3"):
        curve(
            linear,
            toys.task(4),
            by_hand(linear.graph),
            logit_diff,
            Sweep("signed", sizes=(9,), granularity="nodes"),
        )


def test_ablated_inside_the_complement_is_run(linear):
    sweep = Sweep("signed", sizes=(0, 3, 13), n_random=0, n_bootstrap=0, ablated="inside")
    found = curve(linear, toys.task(4), by_hand(linear.graph), logit_diff, sweep)
    # without embed -> head 0 -> MLP -> logits: head 0 sees B and writes 0, the MLP's is corrupt, 0
    assert [p.metric for p in found.points] == pytest.approx([8, 0, 3])
    assert found.conditions.ablated_set.startswith("every edge of the circuit")


def test_denoising_restores_the_clean_run(model):
    task, graph = families.task(), model.graph
    circuits = [Circuit.empty(graph), Circuit.full(graph), random_circuit(graph, 40, seed=1)]
    noised, denoised = (
        evaluate(model, task, circuits, logit_diff, direction=direction)
        for direction in ("noising", "denoising")
    )
    torch.testing.assert_close(denoised.clean, noised.clean, atol=1e-9, rtol=0)
    torch.testing.assert_close(denoised.corrupt, noised.corrupt, atol=1e-9, rtol=0)
    torch.testing.assert_close(denoised.values[0], noised.corrupt, atol=1e-9, rtol=0)
    torch.testing.assert_close(denoised.values[1], noised.clean, atol=1e-9, rtol=0)
    assert (denoised.values[2] - noised.values[2]).abs().max() > 1e-3


def test_restoring_is_ablating_with_the_prompts_swapped(model):
    """The corrupt prompts' task, from which the complement is taken out."""
    task = families.task()
    swapped = families.Task(
        "swapped",
        tuple(
            families.Prompt(p.corrupt, p.clean, p.answers, p.wrong_answers) for p in task.prompts
        ),
    )
    circuit = random_circuit(model.graph, 50, seed=2)
    a = evaluate(model, task, [circuit], logit_diff, direction="denoising")
    b = evaluate(model, swapped, [~circuit], logit_diff)
    torch.testing.assert_close(a.values, b.values, atol=1e-9, rtol=0)


def test_kl_is_to_the_clean_run_in_both_directions(model):
    full = [Circuit.full(model.graph)]
    found = evaluate(model, families.task(), full, kl, direction="denoising")
    assert found.values.abs().max() < 1e-9
    assert found.corrupt.max() < -1e-3


def test_several_metrics_of_the_same_runs(model):
    circuits = [random_circuit(model.graph, 50, seed=2)]
    together = evaluate_all(model, families.task(), circuits, (logit_diff, kl, accuracy))
    for metric, found in zip((logit_diff, kl, accuracy), together, strict=True):
        alone = evaluate(model, families.task(), circuits, metric)
        assert torch.equal(found.values, alone.values)


@pytest.mark.parametrize("ablation", [zero, mean(toys.task(2))])
def test_denoising_needs_a_corrupt_run(linear, ablation):
    with pytest.raises(ValueError, match="denoising restores the clean run in the paired corrupt"):
        evaluate(
            linear,
            toys.task(2),
            [Circuit.full(linear.graph)],
            logit_diff,
            ablation=ablation,
            direction="denoising",
        )
