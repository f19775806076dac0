"""Training of dictionaries: planted features are found, stopped trainings go on bit for bit."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from patching.dictionaries import Recipe, attach, own_text, train_dictionaries, train_dictionary
from patching.dictionaries.sites import find_sites
from patching.model import Model

SMALL = Recipe(features=24, k=2, steps=400, batch_size=64, rate=2e-2)


@pytest.fixture(scope="module")
def planted():
    """Outputs that are sums of two of twelve directions, and inputs that say which."""
    random = torch.Generator().manual_seed(0)
    directions = torch.linalg.qr(torch.randn(12, 12, generator=random)).Q
    chosen = torch.rand(3000, 12, generator=random).topk(2).indices
    f = torch.zeros(3000, 12).scatter(1, chosen, torch.rand(3000, 2, generator=random) + 0.5)
    return f @ torch.randn(12, 12, generator=random) + 3, f @ directions - 7, directions


def left(one, x, y) -> float:
    rebuilt = one.decode(one.encode(x))
    return float((y - rebuilt).square().sum() / (y - y.mean(dim=0)).square().sum())


@pytest.mark.parametrize("kind", ["topk", "batchtopk"])
def test_planted_directions_are_found(planted, kind):
    _, y, directions = planted
    recipe = replace(SMALL, kind=kind)
    one, history = train_dictionary(y, y, recipe, reads="r0.post", writes="r0.post")
    assert left(one, y, y) < 0.05
    assert (one.w_dec @ directions.T).amax(dim=0).min() > 0.98  # each one by some feature
    torch.testing.assert_close(one.w_dec.norm(dim=1), torch.ones(24), atol=1e-5, rtol=0)
    active = float((one.encode(y) > 0).sum(dim=1).float().mean())
    assert active == pytest.approx(2, abs=0.0 if kind == "topk" else 0.3)
    assert (one.k, bool((one.threshold > 0).all())) == (
        (2, False) if kind == "topk" else (None, True)
    )
    assert history.steps == 400


def test_a_transcoder_rebuilds_outputs_from_inputs(planted):
    x, y, _ = planted
    one, _ = train_dictionary(x, y, SMALL, reads="m0.in", writes="m0")
    assert left(one, x, y) < 0.1
    assert (one.reads, one.writes, one.facts["recipe"]["k"]) == ("m0.in", "m0", 2)


class Stopped(Exception):
    pass


@pytest.mark.parametrize("kind", ["topk", "batchtopk"])
def test_stopped_and_resumed_is_bit_for_bit_as_unbroken(planted, kind, tmp_path, monkeypatch):
    _, y, _ = planted
    recipe = replace(SMALL, kind=kind, steps=60, silent_after=2)
    unbroken, _ = train_dictionary(y, y, recipe, reads="r0.post", writes="r0.post")
    from patching.dictionaries import training

    plain = training._Objective.__call__

    def stopping(self, values, step):
        if step.number == 41:
            raise Stopped
        return plain(self, values, step)

    monkeypatch.setattr(training._Objective, "__call__", stopping)
    options = {"reads": "r0.post", "writes": "r0.post", "folder": tmp_path}
    with pytest.raises(Stopped):
        train_dictionary(y, y, recipe, **options)
    monkeypatch.undo()
    resumed, _ = train_dictionary(y, y, recipe, **options)
    for name in ("w_enc", "b_enc", "w_dec", "b_dec", "threshold"):
        assert torch.equal(getattr(resumed, name), getattr(unbroken, name))
    with pytest.raises(
        ValueError, match=r"another training \(recipe.k, schedule.* differ\)|recipe.k"
    ):
        train_dictionary(y, y, replace(recipe, k=3), **options)


def test_sites_of_a_model_are_trained_and_fit_it():
    toy = Model.load("toy")
    text = own_text(toy, n=40, length=12, seed=0)
    recipe = Recipe(features=32, k=4, steps=150, batch_size=128)
    made = train_dictionaries(toy, text, ["m1", "r0.post"], recipe)
    assert [(one.reads, one.writes) for one in made] == [("m1.in", "m1"), ("r0.post", "r0.post")]
    for fit in attach(toy, made, own_text(toy, n=10, length=12, seed=1)).fits:
        assert fit.fvu < 0.8 and fit.l0 <= 4


def test_what_cannot_be_trained_is_refused(planted):
    _, y, _ = planted
    with pytest.raises(ValueError, match="no kind of dictionary 'relu'; topk or batchtopk"):
        Recipe(kind="relu")
    with pytest.raises(ValueError, match="9 of 8 features are to be active"):
        Recipe(features=8, k=9)
    with pytest.raises(ValueError, match="10 tokens are fewer than a batch of 64"):
        train_dictionary(y[:10], y[:10], SMALL, reads="m0", writes="m0")
    with pytest.raises(ValueError, match="the same at every token"):
        train_dictionary(y * 0, y * 0, SMALL, reads="m0", writes="m0")
    toy = Model.load("toy")
    assert find_sites(toy, ["attn"])[0] == ("a0", "a0")
    with pytest.raises(ValueError, match="m1 is named twice"):
        find_sites(toy, ["mlp", "m1"])
    with pytest.raises(ValueError, match="trained for mlp, resid, attn, or places such as m3"):
        find_sites(toy, ["m1.n3"])


STORIES = Path(__file__).parents[4] / "shared/models/stories260K"


@pytest.mark.slow
@pytest.mark.skipif(not STORIES.exists(), reason="needs the shared model")
def test_stories_are_rebuilt_as_well_as_in_the_specification():
    """FVU at most .20 at every MLP and .12 at every stream, L0 12, 5 % silent."""
    model = Model.load(str(STORIES))
    made = train_dictionaries(model, own_text(model, n=1024, length=128), ["mlp", "resid"])
    for fit in attach(model, made, own_text(model, n=64, length=128, seed=1)).fits:
        assert fit.fvu <= (0.2 if fit.writes.startswith("m") else 0.12), fit
        assert fit.silent <= 0.05 * fit.n_features and fit.l0 == pytest.approx(12, abs=0.1)
