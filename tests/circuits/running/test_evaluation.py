"""Evaluation: whole numbers by hand, laws, and what is refused."""

import families
import pytest
import torch
import toys

from circuits import Circuit, random_circuit
from circuits.running.evaluation import Evaluation, evaluate
from patching.graph import Graph
from patching.memory import budget
from patching.metrics import accuracy, kl, logit_diff
from patching.tasks import Prompt, Task


def test_removing_one_edge_of_a_linear_model_costs_its_whole_number_score():
    model = toys.linear_model()
    full = Circuit.full(model.graph)
    edges = full.edges
    circuits = [full - Circuit.from_edges(model.graph, [edge]) for edge in edges]
    result = evaluate(model, toys.task(2), circuits, logit_diff)
    assert result.clean.tolist() == pytest.approx([toys.CLEAN] * 2, abs=1e-9)
    assert result.corrupt.tolist() == pytest.approx([toys.CORRUPT] * 2, abs=1e-9)
    for edge, values in zip(edges, result.values, strict=True):
        expected = toys.CLEAN - toys.SCORES.get(edge, 0)
        assert values.tolist() == pytest.approx([expected] * 2, abs=1e-9), edge


def test_a_path_of_edges_keeps_what_flows_along_it():
    """Head 0 through the MLP alone: (10, -10, 0, 0), plus head 1's corrupt write: 13."""
    model = toys.linear_model()
    path = [("embed", "a0.h0.v"), ("a0.h0", "m0"), ("m0", "logits")]
    result = evaluate(model, toys.task(), [Circuit.from_edges(model.graph, path)], logit_diff)
    assert result.values.item() == pytest.approx(13, abs=1e-9)


def test_faithfulness_is_a_ratio_of_means():
    result = Evaluation(
        values=torch.tensor([[3.0, 5.0], [1.0, 1.0]]),
        clean=torch.tensor([4.0, 6.0]),
        corrupt=torch.tensor([0.0, 2.0]),
    )
    assert result.faithfulness.tolist() == [0.75, 0.0]


def test_faithfulness_without_a_gap_is_undefined():
    same = torch.tensor([2.0, 2.0])
    result = Evaluation(torch.tensor([[1.0, 2.0]]), clean=same, corrupt=same)
    assert result.faithfulness.isnan().all()


def test_chunks_and_batches_do_not_change_the_values(gpt2):
    task = families.task()
    circuits = [random_circuit(gpt2.graph, n, seed=n) for n in (0, 10, 40, 80, 110)]
    together = evaluate(gpt2, task, circuits, logit_diff).values
    with budget(1):  # one circuit at a time
        alone = evaluate(gpt2, task, circuits, logit_diff, batch_size=1).values
    torch.testing.assert_close(alone, together, atol=1e-10, rtol=0)


def test_other_metrics_see_the_clean_run(gpt2):
    circuits = [Circuit.full(gpt2.graph), Circuit.empty(gpt2.graph)]
    divergence = evaluate(gpt2, families.task(), circuits, kl)
    assert divergence.clean.abs().max() < 1e-12
    assert divergence.values[0].abs().max() < 1e-12
    torch.testing.assert_close(divergence.values[1], divergence.corrupt, atol=1e-9, rtol=0)
    assert evaluate(gpt2, families.task(), circuits, accuracy).values.shape == (2, 3)


def test_rows_whose_prompts_differ_in_different_places_can_share_a_batch(gpt2):
    prompts = (
        Prompt((5, 6, 7, 8), (9, 6, 7, 8), (10,), (11,)),
        Prompt((5, 6, 7), (5, 6, 9), (10,), (11,)),
        Prompt((5, 6, 7, 8, 9, 10), (5, 6, 7, 12, 9, 10), (10,), (11,)),
    )
    circuits = [random_circuit(gpt2.graph, 50, seed=1), Circuit.empty(gpt2.graph)]
    together = evaluate(gpt2, Task("ragged", prompts), circuits, logit_diff)
    for i, prompt in enumerate(prompts):
        alone = evaluate(gpt2, Task("one", (prompt,)), circuits, logit_diff)
        torch.testing.assert_close(together.values[:, i : i + 1], alone.values, atol=1e-10, rtol=0)
    torch.testing.assert_close(together.values[1], together.corrupt, atol=1e-10, rtol=0)


def test_a_circuit_of_another_graph_is_refused(gpt2):
    other = Circuit.full(Graph(3, 4, 4))
    with pytest.raises(ValueError, match="circuit 1 is of another graph"):
        evaluate(gpt2, families.task(), [Circuit.full(gpt2.graph), other], logit_diff)


def test_no_circuits_are_refused(gpt2):
    with pytest.raises(ValueError, match="no circuits"):
        evaluate(gpt2, families.task(), [], logit_diff)


def test_a_batch_of_no_examples_is_refused(gpt2):
    with pytest.raises(ValueError, match="batch_size=0"):
        evaluate(gpt2, families.task(), [Circuit.full(gpt2.graph)], logit_diff, batch_size=0)


def test_pairs_that_do_not_differ_are_refused(gpt2):
    same = Task("same", (Prompt((5, 6), (5, 6), (7,), (8,)),))
    with pytest.raises(ValueError, match="corrupt prompt equal to the clean one"):
        evaluate(gpt2, same, [Circuit.full(gpt2.graph)], logit_diff)
