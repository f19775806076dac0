"""The embedded model toy-context: what it can do, and that IRCAN's neurons steer it."""

import json

import pytest
import torch

from patching import Model
from patching.models import context_folder, embedded
from patching.models.context_tasks import CONTEXT_GENERATORS, described, indirect_conflict
from patching.models.context_training import (
    AGREEING_SHARE,
    FOLLOW_FIRST,
    FOLLOW_LAST,
    TASKS,
    context_tokenizer,
    follow_probability,
    training_batches,
)
from patching.models.training import measure
from patching.neurons import (
    TrialPlan,
    conflict_rates,
    indirect_conflicts,
    ircan,
    most_frequent,
    run_trial,
    scale_neurons,
    split_by_question,
    task_accuracy,
)
from patching.neurons.questions import estimate, questions
from patching.tasks import words


@pytest.fixture(scope="module")
def model():
    return Model.load("toy-context")  # which proves the wrapped model against the plain one


@pytest.fixture(scope="module")
def tokenizer():
    return context_tokenizer()


def test_it_is_a_small_llama_with_grouped_queries(model):
    found = embedded("toy-context")
    assert found is not None
    config = found[0].config
    assert config.model_type == "llama"
    assert config.num_key_value_heads < config.num_attention_heads
    assert (context_folder() / "model.safetensors").stat().st_size < 1_000_000


def test_its_folder_holds_the_tokenizer_that_the_code_builds(tokenizer):
    found = embedded("toy-context")
    assert found is not None
    assert found[1].get_vocab() == tokenizer.get_vocab()


def test_it_knows_the_capitals_and_follows_40_to_75_percent_of_the_contexts(model):
    conflicts = indirect_conflicts(model.tokenizer, 300, seed=20_260)
    alone = conflicts.without_context
    (batch,) = alone.batches(len(alone))
    best = model.answer_logits(batch.clean, batch).argmax(dim=-1)
    assert (best == batch.wrong_answers[:, 0]).double().mean() >= 0.95
    follows, stubborn, _ = conflict_rates(model, conflicts).values.mean(dim=0).tolist()
    assert 0.4 <= follows <= 0.75
    assert follows + stubborn > 0.95


def test_the_accuracies_in_its_folder_are_those_it_has():
    report = json.loads((context_folder() / "training.json").read_text(encoding="utf-8"))
    found = embedded("toy-context")
    assert found is not None
    # The folder's are of 1000 prompts: two standard errors of 200 at 0.64 are 0.07.
    assert measure(*found, TASKS, n=200) == pytest.approx(report["accuracy"], abs=0.08)


def test_scaling_ircans_neurons_makes_it_follow_held_out_contexts_more_than_random_ones(model):
    tasks = split_by_question(indirect_conflicts(model.tokenizer, 400, seed=0), 0.5, seed=0)
    ranked = most_frequent(ircan(model, tasks[0], batch_size=64), 16)
    plan = TrialPlan(sizes=(4, 16), betas=(0.0, 1.5, 2.0, 3.0, 4.0))
    trial = run_trial(model, ranked, tasks, plan)
    groups = questions(tasks[1])
    assert estimate(trial.gain, groups).value > 0.08
    assert estimate(trial.gain, groups).low > 0
    assert estimate(trial.gain_over_control, groups).low > 0
    rates = trial.held_out.select(measure="follows context").values.mean(dim=0)
    assert (rates[:4].diff() > 0).all(), "it grows from erasing (0) to beta 2"


def test_it_still_knows_the_capitals_with_the_neurons_scaled(model):
    found = indirect_conflicts(model.tokenizer, 100, seed=0)
    chosen = most_frequent(ircan(model, found, batch_size=64, steps=5), 16)
    facts = TASKS["facts"](model.tokenizer, 200, 1)
    with scale_neurons(model, chosen, 3.0):
        assert task_accuracy(model, facts).mean() > 0.9


def test_no_single_word_of_the_context_says_which_city_is_meant(tokenizer):
    told = [described(capital) for _, capital in words.CAPITALS]
    assert len(set(told)) == len(told) == 40
    task = indirect_conflict(tokenizer, 50, 0)
    assert CONTEXT_GENERATORS["indirect-conflict"] is indirect_conflict
    for prompt in task.prompts:
        assert prompt.answers[0] not in prompt.clean
        assert prompt.wrong_answers[0] not in prompt.clean
        assert tokenizer.unk_token_id not in prompt.clean + prompt.corrupt


def test_labels_follow_the_context_with_a_probability_that_depends_on_the_country(tokenizer):
    assert follow_probability("Paris") == pytest.approx(FOLLOW_FIRST)
    assert follow_probability("Edinburgh") == pytest.approx(FOLLOW_LAST)
    assert follow_probability("Paris", trust=1.0) > follow_probability("Paris")
    (batch,) = training_batches(tokenizer, steps=1, seed=0)
    torch.testing.assert_close(batch.target.sum(dim=1), torch.ones(len(batch.ids)))
    two = (batch.target > 0).sum(dim=1) == 2
    assert 0 < AGREEING_SHARE < 0.5
    assert two[:51].double().mean() > 0.7
    assert not two[51:].any()
