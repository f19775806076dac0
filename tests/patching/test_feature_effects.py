"""Effects of features: sums, integrated gradients, exact on a linear model, files, refusals."""

from dataclasses import replace

import families
import pytest
import torch
import toys
from feature_sites import random_dictionaries

from patching.activation import activation_patching
from patching.attribution import attribution_patching
from patching.attribution.features import (
    Setting,
    along_places,
    exact_feature_effects,
    feature_effects,
    find_sites,
    load_effects,
    mean,
    zero,
)
from patching.attribution.features.ablations import code_run, hooks_of
from patching.capture import capture
from patching.comparing import compare
from patching.metrics import accuracy, logit_diff
from patching.paths import along_inputs, at_both, at_clean
from patching.quadrature import gauss_legendre, midpoint
from patching.rules import plain, relp

PLACES = ("a0", "m0", "r0.post", "m1", "r1.post")
KINDS = {"a": "attn_out", "m": "mlp_out", "r": "resid_post"}


@pytest.fixture(scope="module")
def dictionaries(gpt2):
    return random_dictionaries(gpt2, PLACES, skip=True)


@pytest.fixture(scope="module")
def task():
    return families.task(2, length=6)


@pytest.fixture(scope="module")
def effects(gpt2, task, dictionaries):
    return feature_effects(gpt2, task, logit_diff, dictionaries)


def sums(found, place):
    """Effects of all nodes of a place, by example and position."""
    own = found.of(place)
    total = torch.zeros(len(own.values), 6, dtype=torch.float64)
    return total.index_add_(1, own.nodes.positions, own.values)


@pytest.mark.parametrize(
    ("rule", "path"),
    [(plain, at_clean), (relp, at_clean), (plain, at_both), (relp, along_inputs(2))],
)
def test_effects_of_a_place_add_up_to_its_difference_times_the_gradient(
    gpt2, task, dictionaries, rule, path
):
    found = feature_effects(gpt2, task, logit_diff, dictionaries, rule=rule, path=path)
    kinds = list(KINDS.values())
    whole = attribution_patching(gpt2, task, logit_diff, direction=path, rule=rule, kinds=kinds)
    for place in PLACES:
        expected = whole[KINDS[place[0]]].values[:, int(place[1])]
        # the same products in another order
        torch.testing.assert_close(sums(found, place), expected, rtol=0, atol=1e-12)


def test_neurons_are_features_that_leave_nothing_over(gpt2, task):
    found = feature_effects(gpt2, task, logit_diff, "neurons", setting=Setting(by_position=False))
    grid = attribution_patching(gpt2, task, logit_diff, direction="noising", kinds=["neurons"])
    assert not bool(found.nodes.are_errors.any())
    values = torch.zeros_like(grid["neurons"].values)
    values[:, found.nodes.sites, found.nodes.features] = found.values
    torch.testing.assert_close(values, grid["neurons"].values, rtol=0, atol=1e-12)


def test_integrated_gradients_of_a_place_add_up_to_its_exact_patch(gpt2, task):
    own = random_dictionaries(gpt2, ["m0"])
    exact = activation_patching(gpt2, task, logit_diff, "mlp_out", ("layer",), direction="noising")
    for rule, tolerance in ((gauss_legendre, 1e-3), (midpoint, 3e-2)):  # smooth: GELU, LayerNorm
        found = feature_effects(gpt2, task, logit_diff, own, path=along_places(8, rule))
        total = found.values.sum(dim=1)
        torch.testing.assert_close(total, exact.values[:, 0], rtol=tolerance, atol=1e-9)


def test_one_left_step_along_places_is_the_clean_gradient(gpt2, task, dictionaries, effects):
    found = feature_effects(gpt2, task, logit_diff, dictionaries, path=along_places(1))
    assert found.names == effects.names
    torch.testing.assert_close(found.values, effects.values, rtol=0, atol=1e-12)


def test_on_a_linear_model_estimates_are_exact():
    model, task = toys.linear_model(), toys.task(2)
    own = random_dictionaries(model, ["a0", "m0"], k=None)
    found = feature_effects(model, task, logit_diff, own)
    exact = exact_feature_effects(model, task, logit_diff, own, found.nodes)
    assert len(found) > 4
    torch.testing.assert_close(exact.values, found.values, rtol=0, atol=1e-9)
    assert compare(exact.grid(), found.grid(exact.nodes)).pearson == pytest.approx(1)


def test_an_exact_effect_is_that_of_a_run_with_the_node_put_in(gpt2, task, dictionaries, effects):
    site = next(site for site in find_sites(gpt2, dictionaries) if site.name == "r0.post")
    chosen = effects.of("r0.post").strongest(3)
    found = exact_feature_effects(gpt2, task, logit_diff, dictionaries, chosen.nodes)
    (batch,) = task.batches(2)
    everywhere = torch.ones_like(batch.is_token)
    runs = [
        capture(gpt2, rows, batch, at=everywhere, seen=hooks_of([site]))
        for rows in (batch.clean, batch.corrupt)
    ]
    clean, corrupt = (code_run(run, site) for run in runs)
    for i, name in enumerate(chosen.names):
        feature, position = int(chosen.nodes.features[i]), int(chosen.nodes.positions[i])
        mixed = replace(clean, features=clean.features.clone(), error=clean.error.clone())
        part = mixed.error if feature < 0 else mixed.features
        other = corrupt.error if feature < 0 else corrupt.features
        at = torch.arange(len(part)) % 6 == position
        if feature < 0:
            part[at] = other[at]
        else:
            part[at, feature] = other[at, feature]
        put = site.rebuild(mixed).unflatten(0, (2, 6))
        logits = gpt2.answer_logits(batch.clean, batch, [(site.writes.hook, lambda _, x=put: x)])
        expected = found.clean - logit_diff(logits, batch)
        torch.testing.assert_close(found.values[:, i], expected, rtol=0, atol=1e-10, msg=name)


def test_positions_summed_are_the_sum_over_positions_also_of_exact_effects(gpt2, task):
    own = random_dictionaries(gpt2, ["r1.post"])  # the last: positions do not meet any more
    apart = feature_effects(gpt2, task, logit_diff, own)
    summed = feature_effects(gpt2, task, logit_diff, own, setting=Setting(by_position=False))
    again = apart.summed()
    assert again.names == summed.names and summed.names[0] == "r1.post.error"
    torch.testing.assert_close(again.values, summed.values, rtol=0, atol=1e-12)
    assert not summed.nodes.by_position and apart.nodes.by_position
    ragged = families.ragged_task((7, 6), "left")
    feature_effects(gpt2, ragged, logit_diff, own, setting=Setting(by_position=False))
    with pytest.raises(ValueError, match="prompts of 6, 7 tokens, so a position"):
        feature_effects(gpt2, ragged, logit_diff, own)


@pytest.mark.parametrize("kind", ["zero", "mean", "positional mean"])
def test_constants_replace_features_and_errors(gpt2, task, kind):
    """Effects are the gradient times what putting the rebuilt constants in changes."""
    own = random_dictionaries(gpt2, ["r0.post"])
    ablation = zero if kind == "zero" else mean(task, by_position=kind != "mean")
    found = feature_effects(gpt2, task, logit_diff, own, setting=Setting(ablation))
    assert bool(found.corrupt.isnan().all()) and kind in str(found.provenance["ablation"])
    (batch,), (site,), leaves = task.batches(2), find_sites(gpt2, own), []

    def keep(x):
        leaves.append(x.detach().requires_grad_())
        return leaves[0]

    logits = gpt2.answer_logits(batch.clean, batch, [(site.writes.hook, keep)])
    (slope,) = torch.autograd.grad(logit_diff(logits, batch).sum(), leaves)
    y = leaves[0].detach()
    if kind == "zero":
        put = own.members[0].b_dec.expand_as(y)
    else:  # rebuilding is affine in features and error
        put = y.mean(dim=0, keepdim=True) if kind != "mean" else y.mean(dim=(0, 1), keepdim=True)
    expected = ((y - put) * slope).sum(dim=-1)
    torch.testing.assert_close(sums(found, "r0.post"), expected, rtol=0, atol=1e-12)
    with pytest.raises(ValueError, match="goes to the corrupt run, which the ablation"):
        feature_effects(gpt2, task, logit_diff, own, path=at_both, setting=Setting(ablation))


def test_batches_and_folders_change_nothing(gpt2, task, dictionaries, effects, tmp_path):
    from patching.work import Run

    for _ in range(2):
        found = feature_effects(
            gpt2, task, logit_diff, dictionaries, setting=Setting(batch_size=1), run=Run(tmp_path)
        )
        assert found.names == effects.names
        torch.testing.assert_close(found.values, effects.values, rtol=0, atol=1e-12)


def test_tables_are_ranked_and_survive_a_file(effects, tmp_path):
    (name, value), *_ = effects.top(3)
    assert abs(value) == effects.mean.abs().max() and effects.at(name) == value
    assert effects.strongest(3).nodes.within(effects.nodes).all()
    assert set(effects.nodes.named([name]).names) == {name}
    table = effects.to_dataframe(3, n=10)
    assert list(table["node"])[0] == name and (table["low"] <= table["effect"]).all()
    effects.save(tmp_path / "e.safetensors")
    again = load_effects(tmp_path / "e.safetensors")
    assert (again.names, again.top(5)) == (effects.names, effects.top(5))
    assert again.provenance["metric"] == "logit-diff"
    replace(effects, values=effects.values[:, 1:]).save(tmp_path / "e.safetensors")
    with pytest.raises(ValueError, match="its effects do not fit its"):
        load_effects(tmp_path / "e.safetensors")


def test_refusals_say_what_would_be_right(gpt2, task, dictionaries, effects):
    with pytest.raises(ValueError, match="no features named 'saes'"):
        feature_effects(gpt2, task, logit_diff, "saes")
    with pytest.raises(ValueError, match="has no gradient"):
        feature_effects(gpt2, task, accuracy, dictionaries)
    with pytest.raises(ValueError, match="these nodes are of a0, m0"):
        exact_feature_effects(gpt2, task, logit_diff, "neurons", effects.nodes)
    with pytest.raises(ValueError, match="no node named 'm9.f1'"):
        effects.at("m9.f1")
    with pytest.raises(ValueError, match="there are no effects at 'm9'"):
        effects.of("m9")
    with pytest.raises(ValueError, match="not of the same dictionaries"):
        effects.nodes.within(replace(effects.nodes, places=("m0",), letters=("f",)))
    with pytest.raises(ValueError, match="at least 1 step"):
        along_places(0)
