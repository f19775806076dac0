"""Shapley values: by hand, from all subsets, and the laws that define them."""

import itertools
import math

import families
import numpy as np
import pytest
import torch
import toys

from circuits.circuit import Circuit
from circuits.judging import shapley as module
from circuits.judging.shapley import shapley_cost, shapley_values
from circuits.running.evaluation import evaluate
from patching import ablations, memory
from patching.metrics import logit_diff
from patching.model import Model


@pytest.fixture
def every_order(monkeypatch):
    orders = lambda n, *_: [list(order) for order in itertools.permutations(range(n))]  # noqa: E731
    monkeypatch.setattr(module, "_draw", orders)


def test_the_toys_values_by_hand(every_order):
    """Head 0 and the MLP make 10 together; head 0 alone -2, head 1 alone -3."""
    players = ["a0.h0", "a0.h1", "m0"]
    found = shapley_values(toys.linear_model(), toys.task(), logit_diff, players=players, orders=6)
    assert found.values.tolist() == pytest.approx([5 - 2, -3, 5])
    assert found.grid.clean.item() == pytest.approx(toys.CLEAN)
    assert found.grid.at(node="m0") == pytest.approx(5)


@pytest.mark.parametrize("ablation", [ablations.resample, ablations.zero])
def test_values_from_all_orders_are_those_of_all_subsets(gpt2, every_order, ablation):
    """`sum over S of |S|! (n - |S| - 1)! / n! (v(S + i) - v(S))`, one circuit at a time."""
    players, task = ["a0.h1", "a1.h0", "m0", "embed"], families.task()
    graph, n = gpt2.graph, 4

    def value(live):
        mask = graph.exists.clone()
        for i, player in enumerate(players):
            if i not in live:
                mask[graph.source_index(player)] = False
        return evaluate(gpt2, task, [Circuit(mask, graph)], logit_diff, ablation=ablation).values[0]

    subsets = [s for k in range(n + 1) for s in itertools.combinations(range(n), k)]
    values = {frozenset(s): value(s) for s in subsets}
    found = shapley_values(gpt2, task, logit_diff, players=players, orders=24, ablation=ablation)
    for i in range(n):
        expected = sum(
            math.factorial(len(s))
            * math.factorial(n - len(s) - 1)
            / math.factorial(n)
            * (values[s | {i}] - values[s])
            for s in values
            if i not in s
        )
        torch.testing.assert_close(found.grid.values[:, i], expected)
    assert found.rows == 2**n * len(task)


def test_gains_of_every_order_sum_to_what_all_players_do(gpt2):
    task = families.task()
    found = shapley_values(gpt2, task, logit_diff, orders=3, seed=4)
    assert list(found.grid.axes) == ["layer", "head"] and len(found.players) == 8
    gap = found.grid.clean - found.grid.corrupt
    torch.testing.assert_close(found.gains.sum(dim=1), gap.mean().expand(3))
    torch.testing.assert_close(found.grid.values.sum(dim=(1, 2)), gap)
    torch.testing.assert_close(found.grid.mean.flatten(), found.values)
    assert found.rows == shapley_cost(gpt2, task, orders=3, seed=4)
    assert found.rows <= (7 * 3 + 2) * len(task)


def test_heads_with_equal_weights_get_equal_values(every_order):
    twin = families.module("gpt2", torch.float64)
    attention = twin.transformer.h[0].attn
    with torch.no_grad():
        for part in range(3):
            start = 32 * part
            attention.c_attn.weight[:, start + 8 : start + 16] = attention.c_attn.weight[
                :, start : start + 8
            ]
            attention.c_attn.bias[start + 8 : start + 16] = attention.c_attn.bias[start : start + 8]
        attention.c_proj.weight[8:16] = attention.c_proj.weight[:8]
    model, players = Model.load(twin), ["a0.h0", "a0.h1", "m1"]
    found = shapley_values(model, families.task(), logit_diff, players=players, orders=6)
    first, second, other = found.values.tolist()
    assert first == pytest.approx(second, rel=1e-9) and first != pytest.approx(other, rel=1e-3)


def test_the_interval_is_students_over_orders(gpt2):
    found = shapley_values(gpt2, families.task(), logit_diff, players=["m0", "a0.h0"], orders=5)
    low, high = found.interval()
    gains = found.gains.numpy()
    reach = 2.7764451 * gains.std(axis=0, ddof=1) / math.sqrt(5)  # t for 4 degrees of freedom
    np.testing.assert_allclose(high - low, 2 * reach, rtol=1e-6)
    table = found.to_dataframe()
    assert list(table.columns) == ["player", "value", "low", "high"]
    assert table["value"].is_monotonic_decreasing
    one = shapley_values(gpt2, families.task(), logit_diff, players=["m0", "a0.h0"], orders=1)
    assert np.isnan(one.interval()).all()


def test_sets_in_pieces_give_the_same_values(gpt2):
    whole = shapley_values(gpt2, families.task(), logit_diff, orders=2)
    with memory.budget(gpt2.graph.exists.numel() * 3):
        pieces = shapley_values(gpt2, families.task(), logit_diff, orders=2)
    torch.testing.assert_close(whole.gains, pieces.gains)


def test_players_that_make_no_game_are_refused(gpt2):
    task = families.task()
    for players, message in (
        ([], "there are no players; name at least one writer"),
        (["a9.h0"], "no source named 'a9.h0'"),
        (["m0", "m0"], "the player 'm0' is named twice"),
    ):
        with pytest.raises(ValueError, match=message):
            shapley_values(gpt2, task, logit_diff, players=players)
    with pytest.raises(ValueError, match="at least one order of joining, got 0"):
        shapley_cost(gpt2, task, orders=0)
