"""RelP's headline experiment on a real pretrained model: attribution against exact patching.

Measured with separate prototypes: Pearson's correlation over layers and positions, denoising, on
the first prompts (32 at most) of the commonest length. The stream is the one before each layer.
"""

from pathlib import Path

import pytest

from patching.activation import activation_patching
from patching.attribution import atp_star, attribution_patching
from patching.comparing import agreement_table
from patching.metrics import logit_diff
from patching.model import Model
from patching.rules import plain, relp, relp_ah
from patching.tasks import from_json

MODEL = Path(__file__).parents[2] / "shared" / "models" / "stories260K"
pytestmark = pytest.mark.skipif(not MODEL.exists(), reason="the pretrained model is not here")

MEASURED = {
    "pronoun_noun": ((0.836, 0.841, 0.853), (0.968, 0.971, 0.955), (0.953, 0.885, 0.937)),
    "object_copy": ((0.831, 0.996, 0.992), (0.985, 0.985, 0.999), (0.737, 0.977, 0.957)),
    "name_copy": ((0.622, 0.974, 0.982), (1.000, 0.993, 0.998), (0.579, 0.957, 0.955)),
    "sva_was_were": ((0.988, 0.986, 0.976), (0.997, 0.997, 0.993), (0.974, 0.968, 0.968)),
}


@pytest.fixture(scope="module")
def model() -> Model:
    return Model.load(MODEL)


@pytest.mark.parametrize("name", MEASURED)
def test_agreement_with_exact_patching_is_what_was_measured(model, name):
    task = from_json(MODEL / "tasks" / f"{name}.json", model.tokenizer).of_length().take(32)
    table = agreement_table(model, task, logit_diff)
    assert list(table.index) == ["resid_pre", "attn_out", "mlp_out"]
    assert list(table.columns) == ["plain", "relp", "relp-ah"]
    for row, expected in zip(table.to_numpy(), MEASURED[name], strict=True):
        assert row.tolist() == pytest.approx(expected, abs=0.01)


@pytest.mark.parametrize(
    ("name", "head"),
    [("object_copy", "h4"), ("name_copy", "h4"), ("pronoun_noun", "h2")],
)
def test_the_copying_head_and_the_gender_head_come_first_by_every_method(model, name, head):
    """Known from single-node patching: a4.h4 copies, a4.h2 reads the gender."""
    task = from_json(MODEL / "tasks" / f"{name}.json", model.tokenizer).of_length().take(8)
    over = ("layer", "head")
    exact = activation_patching(model, task, logit_diff, "z", over)
    estimates = [
        attribution_patching(model, task, logit_diff, rule=rule, kinds=["z"]).pick("z", over)
        for rule in (plain, relp, relp_ah)
    ]
    sizes = atp_star(model, task, logit_diff, kinds=["z"], by_position=False)["z"]
    for grid in (exact, *estimates, sizes):
        ((labels, value),) = grid.top(1)
        assert labels == ("4", head)
        assert value > 0
