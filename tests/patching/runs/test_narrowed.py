"""Runs that work on some tokens alone: nothing that is asked changes, and less is done."""

from dataclasses import replace

import families
import pytest
import torch

from circuits.scoring.gather import prepare
from patching.gathering import Recipe
from patching.metrics import logit_diff
from patching.paths import adjusted, along_activations, along_inputs, at_both, at_clean
from patching.rules import attn_lrp, gim, plain, relp
from patching.runs.narrowed import MOST, Narrowed
from patching.tasks.task import Task


@pytest.fixture(scope="module", params=["gpt2", "gemma2", "neox"])
def model(request):
    return families.load(request.param, torch.float64)


def width_seen(model, block, narrowed, tokens, batch):
    """How many tokens the MLP of a block works on, and the logits of the run."""
    widths = []
    see = (block.mlp_in, lambda x: widths.append(x.shape[:2].numel()))
    with narrowed.running() as last:
        logits = model.answer_logits(tokens, batch, [*last, see])
    return widths.pop(), logits


def test_the_last_layer_works_at_answers_and_the_others_where_runs_differ(model):
    batch = next(families.ragged_task().batches(4))
    narrowed = Narrowed(model, batch, batch.can_differ)
    first, last = model.blocks[0], model.blocks[-1]
    some, every = int(batch.can_differ.sum()), batch.clean.numel()
    assert some <= MOST * every
    for tokens, expected in ((batch.corrupt, every), (batch.clean, some), (batch.corrupt, some)):
        plain = model.answer_logits(tokens, batch)
        for block, width in ((first, expected), (last, batch.n_rows)):
            if block is last and expected == every:
                continue  # the first run is one
            found, logits = width_seen(model, block, narrowed, tokens, batch)
            assert found == width
            torch.testing.assert_close(logits, plain, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("path", "rule"),
    [
        (at_both, plain),
        (along_inputs(2), attn_lrp),
        (along_activations(1), relp),
        (adjusted(1), plain),
        (at_clean, gim),
    ],
)
def test_gradients_are_the_same_where_runs_are_narrowed(model, path, rule):
    task = families.ragged_task()
    job = prepare(model, task, logit_diff, Recipe(path, rule))
    behind = model.blocks[0].post_mlp_norm is not None
    assert job.short == (rule is plain or not behind)
    batch = next(task.batches(4, model.device))
    short, whole = (job.gather(batch), replace(job, short=False).gather(batch))
    there = batch.can_differ
    both = short.at_embedding[there], whole.at_embedding[there]
    torch.testing.assert_close(*both, rtol=0, atol=1e-12)
    for (_, found), (_, expected) in zip(short.gradients, whole.gradients, strict=True):
        torch.testing.assert_close(found.mlps, expected.mlps, rtol=0, atol=1e-12)
        torch.testing.assert_close(found.logits, expected.logits, rtol=0, atol=1e-12)
        for one, other in zip(found.attention, expected.attention, strict=True):
            torch.testing.assert_close(one.projected, other.projected, rtol=0, atol=1e-12)


def test_under_a_rule_of_ones_own_layers_work_on_all_tokens(model):
    rule = replace(relp, name="mine", parts=relp.parts[:1])
    assert not prepare(model, families.task(), logit_diff, Recipe(at_clean, rule)).short


def test_prompts_that_are_alike_from_the_first_token_on_run_in_full(model):
    (prompt,) = families.task(1).prompts
    alike = Task("alike", (replace(prompt, corrupt=prompt.clean),))
    batch = next(alike.batches(1))
    narrowed = Narrowed(model, batch, batch.can_differ)
    for _ in range(2):
        width, _ = width_seen(model, model.blocks[0], narrowed, batch.clean, batch)
        assert width == batch.clean.numel()
