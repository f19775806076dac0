"""Runs that go on from a finished one: laws."""

import families
import pytest
import torch

from patching.runs.recorded import record, stream_points


@pytest.fixture(scope="module", params=["gpt2", "gemma2", "neox"])
def model(request):
    return families.load(request.param, torch.float64)


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
