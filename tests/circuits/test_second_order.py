"""Second-order terms against finite differences and exact patching, in float64."""

from dataclasses import replace

import families
import pytest
import torch
from stopping import resumed

from circuits.checks.linear import linear_model, linear_task
from circuits.circuit import Circuit
from circuits.running.pair import run_pair
from circuits.running.steered import Steered
from circuits.scoring import curvature, eap, exact, screen_flag_fix
from patching.ablations import mean, resample
from patching.metrics import kl, logit_diff, measure


@pytest.fixture(scope="module")
def model():
    return families.load("gpt2", torch.float64)


@pytest.fixture(scope="module")
def task():
    return families.task(n=2, length=6)


@pytest.fixture(scope="module")
def steered(model, task):
    (batch,) = task.batches(4)
    pair = run_pair(model, batch, resample(model))
    return Steered.of(model, replace(batch, clean_logits=pair.clean.logits), logit_diff, pair)


def slope(steered, c):
    c = c.detach().requires_grad_()
    return torch.autograd.grad(steered(c).sum(), c)[0]


def test_a_number_of_one_removes_its_edge_exactly(model, task, steered):
    true = exact(model, task, logit_diff)
    edges = [("embed", "a0.h1.v"), ("a0.h0", "m0"), ("m0", "a1.h2.q"), ("a1.h0", "logits")]
    c = torch.zeros(len(edges) + 1, *model.graph.exists.shape, dtype=torch.float64)
    for row, edge in enumerate(edges):
        c[(row, *model.graph.edge_index(*edge))] = 1
    clean = measure(logit_diff, steered.batch.clean_logits, steered.batch).sum()
    lost = (clean - steered(c)) / len(task)
    expected = [true.of(*edge) for edge in edges] + [0.0]
    torch.testing.assert_close(
        lost, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-12
    )


def test_the_first_order_is_eap(model, task):
    for ablation in (resample, mean(task)):
        found = curvature(model, task, logit_diff, ablation=ablation).first.matrix
        expected = eap(model, task, logit_diff, ablation=ablation).matrix
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


def test_hessian_vector_products_are_differences_of_gradients(model, task, steered):
    """Central differences at 1e-4: their error is of the third order, about 1e-8."""
    exists = model.graph.exists.double()[None]
    step = 1e-4 * exists
    difference = (slope(steered, step) - slope(steered, -step))[0] / 2e-4
    expected = -difference * exists[0] / (2 * len(task))
    found = curvature(model, task, logit_diff).second
    assert float(found.abs().max()) > 0.01
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def test_own_terms_are_second_differences_of_the_metric(model, task, steered):
    edges = [("embed", "a0.h1.k"), ("a0.h0", "a1.h1.v"), ("m0", "m1"), ("m1", "logits")]
    found = curvature(model, task, logit_diff, edges=edges).second
    for edge in edges:
        c = torch.zeros(3, *model.graph.exists.shape, dtype=torch.float64)
        where = model.graph.edge_index(*edge)
        c[0][where], c[1][where] = 1e-3, -1e-3
        up, down, here = steered(c)
        expected = -float(up + down - 2 * here) / (2 * len(task) * 1e-6)
        assert float(found[where]) == pytest.approx(expected, rel=1e-4, abs=1e-7)
    assert int((found != 0).sum()) <= len(edges)


def test_random_signs_come_nearer_to_the_own_terms_the_more_there_are(model, task):
    own = curvature(model, task, logit_diff, edges=Circuit.full(model.graph).edges).second
    few, many = (curvature(model, task, logit_diff, probes=n).second for n in (2, 32))
    assert (many - own).norm() < 0.5 * (few - own).norm()  # a quarter expected: root of 16


def test_kl_has_no_slope_at_the_clean_run_and_is_scored_by_its_curvature(model, task):
    edges = [("embed", "m0"), ("m0", "logits"), ("a1.h0", "logits")]
    found = curvature(model, task, kl, edges=edges)
    assert float(found.first.matrix.abs().max()) < 1e-12
    for edge in edges:
        assert found.scores.of(*edge) > 0  # whatever is removed, KL only grows


def test_a_linear_model_has_no_curvature():
    found = curvature(linear_model(), linear_task(), logit_diff)
    assert float(found.second.abs().max()) < 1e-9
    assert not bool(found.unreliability.isnan().any())


def test_flagged_edges_are_fixed_and_the_others_left(model, task):
    found, true = curvature(model, task, logit_diff), exact(model, task, logit_diff)
    flagged = found.flagged(7)
    rest = model.graph.exists & ~flagged.mask
    assert len(flagged) == 7
    assert found.second[flagged.mask].abs().min() >= found.second[rest].abs().max()
    fixed = screen_flag_fix(model, task, logit_diff, n=7)
    torch.testing.assert_close(fixed.matrix[flagged.mask], true.matrix[flagged.mask])
    assert torch.equal(fixed.matrix[rest], found.first.matrix[rest])
    assert len(fixed.provenance["fixed"]) == 7


def test_screening_stopped_and_gone_on_with_gives_the_same_bits(model, task, tmp_path):
    def fixed(run):
        return screen_flag_fix(model, task, logit_diff, n=3, batch_size=1, run=run)

    whole = fixed(None)
    for found in resumed(fixed, tmp_path):
        assert torch.equal(found.matrix, whole.matrix)
        assert found.provenance == whole.provenance
    kept = sorted(folder.name.rpartition("-")[0] for folder in tmp_path.iterdir())
    assert kept == ["curvature", "patching-edges"]


def test_unreliability_is_the_second_order_in_units_of_the_first(model, task):
    found = curvature(model, task, logit_diff)
    edge = model.graph.edge_index("m0", "logits")
    expected = abs(float(found.second[edge] / found.first.matrix[edge]))
    assert float(found.unreliability[edge]) == pytest.approx(expected)
    assert float(found.unreliability[~model.graph.exists].abs().max()) == 0


def test_what_has_no_second_order_is_refused(model, task):
    with pytest.raises(ValueError, match=r"either edges, or 0 probes .* got -1 probes"):
        curvature(model, task, logit_diff, probes=-1)
    with pytest.raises(ValueError, match=r"got 2 probes and edges"):
        curvature(model, task, logit_diff, probes=2, edges=[("m0", "logits")])
    with pytest.raises(ValueError, match="no edges to work out; give at least one"):
        curvature(model, task, logit_diff, edges=[])
    with pytest.raises(ValueError, match="cannot flag -1 edges"):
        curvature(model, task, logit_diff).flagged(-1)
    with pytest.raises(ValueError, match="at least one edge is to be fixed, got 0"):
        screen_flag_fix(model, task, logit_diff, n=0)
