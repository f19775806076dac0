"""Single nodes of a real pretrained model, patched exactly: what its notes say of its circuits."""

from pathlib import Path

import pytest

from patching.activation import activation_patching, as_share
from patching.metrics import logit_diff
from patching.model import Model
from patching.tasks import from_json

MODEL = Path(__file__).parents[3] / "shared" / "models" / "stories260K"
pytestmark = pytest.mark.skipif(not MODEL.exists(), reason="the pretrained model is not here")

# Share of the clean-corrupt gap that is lost when one node takes its value on the corrupt prompt.
# The notes do not say so, but their figures are those of the first 64 prompts of each task.
HEADS = {
    "pronoun_noun": {("4", "h2"): 0.73},
    "object_copy": {("4", "h4"): 0.56, ("4", "h3"): 0.21},
    "name_copy": {("4", "h4"): 0.67, ("4", "h3"): 0.31},
}
MLPS = {
    "pronoun_noun": {"2": 0.58, "1": 0.49, "3": 0.38, "0": 0.33},
    "object_copy": {"0": 0.60, "4": 0.39},
    "name_copy": {"0": 0.57},
    "sva_was_were": {"0": 0.38},
}
HARMLESS = {"pronoun_noun": 26, "object_copy": 35, "name_copy": 38}  # of 45 nodes, less than 0.02


@pytest.fixture(scope="module")
def model():
    return Model.load(str(MODEL))


@pytest.mark.parametrize("name", MLPS)
def test_single_nodes_lose_the_published_shares_of_the_gap(model, name):
    task = from_json(MODEL / "tasks" / f"{name}.json").take(64)

    def share(what, over):
        grid = activation_patching(model, task, logit_diff, what, over, direction="noising")
        return as_share(grid)

    heads, mlps = share("z", ("layer", "head")), share("mlp_out", ("layer",))
    for (layer, head), lost in HEADS.get(name, {}).items():
        assert heads.at(layer=layer, head=head) == pytest.approx(lost, abs=0.02)
    for layer, lost in MLPS[name].items():
        assert mlps.at(layer=layer) == pytest.approx(lost, abs=0.02)
    if name in HARMLESS:
        every = [*heads.mean.flatten().tolist(), *mlps.mean.tolist()]
        # some lie just at the threshold, and move across it with the choice of prompts
        assert sum(abs(x) < 0.02 for x in every) == pytest.approx(HARMLESS[name], abs=2)
        assert heads.top(1)[0][0] == next(iter(HEADS[name]))
