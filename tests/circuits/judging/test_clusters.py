"""Groups of prompts and what is carried over, on prompts of two kinds made by hand."""

from functools import partial

import pytest
import torch

from circuits.circuit import Circuit
from circuits.judging.clusters import clusters, grouped
from circuits.judging.transfer import transfer
from circuits.running.trial import prepare
from circuits.scores import Scores
from circuits.select import top_n
from patching.metrics import logit_diff
from patching.model import Model
from patching.models import induction
from patching.tasks import Task

MODEL = Model.load("truth/induction")
KNOWN = induction(n=8)
TASK = KNOWN.task
EDGES = [(edge.partition("->")[0], edge.partition("->")[2]) for edge in KNOWN.active_edges]
TRUE = Circuit.from_edges(MODEL.graph, EDGES)
FIVE = partial(top_n, n=5, ranking="absolute")
ON = partial(prepare, MODEL, metric=logit_diff)


def scores_of(rows: torch.Tensor) -> Scores:
    matrix = torch.zeros(TRUE.mask.shape, dtype=torch.float64)
    matrix[MODEL.graph.exists] = rows.mean(dim=0)
    return Scores(matrix, MODEL.graph, {"tokens": TASK.hash}, by_prompt=rows)


@pytest.fixture(scope="module")
def rows() -> torch.Tensor:
    """Every prompt scores the true edges about 1."""
    right = TRUE.mask[MODEL.graph.exists].double()
    noise = torch.rand(8, len(right), generator=torch.Generator().manual_seed(0)).double()
    return right + 0.1 * noise


def test_prompts_of_two_kinds_are_told_apart_and_one_circuit_does_not_serve_both(rows):
    """Every other prompt scores the edges the other way round, and louder."""
    rows = rows.clone()
    rows[::2] = 2 * rows[::2].flip(1)
    found = clusters(TASK, scores_of(rows), FIVE, ON)
    assert found.labels.tolist() == [0, 1] * 4
    assert found.closeness[0, 0] > 0.8 > 0.5 > found.closeness[0, 1]
    turned, right, both = found.circuits
    assert right == TRUE and not (turned & right).size and both == turned
    assert found.faithfulness[1].tolist() == pytest.approx([1, 1], abs=1e-4)
    assert found.faithfulness[2].tolist() == pytest.approx([0, 0], abs=1e-4)
    assert not found.one_serves_all
    assert found.sentence == "2 groups of 4, 4 prompts; one circuit does not serve all of them."
    assert len(found.to_dataframe()) == 6


def test_prompts_that_score_alike_are_served_by_one_circuit(rows):
    rows = rows.clone()
    rows[:4, 0] += 0.5  # told apart by an edge that is not among the best
    found = clusters(TASK, scores_of(rows), FIVE, ON)
    assert found.labels.tolist() == [0] * 4 + [1] * 4
    assert found.one_serves_all and set(found.circuits) == {TRUE}


def test_what_cannot_be_grouped_is_refused(rows):
    scores = scores_of(rows)
    with pytest.raises(ValueError, match="of other prompts than the 3"):
        clusters(TASK.take(3), scores, FIVE, ON)
    with pytest.raises(ValueError, match="8 prompts make 2 to 8 groups, got 9"):
        clusters(TASK, scores, FIVE, ON, n=9)
    with pytest.raises(ValueError, match="two are the least: ask for fewer groups"):
        clusters(TASK, scores, FIVE, ON, n=7)
    with pytest.raises(ValueError, match="prompt 1 scores every edge 0"):
        grouped(torch.tensor([[1.0, 2.0], [0.0, 0.0]]).double(), 2)


def test_each_circuit_is_judged_on_each_kind_of_prompts():
    """A circuit that is found nowhere keeps nothing anywhere; the true one everything."""
    kinds = {"right": TASK, "wrong": induction(n=8, seed=1).task}

    def find(task: Task) -> Circuit:
        return TRUE if {*task.prompts} <= {*TASK.prompts} else ~TRUE

    found = transfer(kinds, find, ON)
    assert found.faithfulness.tolist() == [
        pytest.approx([1, 1], abs=0.05),
        pytest.approx([0, 0], abs=0.05),
    ]
    assert found.overlap.tolist() == [[1, 0], [0, 1]]
    one = found.of("right", "wrong")
    assert one.low <= one.value <= one.high
    assert list(found.to_dataframe().columns)[:3] == ["found_on", "judged_on", "edges"]
    with pytest.raises(ValueError, match="no prompts named 'left'; there are right, wrong"):
        found.of("left", "right")
    with pytest.raises(ValueError, match="two tasks or more, got 1"):
        transfer({"right": TASK}, find, ON)
