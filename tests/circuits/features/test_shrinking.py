"""Few heads and neurons: ends of the mask, those that are needed, what is asked for wrongly."""

import pytest
import torch

from circuits.features import few_units, judge_units
from circuits.features.shrinking import _Shares
from patching.metrics import logit_diff
from patching.model import Model
from patching.models import known
from patching.tasks.generators import generate


@pytest.fixture(scope="module")
def model():
    return Model.load("truth/composition-relu")


@pytest.fixture(scope="module")
def task():
    return known("truth/composition-relu", n=40).task.of_length()


def test_all_kept_is_the_clean_run_and_none_kept_the_means(model, task):
    shares = _Shares(model, task, logit_diff)
    (batch,) = task.batches(len(task))
    clean, ablated = shares.ends
    plain = logit_diff(model.answer_logits(batch.clean, batch), batch)
    torch.testing.assert_close(clean, plain.double(), atol=1e-5, rtol=1e-5)
    assert abs(float(ablated.mean())) < 0.2 * float(clean.mean())
    assert judge_units(model, task, logit_diff, shares.names).faithfulness == pytest.approx(1.0)


def test_a_share_is_differentiated_as_it_is_moved(model, task):
    shares = _Shares(model, task, logit_diff)
    kept, rows = torch.full((len(shares.names),), 0.7), torch.arange(6)
    value, slopes = shares.slopes(kept, rows)
    unit = int(slopes.abs().argmax())
    step = torch.zeros_like(kept).index_fill(0, torch.tensor([unit]), 1e-2)
    above, below = (shares.slopes(kept + s, rows)[0] for s in (step, -step))
    assert (above - below) / 2e-2 == pytest.approx(float(slopes[unit]), rel=0.02)


def test_the_heads_and_neurons_of_a_known_circuit_are_found(model, task):
    """Heads a0.h1 and a1.h3; the neurons of both tables, of which others are never needed."""
    found = few_units(model, task, logit_diff, 60, steps=20)
    assert {name for name in found.names if ".h" in name} == {"a0.h1", "a1.h3"}
    assert len(found.names) == 60 and found.faithfulness > 0.9
    others = [name for name in _Shares(model, task, logit_diff).names if name not in found.names]
    assert judge_units(model, task, logit_diff, others).faithfulness < 0.1


def test_what_cannot_be_kept_is_refused(model, task):
    with pytest.raises(ValueError, match=r"heads and neurons, of which 1 or more .* got n=0"):
        few_units(model, task, logit_diff, 0)
    with pytest.raises(ValueError, match="has no head or neuron 'a9.h0'; there are a0.h0 to m1.n"):
        judge_units(model, task, logit_diff, ["a9.h0"])
    toy = Model.load("toy")
    assert toy.tokenizer is not None
    with pytest.raises(ValueError, match=r"whose positions have no mean; .* `task.of_length\(\)`"):
        few_units(toy, generate("facts", toy.tokenizer, n=20), logit_diff, 5)
