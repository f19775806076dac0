"""The contract of all neuron methods: laws that the table declares, and what all have in common."""

import inspect

import families
import pytest
import torch
from conflicting import conflicts

from patching import Model
from patching.neurons import NEURON_METHODS, Conflict, ConflictTask, Neurons, toy_conflicts

METHODS = pytest.mark.parametrize("name", NEURON_METHODS)
SHORTLIST = Neurons([(0, 3), (1, 5)])
HIDING = ["mixtral", "qwen3_moe", "olmoe"]


def run(name, model, task, **options):
    method = NEURON_METHODS[name]
    options |= {"neurons": SHORTLIST} if method.needs_neurons else {}
    options |= {"steps": 2, **options} if method.takes_steps else {}
    return method.function(model, task, **options)


@METHODS
def test_the_table_tells_the_truth_about_signatures(name):
    method = NEURON_METHODS[name]
    model, task, *rest = inspect.signature(method.function).parameters.values()
    assert (model.name, task.name) == ("model", "conflicts")
    assert all(p.kind is p.KEYWORD_ONLY for p in rest)
    assert ("steps" in [p.name for p in rest]) == method.takes_steps
    assert ("neurons" in [p.name for p in rest]) == method.needs_neurons


@METHODS
def test_scores_are_named_per_example_and_say_where_they_come_from(name, toy):
    task = toy_conflicts(toy.tokenizer, n=3)
    scores = run(name, toy, task)
    assert scores.values.shape == (3, 4, 256)
    assert scores.at("m1.n5") == scores.grid.at(layer="m1", neuron="n5")
    about = scores.grid.provenance
    assert about["method"] == name and about["conflicts"] == task.hash
    assert (scores.completeness is not None) == NEURON_METHODS[name].complete


@METHODS
def test_batches_and_company_do_not_change_an_example(name, toy):
    task = toy_conflicts(toy.tokenizer, n=3)
    longer = ConflictTask("mixed", (*task.conflicts[:2], *longer_conflicts()))
    whole = run(name, toy, longer, batch_size=3).values
    apart = run(name, toy, longer, batch_size=1).values
    # float32, in batches of other shapes; log-probabilities, of order 10, round to 1e-6
    torch.testing.assert_close(whole, apart, atol=5e-6, rtol=1e-3, equal_nan=True)


def longer_conflicts():
    return (Conflict((1, 124, 128), (1, *range(20, 40), 124, 128), (30,), (31,)),)


@METHODS
def test_padding_on_the_left_changes_nothing(name):
    model, task = Model.load(families.module("llama", torch.float32)), conflicts()
    left = ConflictTask("left", task.conflicts, padding="left")
    a, b = (run(name, model, some).values for some in (task, left))
    # float32, summed in another order
    largest = float(a.nan_to_num().abs().max())
    torch.testing.assert_close(a, b, atol=1e-5 * largest, rtol=1e-3, equal_nan=True)


@METHODS
def test_bfloat16_scores_resemble_those_of_float32(name):
    exact, rough = (
        run(name, Model.load(families.module("llama", torch.float32).to(dtype)), conflicts(n=2))
        for dtype in (torch.float32, torch.bfloat16)
    )
    exact, rough = exact.values, rough.values
    assert rough.dtype == torch.float32
    chosen = exact.isfinite()
    pair = torch.stack([exact[chosen], rough[chosen]])
    assert torch.corrcoef(pair)[0, 1] > 0.9


@pytest.mark.parametrize("family", HIDING)
def test_mixtures_of_experts_are_refused(family):
    model = Model.load(families.module(family, torch.float32))
    for name in NEURON_METHODS:
        with pytest.raises(ValueError, match="shows no neurons in m0, m1: .*mixtures of experts"):
            run(name, model, conflicts())


@METHODS
def test_prompts_the_model_cannot_read_are_refused(name, toy):
    foreign = ConflictTask("foreign", (Conflict((1, 2), (1, 99999, 2), (3,), (4,)),))
    with pytest.raises(ValueError, match="holds token id 99999"):
        run(name, toy, foreign)
    with pytest.raises(ValueError, match="at least one example, got batch_size=0"):
        run(name, toy, toy_conflicts(toy.tokenizer, n=2), batch_size=0)


@METHODS
def test_methods_that_contrast_give_zero_where_the_context_reaches_nothing(name):
    model = blind_model()
    scores = run(name, model, conflicts(n=2)).values
    largest = scores[scores.isfinite()].abs().max()
    # zero but for rounding in float64
    assert bool(largest < 1e-13) == NEURON_METHODS[name].contrasts, largest


def blind_model():
    """No head writes anything, so each token is on its own."""
    module = families.module("neox", torch.float64)
    with torch.no_grad():
        for layer in module.gpt_neox.layers:
            layer.attention.dense.weight.zero_()
    return Model.load(module)
