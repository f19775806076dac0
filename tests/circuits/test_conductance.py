import families
import pytest
import torch

from circuits.scoring import conductance, eap_ig
from patching.metrics import kl, logit_diff
from patching.quadrature import trapezoid


@pytest.fixture(scope="module")
def model():
    return families.load("gpt2", torch.float64)


@pytest.fixture(scope="module")
def task():
    return families.task(n=2, length=6)


def test_out_of_the_embedding_which_is_linear_in_itself_it_is_eap_ig(model, task):
    found = conductance(model, task, logit_diff, steps=3)
    expected = eap_ig(model, task, logit_diff, steps=4, quadrature=trapezoid)
    torch.testing.assert_close(found.matrix[0], expected.matrix[0], rtol=0, atol=1e-12)
    torch.testing.assert_close(found.completeness, expected.completeness, rtol=0, atol=1e-12)


def test_it_flows_without_loss_from_the_embedding_through_all_nodes_to_the_logits(model, task):
    """The trapezoid rule is of second order: 64 steps miss about 1e-3 of what flows."""
    graph = model.graph
    found = conductance(model, task, logit_diff, steps=64)
    inflow, outflow = found.matrix.sum(dim=0), found.matrix.sum(dim=1)
    gap = float(outflow[0] - found.completeness.mean())
    scale = float(found.matrix.abs().max())
    assert float(outflow[0]) == pytest.approx(gap, abs=2e-3 * scale)
    assert float(inflow[-1]) == pytest.approx(gap, abs=2e-3 * scale)
    for layer in range(graph.n_layers):
        readers, heads = graph.attention_readers(layer), graph.head_sources(layer)
        every_head = inflow[readers].reshape(3, -1).sum(dim=0)
        torch.testing.assert_close(every_head, outflow[heads], rtol=0, atol=2e-3 * scale)
        mlp = inflow[graph.mlp_reader(layer)], outflow[graph.mlp_source(layer)]
        torch.testing.assert_close(*mlp, rtol=0, atol=2e-3 * scale)


def test_kl_is_taken_too_as_the_path_leaves_the_clean_run(model, task):
    assert float(conductance(model, task, kl).matrix.abs().max()) > 0


def test_no_steps_are_refused(model, task):
    with pytest.raises(ValueError, match="conductance needs at least 1 step, got 0"):
        conductance(model, task, logit_diff, steps=0)
