import pytest
import torch
import toys

from circuits.circuit import Circuit
from circuits.running.evaluation import evaluate_all
from circuits.running.trial import prepare, run
from patching.ablations import resample
from patching.metrics import logit_diff
from patching.model import Model


@pytest.fixture(scope="module")
def linear() -> Model:
    return toys.linear_model()


def test_equal_circuits_are_run_once_and_told_as_often_as_given(linear, monkeypatch):
    full, empty = Circuit.full(linear.graph), Circuit.empty(linear.graph)
    sizes = []

    def counted(model: Model, task: object, circuits: list[Circuit], *rest: object, **options):
        sizes.append(len(circuits))
        return evaluate_all(model, task, circuits, *rest, **options)

    monkeypatch.setattr("circuits.running.trial.evaluate_all", counted)
    trial = prepare(linear, toys.task(2), logit_diff)
    found = run(trial, [full, empty, full, full, empty])
    assert sizes == [2]
    assert found.values[:, 0].tolist() == pytest.approx([8, 3, 8, 8, 3])


def test_an_ablation_is_worked_out_once(linear):
    made = []

    def counted(model: Model):
        made.append(model)
        return resample(model)

    trial = prepare(linear, toys.task(2), logit_diff, ablation=counted)
    for _ in range(3):
        values = run(trial, [Circuit.full(linear.graph)]).values
    assert len(made) == 1
    torch.testing.assert_close(values, torch.full_like(values, 8))
