"""The method chosen by evidence: what is compared, on which prompts, at what cost."""

from dataclasses import replace
from functools import partial

import pytest
import torch

from circuits.choosing import SELECT_BY, Compared, auto
from circuits.choosing.automatic import RECIPES
from circuits.choosing.comparing import compare, preferred
from circuits.circuit import Circuit
from circuits.discover import Search, discover
from circuits.judging.recovery import recovery
from circuits.judging.smallest import Goal
from circuits.running.evaluation import evaluate
from circuits.scores import Scores
from circuits.scoring import score
from circuits.select import by_mean_size, top_n
from patching.intervals import ratio_of_means
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
    return auto(MODEL, KNOWN.task, logit_diff, GOAL)


def test_the_true_edges_come_first_where_one_step_fails(found):
    edges = [tuple(edge.split("->")) for edge in KNOWN.active]
    right = Circuit.from_edges(MODEL.graph, edges)
    assert recovery(found.scores, right, ranking="absolute").auroc == pytest.approx(1, abs=0.02)


def test_what_is_kept_is_of_the_nearest_and_says_how_much_nearer(found):
    names = [(one.name, one.selector) for one in found.compared]
    assert len({*names}) == 9 * len(SELECT_BY) and {*RECIPES} < {name for name, _ in names}
    assert found.kept == preferred(found.compared, list(SELECT_BY)) and found.kept.is_near
    assert found.goal.select is SELECT_BY[found.kept.selector]
    far = [one.distance for one in found.compared]
    assert far == sorted(far) and found.compared[0].farther == 0
    for one in found.compared:
        assert one.farther == pytest.approx(one.distance - far[0])
        assert one.low <= one.farther + 1e-9 and one.farther <= one.high + 1e-9
    said = found.scores.provenance
    assert said["method"] == "auto" and said["options"]["kept"] == found.best
    assert said["options"]["selector"] == found.kept.selector
    assert [(one["name"], one["selector"]) for one in said["compared"]] == names


def test_of_what_is_not_told_apart_the_first_selector_is_kept():
    """By hand: `b` is 0.05 farther, within a standard error of 0.1; `c` is not, `d` a later one."""

    def row(name: str, selector: str, farther: float, half: float) -> Compared:
        return Compared(name, selector, 0.2 + farther, farther, farther - half, farther + half)

    rows = (
        row("a", "top-n", 0.0, 0.0),
        row("d", "smoothed-size", 0.01, 0.2),
        row("b", "mean-size", 0.05, 0.196),
        row("e", "mean-size", 0.06, 0.196),
        row("c", "mean-size", 0.11, 0.196),
    )
    assert [one.is_near for one in rows] == [True, True, True, True, False]
    assert preferred(rows, list(SELECT_BY)).name == "b"
    assert preferred(rows[:2], list(SELECT_BY)).name == "d"


def test_circuits_are_judged_on_prompts_that_their_scores_have_not_seen(monkeypatch):
    """What is compared is what each part's scores say on the others: written out."""
    seen = []

    def told(folds, selectors, size, goal):
        seen.extend(folds)
        return compare(folds, selectors, size, goal)

    monkeypatch.setattr("circuits.choosing.automatic.compare", told)
    found = auto(MODEL, KNOWN.task, logit_diff, GOAL, size=5, selectors={"top-n": top_n})
    prompts = [prompt for fold in seen for prompt in fold.trial.task.prompts]
    assert len(seen) == 4 and sorted(prompts, key=str) == sorted(KNOWN.task.prompts, key=str)
    values = []
    for fold in seen:
        others = [i for i, p in enumerate(KNOWN.task.prompts) if p not in fold.trial.task.prompts]
        alone = score(MODEL, KNOWN.task.some(others), logit_diff, RECIPES["eap-ig"])
        circuit = top_n(alone, 5, ranking="absolute", prune=True)
        values.append(evaluate(MODEL, fold.trial.task, [circuit], logit_diff))
    kept = [
        torch.cat([getattr(v, at) for v in values], -1) for at in ("values", "clean", "corrupt")
    ]
    (mine,) = ratio_of_means(*(part.numpy() for part in kept))
    theirs = next(one for one in found.compared if one.name == "eap-ig")
    assert theirs.distance == pytest.approx(
        abs(1 - mine), abs=1e-6
    )  # sums in float32, of others beside


def test_scores_are_those_of_all_prompts(found):
    """Of one recipe exactly, of several a mean of what is scaled."""
    rows = found.scores.by_prompt
    assert rows is not None and len(rows) == len(KNOWN.task)
    one = next(iter(RECIPES))
    alone = score(MODEL, KNOWN.task, logit_diff, RECIPES[one])
    if found.best == one:
        torch.testing.assert_close(found.scores.matrix, alone.matrix)
    both = torch.stack([found.scores.matrix.flatten(), alone.matrix.flatten()])
    assert torch.corrcoef(both)[0, 1] > 0.9


def test_it_costs_less_than_45_plain_passes(found):
    """Recipes of 5, 3 and 3 steps, two of 2/3, two plain runs each; a circuit is a third."""
    n_circuits = 9 + 9 * len(SELECT_BY)
    assert (
        found.units == pytest.approx(11 + 4 / 3 + 10 / 3 + n_circuits / 3, abs=1)
        and found.units < 45
    )


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


def test_signed_circuits_are_chosen_by_what_knows_signs():
    found = auto(MODEL, KNOWN.task.take(6), logit_diff, Goal("signed"), size=5)
    assert {one.selector for one in found.compared} == {"top-n"}
    with pytest.raises(ValueError, match="sizes have no sign: mean-size"):
        some = {"mean-size": by_mean_size}
        auto(MODEL, KNOWN.task, logit_diff, Goal("signed"), size=5, selectors=some)


def test_what_cannot_be_compared_is_refused():
    with pytest.raises(ValueError, match="4 or more are needed, got 3; name a method"):
        auto(MODEL, KNOWN.task.take(3), logit_diff, GOAL)
    with pytest.raises(ValueError, match="cannot choose 9999 edges"):
        auto(MODEL, KNOWN.task, logit_diff, GOAL, size=9999)
