"""Runs that go on from a finished one: laws."""

from dataclasses import replace

import families
import pytest
import torch

from circuits.scoring.gather import prepare
from patching.gathering import Recipe
from patching.metrics import logit_diff
from patching.model import Model
from patching.paths import along_activations, along_inputs, at_both
from patching.runs.recorded import last_mlp_at_answers, record, stream_points


@pytest.fixture(scope="module", params=["gpt2", "gemma2", "neox"])
def model(request):
    return Model.load(families.module(request.param, torch.float64))


def test_a_run_that_goes_on_from_any_layer_ends_where_it_ended(model):
    batch = next(families.ragged_task().batches(3))
    run = record(model, batch.corrupt, batch)
    examples = torch.tensor([2, 0, 0, 1])
    for layer in range(len(stream_points(model))):
        found = run.go_on(layer, examples)
        torch.testing.assert_close(found, run.logits[examples], rtol=0, atol=1e-12)


def test_only_the_tokens_that_changed_need_their_mlps_to_work(model):
    """A change at one token of a layer: MLPs from there on work at it and at what follows."""
    batch = next(families.task().batches(3))
    run = record(model, batch.clean, batch)
    examples = torch.tensor([0, 1, 2])

    def change(stream):
        changed = stream.clone()
        changed[:, 4, 0] += 2.0
        return changed

    hooks = [(stream_points(model)[1], change)]
    tokens = (torch.arange(9) >= 4).expand(3, 9).nonzero(as_tuple=True)
    found = run.go_on(1, examples, hooks, dict.fromkeys(range(1, len(model.blocks)), tokens))
    whole = run.go_on(1, examples, hooks)
    torch.testing.assert_close(found, whole, rtol=0, atol=1e-12)
    assert (whole - run.logits).abs().max() > 1e-2


def test_what_goes_on_can_be_differentiated(model):
    batch = next(families.task().batches(3))
    run = record(model, batch.clean, batch)
    added = torch.zeros(run.streams[1].shape[2], dtype=torch.float64, requires_grad=True)
    examples = torch.tensor([1])
    tokens = (torch.zeros(9, dtype=torch.long), torch.arange(9))

    def logits(mlps_at):
        hooks = [(stream_points(model)[1], lambda stream: stream + added)]
        return run.go_on(1, examples, hooks, mlps_at)

    with torch.enable_grad():
        few, all_of_them = logits({1: tokens}), logits({})
        slopes = [torch.autograd.grad(x[0, 3], added)[0] for x in (few, all_of_them)]
    torch.testing.assert_close(*slopes, rtol=0, atol=1e-12)
    assert slopes[0].abs().max() > 1e-3


def test_logits_do_not_see_what_the_last_mlp_writes_where_nothing_is_asked(model):
    batch = next(families.ragged_task().batches(4))
    widths = []
    block = model.blocks[-1]
    short = last_mlp_at_answers(model, batch)
    see = (block.mlp_in, lambda x: widths.append(x.shape[:2].numel()))
    found = model.answer_logits(batch.clean, batch, [*short, see])
    assert widths == [batch.n_rows] and batch.n_rows < batch.clean.numel() / 4
    expected = model.answer_logits(batch.clean, batch)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("path", [at_both, along_inputs(2), along_activations(1)])
def test_gradients_are_the_same_where_the_last_mlp_works_at_answers_alone(model, path):
    task = families.ragged_task()
    job = prepare(model, task, logit_diff, Recipe(path))
    assert job.short
    batch = next(task.batches(4, model.device))
    short, whole = (job.gather(batch), replace(job, short=False).gather(batch))
    torch.testing.assert_close(short.at_embedding, whole.at_embedding, rtol=0, atol=1e-12)
    for (_, found), (_, expected) in zip(short.gradients, whole.gradients, strict=True):
        torch.testing.assert_close(found.mlps, expected.mlps, rtol=0, atol=1e-12)
        torch.testing.assert_close(found.logits, expected.logits, rtol=0, atol=1e-12)
        for one, other in zip(found.attention, expected.attention, strict=True):
            torch.testing.assert_close(one.projected, other.projected, rtol=0, atol=1e-12)
