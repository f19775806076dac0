"""Judging reweighted neurons: rates, splits, intervals, sweeps, controls and side effects."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import toys

from patching.grid import Grid
from patching.neurons.conflicts import Conflict, ConflictTask, toy_conflicts
from patching.neurons.editing import random_like, scale_neurons
from patching.neurons.evaluation import (
    Trial,
    TrialPlan,
    best,
    control_rates,
    run_trial,
    sweep,
)
from patching.neurons.measures import (
    FOLLOWS,
    PREFERS,
    STUBBORN,
    conflict_rates,
    perplexity,
    task_accuracy,
    token_losses,
)
from patching.neurons.pictures import plot_betas, plot_layers, plot_sweep
from patching.neurons.questions import estimate, questions, split_by_question
from patching.neurons.selection import Neurons

A, B, STOP = toys.A, toys.B, toys.STOP
RANKED = Neurons([(1, 4), (2, 7), (0, 9), (1, 5)])
PLAN = TrialPlan(sizes=(1, 3), betas=(0.0, 4.0), n_controls=2, batch_size=16)


@pytest.fixture(scope="module")
def conflicts(toy):
    return toy_conflicts(toy.tokenizer, n=40, seed=1)


@pytest.fixture(scope="module")
def trial(toy, conflicts) -> Trial:
    from patching.tasks import ioi

    tasks = split_by_question(conflicts, 0.5, seed=0)
    return run_trial(toy, RANKED, tasks, PLAN, elsewhere={"ioi": ioi(toy.tokenizer, n=5, seed=0)})


def rows(*conflicts: tuple[tuple[int, ...], ...]) -> ConflictTask:
    return ConflictTask("rows", tuple(Conflict(*row) for row in conflicts))


def test_on_the_linear_toy_the_neuron_decides_what_is_said():
    """After `A .` the logits are A: 10 (all of it the neuron's), B: 2, so beta 0 turns it around.

    The neuron's part of A's logit is 10 beta; B's logit is 2 whatever beta is.
    """
    model = toys.linear_model()
    task = rows(((STOP,), (A, STOP), (A,), (B,)))
    for beta, follows in ((0.0, 0), (0.1, 0), (0.3, 1), (1.0, 1)):
        with scale_neurons(model, Neurons([(0, 0)]), beta):
            rates = conflict_rates(model, task)
        assert rates.at(measure=FOLLOWS) == follows
        assert rates.at(measure=STUBBORN) == 1 - follows
        assert rates.at(measure=PREFERS) == follows


def test_rates_are_those_of_a_plain_loop(toy, conflicts):
    rates = conflict_rates(toy, conflicts, batch_size=7).values
    for i, row in enumerate(conflicts.conflicts):
        logits = toy.run(row.with_context).logits[0, -1]
        said = int(logits.argmax())
        expected = [
            said == row.answer[0],
            said == row.memorised[0],
            bool(logits[row.answer[0]] > logits[row.memorised[0]]),
        ]
        assert rates[i].tolist() == [float(x) for x in expected]


def test_padding_does_not_matter(toy, conflicts):
    longer = replace(
        conflicts.conflicts[0], with_context=(1, 2, 2, *conflicts.conflicts[0].with_context[1:])
    )
    mixed = replace(conflicts, conflicts=(longer, *conflicts.conflicts[1:9]))
    left = replace(mixed, padding="left")
    assert torch.equal(conflict_rates(toy, mixed).values, conflict_rates(toy, left).values)


def test_context_aware_decoding_is_the_contrast_of_the_two_runs(toy, conflicts):
    rates = conflict_rates(toy, conflicts, alpha=0.5).values[:, 0]
    for row, found in zip(conflicts.conflicts, rates.tolist(), strict=True):
        with_context = toy.run(row.with_context).logits[0, -1]
        without = toy.run(row.without_context).logits[0, -1]
        assert found == float((1.5 * with_context - 0.5 * without).argmax() == row.answer[0])


def test_rows_without_a_memorised_answer_count_for_what_is_known(toy, conflicts):
    unknown = replace(conflicts.conflicts[0], memorised=())
    alone = conflict_rates(toy, replace(conflicts, conflicts=(unknown,))).values
    mixed = conflict_rates(toy, replace(conflicts, conflicts=(unknown, *conflicts.conflicts[1:3])))
    assert alone[0, 1:].isnan().all()
    assert mixed.values[0, 1:].isnan().all()
    assert not mixed.values[1:].isnan().any()
    assert not mixed.values[:, 0].isnan().any()


def test_losses_are_those_of_hugging_face(toy):
    texts = [[1, 7, 9, 11, 12], [1, 30, 31]]
    found = token_losses(toy, texts, batch_size=2)
    for row, ids in zip(found, texts, strict=True):
        tokens = torch.tensor([ids])
        logits = toy.run(tokens).logits[0, :-1].float()
        expected = torch.nn.functional.cross_entropy(logits, tokens[0, 1:], reduction="sum")
        # sums of float32 logarithms, padded in one run and not in the other
        assert row[0].item() == pytest.approx(expected.item(), rel=1e-5)
        assert row[1] == len(ids) - 1
    mean = float(found[:, 0].sum() / found[:, 1].sum())
    assert perplexity(found) == pytest.approx(np.exp(mean))


def test_a_split_has_no_question_on_both_sides(conflicts):
    first, second = split_by_question(conflicts, 0.5, seed=3)
    assert len(first) + len(second) == len(conflicts)
    asked = [{c.without_context for c in part.conflicts} for part in (first, second)]
    assert not asked[0] & asked[1]
    assert len(asked[0]) == round(0.5 * len(set(questions(conflicts).tolist())))


def test_intervals_draw_questions_not_rows():
    """Four rows that always agree know no more than one does."""
    values = torch.tensor([0.0, 1.0, 1.0, 0.0, 1.0, 0.0, 0.0, 1.0]).repeat_interleave(4)
    groups = np.arange(8).repeat(4)
    by_question, by_row = estimate(values, groups), estimate(values)
    once = estimate(values[::4])
    assert by_question == once
    assert by_question.high - by_question.low > 1.3 * (by_row.high - by_row.low)
    # means of 8 draws are eighths; 3.5 % of them are below 2/8, 14 % are at most 2/8
    assert 0.125 <= by_question.low <= 0.25
    assert 0.75 <= by_question.high <= 0.875


def test_an_estimate_leaves_out_what_is_not_known():
    values = torch.tensor([1.0, torch.nan, 0.0, 1.0, 1.0])
    assert estimate(values, n=0).value == 0.75
    assert np.isnan(estimate(values * torch.nan).value)
    assert np.isnan(estimate(values[:1]).low)


def test_a_sweep_is_the_rates_of_each_edit(toy, conflicts):
    grid = sweep(toy, conflicts, RANKED, sizes=(1, 3), betas=(0.0, 1.0, 6.0))
    assert grid.axes == {"neurons": ("1", "3"), "beta": ("0", "1", "6")}
    for h in (1, 3):
        with scale_neurons(toy, RANKED.take(h), 6.0):
            expected = conflict_rates(toy, conflicts).select(measure=FOLLOWS).values
        assert torch.equal(grid.select(neurons=str(h), beta="6").values, expected)
    unchanged = conflict_rates(toy, conflicts).select(measure=FOLLOWS).values
    assert torch.equal(grid.select(neurons="3", beta="1").values, unchanged)


def test_controls_are_random_neurons_of_each_seed(toy, conflicts):
    grid = control_rates(toy, conflicts, RANKED, betas=(6.0,), seeds=(5, 6))
    with scale_neurons(toy, random_like(RANKED, toy, 6), 6.0):
        expected = conflict_rates(toy, conflicts).select(measure=FOLLOWS).values
    assert torch.equal(grid.select(seed="6", beta="6").values, expected)


def test_the_best_is_the_highest_rate_then_the_mildest_edit():
    axes = {"neurons": ("1", "2"), "beta": ("0", "1", "2", "4")}

    def of(*rates: list[float]) -> Grid:
        return Grid("rate", torch.tensor([rates]), axes)

    assert best(of([1.0, 1.0, 0.2, 0.5], [1.0, 1.0, 0.3, 0.6])) == (2, 4.0)
    assert best(of([0.0, 0.0, 0.6, 0.6], [0.0, 0.0, 0.6, 0.6])) == (1, 2.0)


def test_a_trial_measures_what_its_parts_measure(toy, trial):
    test = trial.tasks[1]
    chosen = trial.neurons
    assert (len(chosen), trial.beta) == best(trial.dev)
    assert list(chosen) == list(RANKED)[: len(chosen)]
    assert trial.held_out.axes["beta"] == ("0", "1", "4")
    plain = conflict_rates(toy, test).values
    with scale_neurons(toy, chosen, trial.beta):
        edited = conflict_rates(toy, test).values
        both = conflict_rates(toy, test, alpha=0.5).values
    of = trial.decodings
    assert torch.equal(of.select(decoding="original").values, plain)
    assert torch.equal(of.select(decoding="edited").values, edited)
    assert torch.equal(of.select(decoding="edited + CAD").values, both)
    assert torch.equal(trial.gain, edited[:, 0] - plain[:, 0])
    assert torch.equal(trial.change("4"), trial.gain)
    control = trial.control.select(beta="4").values.mean(dim=1)
    assert torch.equal(trial.gain_over_control, edited[:, 0] - control)


def test_side_effects_are_measured_on_other_prompts(toy, trial):
    effects = {(e.name, e.quantity): e for e in trial.side_effects}
    assert set(effects) == {
        ("ioi", "accuracy"),
        ("ioi", "loss"),
        ("questions without context", "loss"),
    }
    from patching.tasks import ioi

    task = ioi(toy.tokenizer, n=5, seed=0)
    assert torch.equal(effects["ioi", "accuracy"].before, task_accuracy(toy, task))
    with scale_neurons(toy, trial.neurons, trial.beta):
        losses = token_losses(toy, [p.clean for p in task.prompts])
    assert torch.equal(effects["ioi", "loss"].after, losses[:, 0] / losses[:, 1])


def test_figures_show_what_was_measured(trial):
    bars = plot_layers(RANKED, 4).axes[0].patches
    assert [bar.get_height() for bar in bars] == [1, 2, 1, 0]
    cells = [text.get_text() for text in plot_sweep(trial.dev).axes[0].texts]
    assert cells[0] == f"{float(trial.dev.mean[0, 0]):.0%}"
    lines = {line.get_label(): line for line in plot_betas(trial).axes[0].lines}
    shown = lines["these (95 % of the change)"].get_ydata()
    assert list(shown) == pytest.approx(trial.held_out.mean[:, 0].tolist())


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (lambda m, t: sweep(m, t, RANKED, sizes=(5,)), "cannot take 5 neurons: 4 were found"),
        (lambda m, t: sweep(m, t, RANKED, sizes=()), "at least one number of neurons"),
        (lambda m, t: sweep(m, t, RANKED, sizes=(1,), betas=(-1.0,)), "from 0 .erase"),
        (lambda m, t: sweep(m, t, Neurons([(9, 0)]), sizes=(1,)), "no layer 9"),
        (lambda m, t: control_rates(m, t, RANKED, seeds=()), "at least one seed"),
        (lambda m, t: best(sweep(m, t, RANKED, sizes=(1,), betas=(0.5,))), "no beta is above 1"),
        (lambda m, t: conflict_rates(m, t, alpha=-1.0), "alpha is a finite number from 0"),
        (lambda m, t: conflict_rates(m, rows(((1,), (2000,), (3,), ()))), "only .* tokens"),
        (lambda m, t: token_losses(m, [[1, 2], [3]]), "text 1 has 1"),
        (lambda m, t: token_losses(m, []), "got no text"),
        (lambda m, t: split_by_question(t.take(1), 0.5), "a split of 1 questions at 0.5"),
        (lambda m, t: estimate(torch.ones(3), n=-1), "cannot make -1 bootstrap draws"),
        (lambda m, t: plot_layers(RANKED, 2), "lies in layer 2, and there are 2 layers"),
        (
            lambda m, t: plot_sweep(Grid("x", torch.zeros(1, 2), {"a": ("0", "1")})),
            "a sweep has the axes neurons and beta",
        ),
    ],
)
def test_wrong_input_is_explained(toy, conflicts, wrong, said):
    with pytest.raises(ValueError, match=said):
        wrong(toy, conflicts.take(2))
