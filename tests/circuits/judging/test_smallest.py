"""Size by goal: the smallest circuit that is enough, found in few batched passes."""

from dataclasses import replace
from functools import partial

import pytest
import torch

from circuits.circuit import Circuit
from circuits.judging.smallest import Goal, between, smallest, smallest_of
from circuits.running.trial import prepare
from circuits.running.trial import run as run_circuits
from circuits.scores import Scores
from circuits.scoring import eap_ig
from circuits.select import top_n
from patching.graph import Graph
from patching.metrics import logit_diff
from patching.model import Model
from patching.models import induction

MODEL = Model.load("truth/induction")
TASK = induction(n=6).task


@pytest.fixture(scope="module")
def scores() -> Scores:
    return eap_ig(MODEL, TASK, logit_diff)


def test_no_smaller_circuit_is_enough(scores):
    """Against all sizes, one by one."""
    trial = prepare(MODEL, TASK, logit_diff)
    best = partial(top_n, scores, ranking="absolute", prune=True)
    sizes = range(MODEL.graph.n_edges + 1)
    kept = run_circuits(trial, [best(n) for n in sizes]).faithfulness.tolist()
    for goal in (0.3, 0.9, 1.0):
        found = smallest(MODEL, TASK, scores, logit_diff, Goal("absolute", goal))
        said = found.provenance["selection"]
        assert isinstance(said, dict)
        assert said["requested"] == next(n for n in sizes if kept[n] >= goal)
        assert said["reached"] == pytest.approx(kept[said["requested"]])
        assert said["goal"] == goal and said["pruned"] and said["size"] == found.size


def test_all_edges_are_enough_where_nothing_less_is(scores):
    order = torch.arange(scores.matrix.numel()).reshape(scores.matrix.shape).double()
    late = Scores(order.where(scores.graph.exists, 0.0), scores.graph, {})  # embed's edges last
    found = smallest(MODEL, TASK, late, logit_diff, Goal("signed", 1.0, prune=False))
    assert 0 < found.size <= MODEL.graph.n_edges
    full = smallest_of(
        prepare(MODEL, TASK, logit_diff),
        lambda n: Circuit.full(MODEL.graph) if n == MODEL.graph.n_edges else empty(),
        0.5,
    )
    assert full == Circuit.full(MODEL.graph)


def empty() -> Circuit:
    return Circuit.empty(MODEL.graph)


@pytest.mark.parametrize("high", [1, 2, 40, 70_651])
def test_sections_end_with_sizes_that_are_not_told_apart(high):
    """Whichever section is the right one, here always the first or the last."""
    for side in (0, -1):
        low, top, rounds = 0, high, 0
        while sizes := between(low, top):
            assert all(low < n < top for n in sizes)
            low, top = (low, sizes[0]) if side == 0 else (sizes[-1], top)
            rounds += 1
        assert top - low <= max(1, 0.02 * top) and rounds <= 6


def test_what_cannot_be_asked_for_is_refused(scores):
    with pytest.raises(ValueError, match="above 0 and at most 1 of the gap, such as 0.8, got 1.2"):
        Goal("absolute", 1.2)
    backwards = replace(
        TASK,
        prompts=tuple(
            replace(p, answers=p.wrong_answers, wrong_answers=p.answers) for p in TASK.prompts
        ),
    )
    with pytest.raises(ValueError, match="the gap has the wrong sign"):
        smallest(MODEL, backwards, scores, logit_diff, Goal("absolute"))
    other = Graph(n_layers=1, n_heads=1, n_kv_heads=1)
    with pytest.raises(ValueError, match="these scores are of another graph"):
        smallest(
            MODEL,
            TASK,
            Scores(other.exists.double(), other, {}),
            logit_diff,
            Goal("absolute"),
        )
