"""The winners' recipe: what it is without training, of one method twice, and on known circuits."""

import pytest
import torch

from circuits import Circuit, eap, eap_ig, top_n
from circuits.ensembles import hybrid
from circuits.judging.uncertainty import ensemble
from patching.descent import Schedule
from patching.metrics import logit_diff
from patching.model import Model
from patching.models import known

STILL = Schedule(steps=1, rate=0.0, batch_size=4)


@pytest.fixture(scope="module")
def model():
    return Model.load("truth/copy", dtype=torch.float64)


@pytest.fixture(scope="module")
def truth():
    return known("truth/copy", n=8)


def order_of(scores):
    return scores.matrix[scores.graph.exists].abs().argsort(stable=True)


def test_without_training_masks_rank_as_what_they_start_from(model, truth):
    found = hybrid(model, truth.task, logit_diff, size=4, schedule=STILL)
    exists = model.graph.exists
    assert torch.equal(order_of(found.serial), order_of(found.parallel))
    signs = found.parallel.matrix[exists].sign()
    assert bool((found.serial.matrix[exists].sign() * signs >= 0).all())
    both = ensemble([found.parallel, found.serial])
    assert torch.equal(found.scores.matrix, both.matrix)


def test_of_the_same_method_twice_the_parallel_ensemble_is_that_method_up_to_scale(model, truth):
    found = hybrid(model, truth.task, logit_diff, size=4, members=(eap_ig, eap_ig), schedule=STILL)
    alone = eap_ig(model, truth.task, logit_diff).matrix
    scale = alone[model.graph.exists].square().mean().sqrt()
    torch.testing.assert_close(found.parallel.matrix, alone / scale, atol=1e-12, rtol=0)


def test_the_recipe_finds_a_known_circuit_where_an_average_of_scores_does_not(model, truth):
    """EAP misses the saturated key, and is half of the average; the masks make up for it."""
    active = sorted(truth.active)
    expected = Circuit.from_edges(model.graph, [tuple(e.split("->")) for e in active])
    plan = Schedule(steps=60, rate=0.5, batch_size=8)
    found = hybrid(model, truth.task, logit_diff, size=4, schedule=plan)
    assert top_n(found.serial, 4, ranking="absolute") == expected
    assert top_n(found.scores, 4, ranking="absolute") == expected
    assert found.learned.circuit() == expected
    assert found.circuit() == expected
    assert torch.equal(found.circuit().scores, found.scores.matrix * expected.mask)
    said = found.scores.provenance["members"]
    assert [one["method"] for one in said] == ["ensemble", "edge-pruning"]


def test_an_ensemble_of_one_is_refused(model, truth):
    with pytest.raises(ValueError, match="an ensemble has two members or more, got 1"):
        hybrid(model, truth.task, logit_diff, size=4, members=(eap,))
