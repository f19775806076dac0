"""Laws of the masked run, on every family, and its gradients."""

import families
import pytest
import torch

from circuits.running.many import run_circuits
from circuits.running.masked import run_ends, run_masked
from circuits.running.pair import run_pair
from circuits.scoring import eap
from patching.ablations import Constants, mean, resample, zero
from patching.metrics import logit_diff

# In other families attention, norms or losses run in float32 whatever the weights.
EXACT = ("gpt2", "neox", "neox_sequential")
# Learned positions, grouped heads, post-norms, parallel blocks, experts and a norm over all queries
USUAL = ("gpt2", "llama", "gemma2", "neox", "olmoe")


@pytest.fixture(scope="module", params=families.slow_but(USUAL))
def family(request):
    return request.param


@pytest.fixture(scope="module")
def model(family):
    return families.load(family)


def batch():
    (found,) = families.task().batches(8)
    return found


def blends(model, n=1):
    """Random shares to remove; the last matrix is all zeros and ones."""
    noise = torch.Generator().manual_seed(0)
    removed = torch.rand(n + 1, *model.graph.exists.shape, generator=noise).to(model.dtype)
    removed[-1] = removed[-1].round()
    return removed * model.graph.exists


def ran(model, ablation, removed):
    """What `run_circuits` gives for the same shares."""
    pair = run_pair(model, batch(), ablation)
    out = torch.empty(len(removed), len(batch()), families.VOCAB, dtype=model.dtype)
    for chunk, logits in run_circuits(model, batch(), pair, removed):
        out[chunk] = logits.to(out)
    return out


def close(found, expected, tolerance):
    size = expected.abs().max()
    torch.testing.assert_close(found / size, expected / size, atol=tolerance, rtol=0)


@pytest.mark.parametrize("ablate", [lambda task: resample, mean], ids=["resample", "mean"])
def test_masks_give_what_fixed_circuits_give_and_all_or_nothing_the_plain_runs(
    model, family, ablate
):
    tolerance = 1e-12 if family in EXACT else 3e-6
    ablation = ablate(families.task())(model)
    removed = torch.cat([blends(model), torch.zeros_like(blends(model))])
    removed[-1] = model.graph.exists
    expected = ran(model, ablation, removed)
    ends = run_ends(model, batch(), ablation)
    for one, logits in zip(removed, expected, strict=True):
        close(run_masked(model, batch(), ends, one), logits, tolerance)
    plain = model.answer_logits(batch().clean, batch())
    close(run_masked(model, batch(), ends, torch.zeros_like(removed[0])), plain, tolerance)
    if ablation.paired:
        corrupt = model.answer_logits(batch().corrupt, batch())
        close(run_masked(model, batch(), ends, removed[-1]), corrupt, tolerance)


def test_the_slope_where_nothing_is_removed_is_minus_the_scores_of_eap(model, family):
    """Removing an edge by a little loses its first-order score; the mean over examples is EAP."""
    tolerance = 1e-12 if family in EXACT else 5e-6
    nothing = torch.zeros(model.graph.exists.shape, dtype=model.dtype, requires_grad=True)
    ends = run_ends(model, batch(), resample(model))
    values = logit_diff(run_masked(model, batch(), ends, nothing), batch())
    (slope,) = torch.autograd.grad(values.mean(), nothing)
    expected = eap(model, families.task(), logit_diff).matrix
    close(-slope.double() * model.graph.exists, expected, tolerance)


@pytest.mark.parametrize("ablation", [resample, zero])
def test_examples_can_have_masks_of_their_own(gpt2, ablation):
    """Sums of one start at the live stream, of another at the replaced one."""
    removed = blends(gpt2, len(batch()) - 1)
    removed[0], removed[1] = removed[0] / 10, 1 - (1 - removed[1]) / 10
    ends = run_ends(gpt2, batch(), ablation(gpt2))
    found = run_masked(gpt2, batch(), ends, removed)
    for i, one in enumerate(removed):
        close(found[i], run_masked(gpt2, batch(), ends, one)[i], 1e-12)


@pytest.mark.parametrize("ablate", [lambda task: resample, mean], ids=["resample", "mean"])
def test_slopes_by_masks_equal_finite_differences(gpt2, ablate):
    """Whichever end sums start from: under means all from the replaced, else some from each."""
    ends = run_ends(gpt2, batch(), ablate(families.task())(gpt2))
    removed = blends(gpt2)[0].requires_grad_()
    values = logit_diff(run_masked(gpt2, batch(), ends, removed), batch())
    (slope,) = torch.autograd.grad(values.sum(), removed)
    edges = gpt2.graph.exists.nonzero()[::29]
    for edge in edges.tolist():
        step = torch.zeros_like(removed)
        step[tuple(edge)] = 1e-5  # error of the central difference: 1e-10 of the third derivative
        up, down = (
            logit_diff(run_masked(gpt2, batch(), ends, removed.detach() + by), batch()).sum()
            for by in (step, -step)
        )
        found = float(slope[tuple(edge)])
        assert found == pytest.approx(float(up - down) / 2e-5, abs=1e-6 * float(slope.abs().max()))


def test_second_derivatives_by_masks_are_refused(gpt2):
    removed = blends(gpt2)[0].requires_grad_()
    ends = run_ends(gpt2, batch(), resample(gpt2))
    value = logit_diff(run_masked(gpt2, batch(), ends, removed), batch()).sum()
    with pytest.raises(ValueError, match="can be differentiated once, not twice; curvature has"):
        torch.autograd.grad(value, removed, create_graph=True)


def test_slopes_by_constants_equal_finite_differences(gpt2):
    means = mean(families.task())(gpt2)
    assert isinstance(means, Constants)
    removed = blends(gpt2)[0]

    def value(by):
        writes = means.writes.map(lambda part: part + by)
        ends = run_ends(gpt2, batch(), Constants("moved", writes))
        return logit_diff(run_masked(gpt2, batch(), ends, removed), batch()).sum()

    by = torch.zeros((), dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(value(by), by)
    up, down = (float(value(torch.tensor(step)).detach()) for step in (1e-5, -1e-5))
    assert float(slope) == pytest.approx((up - down) / 2e-5, rel=1e-5)


def test_masks_of_another_shape_are_refused(gpt2):
    ends = run_ends(gpt2, batch(), resample(gpt2))
    with pytest.raises(ValueError, match=r"each of 3 examples; got \[2, 11, 27"):
        run_masked(gpt2, batch(), ends, torch.zeros(2, 11, 27))
