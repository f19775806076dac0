import json
import math
from dataclasses import replace

import families
import pytest
import torch
import toys

from circuits.judging.areas import cmd, cpr
from circuits.judging.faithfulness import MIB_SHARES, Sweep, curve
from circuits.running.evaluation import evaluate
from circuits.scores import Scores
from circuits.select import top_n
from patching.ablations import zero
from patching.graph import Graph
from patching.metrics import accuracy, kl, logit_diff
from patching.model import Model
from patching.tasks import Prompt, Task


@pytest.fixture(scope="module")
def linear() -> Model:
    return toys.linear_model()


def by_hand(model: Model) -> Scores:
    matrix = torch.zeros(model.graph.exists.shape, dtype=torch.float64)
    for edge, score in toys.SCORES.items():
        matrix[model.graph.edge_index(*edge)] = score
    return Scores(matrix, model.graph, {"method": "by hand"})


def noise(graph: Graph) -> Scores:
    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn(graph.exists.shape, generator=generator, dtype=torch.float64)
    return Scores(matrix * graph.exists, graph, {"method": "noise"})


def test_a_curve_by_hand(linear):
    sweep = Sweep("signed", sizes=(0, 3, 13), n_random=2, n_bootstrap=50)
    found = curve(linear, toys.task(4), by_hand(linear), logit_diff, sweep)
    # the three best edges are head 0's way through the MLP: 13, for 8 clean and 3 corrupt
    assert [point.metric for point in found.points] == pytest.approx([3, 13, 8])
    assert [point.faithfulness for point in found.points] == pytest.approx([0, 2, 1])
    assert [point.low for point in found.points] == pytest.approx([0, 2, 1])
    assert [point.example_median for point in found.points] == pytest.approx([0, 2, 1])
    assert [point.edges for point in found.points] == [0, 3, 13]
    assert [point.accuracy for point in found.points] == [1, 1, 1]


def test_nothing_is_the_corrupt_run_and_everything_the_clean_one(gpt2):
    n_edges = gpt2.graph.n_edges
    sweep = Sweep("absolute", sizes=(0, n_edges), n_random=3, wrong_sign=True)
    found = curve(gpt2, families.task(), noise(gpt2.graph), logit_diff, sweep)
    empty, full = found.points
    assert (empty.faithfulness, full.faithfulness) == pytest.approx((0, 1), abs=1e-9)
    assert (full.low, full.high, full.kl) == pytest.approx((1, 1, 0), abs=1e-9)
    assert (full.uniform_low, full.layer_matched_high) == pytest.approx((1, 1), abs=1e-9)
    torch.testing.assert_close(found.per_example[0], torch.zeros(3).double(), atol=1e-9, rtol=0)
    torch.testing.assert_close(found.per_example[1], torch.ones(3).double(), atol=1e-9, rtol=0)


def test_a_curve_is_what_its_circuits_evaluate_to(gpt2):
    task, scores, sizes = families.task(), noise(gpt2.graph), (20, 60, 100)
    sweep = Sweep("signed", sizes=sizes, n_random=4, wrong_sign=True)
    found = curve(gpt2, task, scores, logit_diff, sweep)
    circuits = [top_n(scores, n, ranking="signed", prune=True) for n in sizes]
    assert list(found.circuits) == circuits
    for metric, values in ((logit_diff, found.values), (kl, found.kl), (accuracy, found.accuracy)):
        alone = evaluate(gpt2, task, circuits, metric).values
        torch.testing.assert_close(values, alone, atol=1e-10, rtol=0)
    torch.testing.assert_close(
        found.faithfulness, evaluate(gpt2, task, circuits, logit_diff).faithfulness
    )


def test_sizes_are_told_before_and_after_pruning(gpt2):
    task, scores = families.task(), noise(gpt2.graph)
    pruned, whole = (
        curve(gpt2, task, scores, logit_diff, Sweep("signed", prune=p, wrong_sign=True))
        for p in (True, False)
    )
    n_edges = gpt2.graph.n_edges
    assert pruned.requested == tuple(int(share * n_edges) for share in MIB_SHARES)
    assert [p.edges for p in whole.points] == list(whole.requested)
    assert sum(p.edges for p in pruned.points) < sum(p.edges for p in whole.points)
    # resampling: edges on no path carry nothing
    torch.testing.assert_close(pruned.values, whole.values, atol=1e-10, rtol=0)


def test_areas_of_a_measured_curve_do_not_depend_on_what_was_drawn_for_chance(gpt2):
    task, scores = families.task(), noise(gpt2.graph)
    for ranking, area in (("signed", cpr), ("absolute", cmd)):
        sweeps = [Sweep(ranking, n_random=n, wrong_sign=True) for n in (0, 2)]
        first, second = (curve(gpt2, task, scores, logit_diff, sweep) for sweep in sweeps)
        assert area(first).value == pytest.approx(area(second).value)
        assert math.isnan(first.points[0].uniform_median)


def test_an_ablation_other_than_resampling_is_used_and_stated(gpt2):
    task, scores = families.task(), noise(gpt2.graph)
    sweep = Sweep("signed", sizes=(50, 100), prune=False, n_random=0, wrong_sign=True)
    found = curve(gpt2, task, scores, logit_diff, replace(sweep, ablation=zero))
    circuits = [top_n(scores, n, ranking="signed") for n in (50, 100)]
    alone = evaluate(gpt2, task, circuits, logit_diff, ablation=zero)
    torch.testing.assert_close(found.values, alone.values, atol=1e-10, rtol=0)
    torch.testing.assert_close(found.corrupt, alone.corrupt, atol=1e-10, rtol=0)
    resampled = curve(gpt2, task, scores, logit_diff, sweep).conditions.ablation
    assert "zero" in found.conditions.ablation
    assert "resample" in resampled


def test_the_conditions_of_a_number_travel_with_it(linear):
    sweep = Sweep("signed", sizes=(3,), n_random=0, n_bootstrap=0, seed=7)
    found = curve(linear, toys.task(), by_hand(linear), logit_diff, sweep)
    said = json.loads(found.to_json())
    assert said["conditions"]["metric"] == "logit-diff"
    assert said["conditions"]["ablated_set"] == "every edge outside the circuit"
    assert said["provenance"]["options"]["seed"] == 7
    assert said["provenance"]["ablation"] == said["conditions"]["ablation"]
    assert said["provenance"]["scores"] == {"method": "by hand"}
    assert said["points"][0]["low"] is None


def swapped(task: Task) -> Task:
    """The same prompts, corrupt ones as clean ones."""
    return Task(
        "swapped", tuple(replace(p, clean=p.corrupt, corrupt=p.clean) for p in task.prompts)
    )


def test_a_gap_of_the_wrong_sign_is_refused_unless_asked_for(linear):
    task, scores = swapped(toys.task(2)), by_hand(linear)
    sweep = Sweep("signed", sizes=(0, 13), n_random=0)
    with pytest.raises(ValueError, match="is 3 in the clean and 8 in the corrupt run.*wrong sign"):
        curve(linear, task, scores, logit_diff, sweep)
    found = curve(linear, task, scores, logit_diff, replace(sweep, wrong_sign=True))
    assert found.faithfulness.tolist() == pytest.approx([0, 1])


def test_clean_and_corrupt_without_a_gap_are_refused(linear):
    pairs = (*toys.task().prompts, *swapped(toys.task()).prompts)  # gaps of 5 and -5
    sweep = Sweep("signed", sizes=(3,))
    with pytest.raises(ValueError, match="there is no gap that a circuit could keep a share of"):
        curve(linear, Task("both ways", pairs), by_hand(linear), logit_diff, sweep)


def test_a_metric_that_is_not_a_number_is_refused(linear):
    def lost(logits: torch.Tensor, batch: object) -> torch.Tensor:
        return logits[:, 0] * torch.nan

    with pytest.raises(ValueError, match="the metric came out as NaN or infinite: both plain runs"):
        curve(linear, toys.task(2), by_hand(linear), lost, Sweep("signed", sizes=(3,)))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"sizes": ()}, "at least one size, got none"),
        ({"sizes": (14,)}, "no circuit can have 14 edges; this graph has 13, 0 least"),
        ({"sizes": (-1, 3)}, "no circuit can have -1 edges"),
        ({"sizes": (5, 3)}, r"from small to large, got \[5, 3\]"),
        ({"n_random": -1}, "cannot draw -1 random circuits; 0 leaves them out"),
        ({"n_bootstrap": -1}, "cannot make -1 bootstrap draws"),
    ],
)
def test_what_a_curve_cannot_be_made_of_is_refused(linear, changes, says):
    sweep = replace(Sweep("signed", sizes=(3,), n_random=1), **changes)
    with pytest.raises(ValueError, match=says):
        curve(linear, toys.task(2), by_hand(linear), logit_diff, sweep)


def test_one_prompt_has_no_interval(linear):
    with pytest.raises(ValueError, match="needs at least two, got 1"):
        curve(linear, toys.task(1), by_hand(linear), logit_diff, Sweep("signed", sizes=(3,)))


def test_scores_of_another_graph_are_refused(linear):
    with pytest.raises(ValueError, match="these scores are of another graph"):
        curve(linear, toys.task(2), noise(Graph(3, 4, 4)), logit_diff, Sweep("signed"))


def test_pairs_of_prompts_are_checked(linear):
    same = Task("same", (Prompt((0, 2), (0, 2), (0,), (1,)),) * 2)
    with pytest.raises(ValueError, match="corrupt prompt equal to the clean one"):
        curve(linear, same, by_hand(linear), logit_diff, Sweep("signed", sizes=(3,)))
