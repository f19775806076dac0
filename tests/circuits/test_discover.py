"""Judging a circuit: sizes, measurements and the verdict on a model's ability."""

import pytest
import torch

from circuits.circuit import Circuit
from circuits.discover import check_task, measure, sizes_around
from circuits.running.evaluation import Evaluation
from patching.graph import Graph
from patching.metrics import kl, logit_diff
from patching.tasks import Prompt, Task
from patching.tasks.generators import ioi


def rows(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


@pytest.mark.parametrize("size", [0, 1, 40, 479])
def test_sizes_contain_the_one_asked_for_and_all_edges_once_each(size):
    sizes = sizes_around(size, 479)
    assert size in sizes
    assert sizes[-1] == 479
    assert sizes == sorted(set(sizes))


def test_a_circuit_is_measured_by_the_share_of_the_gap_it_keeps():
    full = Circuit.full(Graph(n_layers=1, n_heads=1, n_kv_heads=1))
    evaluation = Evaluation(rows(1, 3)[None], rows(4, 4), rows(0, 0))
    (measured,) = measure(evaluation, [full])
    assert (measured.edges, measured.metric, measured.faithfulness) == (full.size, 2.0, 0.5)


def test_faithfulness_without_a_gap_is_undefined():
    full = Circuit.full(Graph(n_layers=1, n_heads=1, n_kv_heads=1))
    evaluation = Evaluation(rows(1, 3)[None], rows(4, 2), rows(2, 4))
    assert measure(evaluation, [full])[0].faithfulness is None


def test_the_embedded_model_can_do_its_own_task(toy):
    assert toy.tokenizer is not None
    verdict = check_task(toy, [ioi(toy.tokenizer, n=20, seed=1)], logit_diff, 20)
    assert verdict.can_do
    assert verdict.share_right > 0.9


def test_kl_is_judged_by_whether_the_answers_are_preferred(toy):
    """KL itself is best in the clean run whatever the model prefers."""
    assert toy.tokenizer is not None
    task = ioi(toy.tokenizer, n=20, seed=1)
    swapped = tuple(Prompt(p.clean, p.corrupt, p.wrong_answers, p.answers) for p in task.prompts)
    unanswered = tuple(Prompt(p.clean, p.corrupt, p.answers) for p in task.prompts)
    assert check_task(toy, [task], kl, 20).can_do
    assert not check_task(toy, [Task("swapped", swapped)], kl, 20).can_do
    assert check_task(toy, [Task("unanswered", unanswered)], kl, 20).can_do
