"""The method chosen by evidence: what is compared, on which prompts, at what cost."""

from dataclasses import replace
from functools import partial

import pytest
import torch

from circuits.choosing import auto
from circuits.choosing.automatic import RECIPES
from circuits.circuit import Circuit
from circuits.discover import Search, discover
from circuits.judging.recovery import recovery
from circuits.judging.smallest import Goal
from circuits.scores import Scores
from circuits.scoring import score
from circuits.select import top_n
from patching.metrics import Metric, logit_diff
from patching.model import Model
from patching.models import known
from patching.tasks import Task

NAME = "truth/induction-noise"
MODEL = Model.load(NAME)
KNOWN = known(NAME, n=12)
GOAL = Goal("absolute")


@pytest.fixture(scope="module")
def found():
    return auto(MODEL, KNOWN.task, logit_diff, GOAL, by_prompt=True)


def test_the_true_edges_come_first_where_one_step_fails(found):
    edges = [tuple(edge.split("->")) for edge in KNOWN.active]
    right = Circuit.from_edges(MODEL.graph, edges)
    assert recovery(found.scores, right, ranking="absolute").auroc == pytest.approx(1, abs=0.02)


def test_what_is_kept_is_the_nearest_and_says_how_much_nearer(found):
    names = [one.name for one in found.compared]
    assert len(names) == 7 and {*RECIPES} < {*names}
    far = [one.distance for one in found.compared]
    assert far == sorted(far) and found.compared[0].farther == 0
    for one in found.compared:
        assert one.farther == pytest.approx(one.distance - far[0])
        assert one.low <= one.farther + 1e-9 and one.farther <= one.high + 1e-9
    said = found.scores.provenance
    assert said["method"] == "auto" and said["options"]["kept"] == found.best == names[0]
    assert [one["name"] for one in said["compared"]] == names


def test_scores_are_those_of_all_prompts(found):
    """A mean of means, scaled: of one recipe exactly, of several in proportion by prompt."""
    rows = found.scores.by_prompt
    assert rows is not None and len(rows) == len(KNOWN.task)
    one = next(iter(RECIPES))
    alone = score(MODEL, KNOWN.task, logit_diff, RECIPES[one])
    if found.best == one:
        torch.testing.assert_close(found.scores.matrix, alone.matrix)
    both = torch.stack([found.scores.matrix.flatten(), alone.matrix.flatten()])
    assert torch.corrcoef(both)[0, 1] > 0.9


def test_it_costs_less_than_45_plain_passes(found):
    """Three recipes of 5, 3 and 3 steps, two plain runs each, and a third of a pass a circuit."""
    n_circuits = 8 + 7 * 3
    assert found.units == pytest.approx(11 + 2 + n_circuits / 3, abs=1) and found.units < 45


def test_held_out_prompts_are_never_seen(tmp_path):
    """Whatever they are, the same is found."""
    found, held_out = KNOWN.task.split(0.7, seed=1)
    turned = (replace(p, clean=p.corrupt, corrupt=p.clean) for p in held_out.prompts)
    other = replace(held_out, prompts=tuple(turned))
    seen: list[str] = []

    def scorer(model: Model, task: Task, metric: Metric) -> Scores:
        seen.append(task.hash)
        return auto(model, task, metric, GOAL, size=5).scores

    select = partial(top_n, ranking="absolute")
    search = Search(logit_diff, "logit-diff", scorer, select, "absolute", 5)
    circuits = [
        discover(MODEL, found, judged, search, tmp_path / name).circuit
        for name, judged in (("one", held_out), ("other", other))
    ]
    assert seen == [found.hash] * 2 and circuits[0] == circuits[1]
    first, second = (circuit.scores for circuit in circuits)
    assert first is not None and second is not None and torch.equal(first, second)


def test_what_cannot_be_compared_is_refused():
    with pytest.raises(ValueError, match="4 or more are needed, got 3; name a method"):
        auto(MODEL, KNOWN.task.take(3), logit_diff, GOAL)
    with pytest.raises(ValueError, match="cannot choose 9999 edges"):
        auto(MODEL, KNOWN.task, logit_diff, GOAL, size=9999)
