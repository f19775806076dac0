"""Features that write across layers, in effects and circuits of a task: laws, twins, refusals."""

from dataclasses import replace

import families
import pytest
import torch
from feature_sites import random_dictionaries

from circuits.features import Handling, run_feature_circuits
from circuits.features.edges import direct_edges
from patching.activation import activation_patching
from patching.attribution import attribution_patching
from patching.attribution.features import (
    Setting,
    along_places,
    exact_feature_effects,
    feature_effects,
    find_sites,
    mean,
    zero,
)
from patching.dictionaries import set_feature
from patching.intervene import intervening
from patching.metrics import logit_diff
from patching.model import Model
from patching.quadrature import gauss_legendre
from patching.rules import plain, relp

MLPS = ("m0", "m1", "m2")
EXACT = {"rtol": 0, "atol": 1e-12}  # float64, with values of a few logits


@pytest.fixture(scope="module")
def model():
    return Model.load(families.shaken_gpt2(n_layer=3))


@pytest.fixture(scope="module")
def task():
    return families.task(2, length=6)


@pytest.fixture(scope="module")
def across(model):
    return random_dictionaries(model, MLPS, 8, 3, skip=True, across=True)


@pytest.fixture(scope="module")
def effects(model, task, across):
    return feature_effects(model, task, logit_diff, across)


@pytest.fixture(scope="module")
def seen(model, task, across):
    """What MLPs read and write in both runs, and the metric's gradients by what they write."""
    (batch,), sites = task.batches(2), find_sites(model, across)
    runs, moved = [], {}
    for tokens in (batch.corrupt, batch.clean):
        reads, writes = {}, {}
        moved = {s.name: torch.zeros(*tokens.shape, 16).double().requires_grad_() for s in sites}
        hooks = [(s.reads.hook, lambda x, n=s.name, to=reads: to.update({n: x})) for s in sites]
        hooks += [(s.writes.hook, lambda y, n=s.name, to=writes: to.update({n: y})) for s in sites]
        hooks += [(s.writes.hook, lambda y, by=moved[s.name]: y + by) for s in sites]
        logits = model.answer_logits(tokens, batch, hooks)
        kept = ({n: x.detach() for n, x in one.items()} for one in (reads, writes))
        runs.append(tuple(kept))
    slopes = torch.autograd.grad(logit_diff(logits, batch).sum(), [*moved.values()])
    return runs[::-1], dict(zip(moved, slopes, strict=True))


def parts(across, run):
    """Features by layer, and what of each MLP none of them writes."""
    reads, writes = run
    f = {one.writes: one.encode(reads[one.writes]) for one in across}
    errors = {}
    for one in across:
        senders = [s for s in across if one.writes in s.decoders]
        made = sum(f[s.writes] @ s.decoders[one.writes] for s in senders)
        errors[one.writes] = writes[one.writes] - made - one.b_dec
    return f, errors


def test_effects_are_those_of_a_plain_twin(across, effects, seen):
    """`(f_clean - f_patch) w . g`, summed over the places that a feature writes at."""
    runs, g = seen
    (f, e), (f2, e2) = (parts(across, run) for run in runs)
    for i, name in enumerate(effects.names):
        place, position = effects.nodes.places[effects.nodes.sites[i]], effects.nodes.positions[i]
        feature = int(effects.nodes.features[i])
        if feature < 0:
            product = (e[place] - e2[place]) * g[place]
            expected = product.sum(dim=-1)[:, position]
        else:
            rows = across[place].decoders
            slope = sum(g[at] @ row[feature] for at, row in rows.items())
            expected = ((f[place] - f2[place])[..., feature] * slope)[:, position]
        torch.testing.assert_close(effects.values[:, i], expected, **EXACT, msg=name)


@pytest.mark.parametrize("rule", [plain, relp])
def test_all_effects_add_up_to_all_places_differences_times_gradients(model, task, across, rule):
    found = feature_effects(model, task, logit_diff, across, rule=rule)
    whole = attribution_patching(
        model, task, logit_diff, direction="noising", rule=rule, kinds=["mlp_out"]
    )
    expected = whole["mlp_out"].values.sum(dim=(1, 2))
    torch.testing.assert_close(found.values.sum(dim=1), expected, **EXACT)


def test_integrated_along_each_place_they_add_up_to_exact_patches_of_the_places(
    model, task, across
):
    exact = activation_patching(model, task, logit_diff, "mlp_out", ("layer",), direction="noising")
    path = along_places(5, gauss_legendre)
    found = feature_effects(model, task, logit_diff, across, path=path)
    expected = exact.values.sum(dim=1)
    torch.testing.assert_close(found.values.sum(dim=1), expected, rtol=1e-3, atol=1e-6)


def test_exact_effects_are_interventions_on_the_feature(model, task, across):
    """Set to nothing at all its places; an error is left out at its own."""
    one = replace(task, prompts=task.prompts[:1])
    setting = Setting(zero)
    found = feature_effects(model, one, logit_diff, across, setting=setting)
    nodes = found[~found.nodes.are_errors].strongest(4).nodes
    assert (nodes.sites == 0).any()
    exact = exact_feature_effects(model, one, logit_diff, across, nodes, setting=setting)
    (batch,) = one.batches(1)
    for i in range(len(nodes)):
        place = nodes.places[nodes.sites[i]]
        change = set_feature(across[place], int(nodes.features[i]), 0.0, int(nodes.positions[i]))
        with intervening(model, *change):
            logits = model.answer_logits(batch.clean, batch)
        expected = exact.clean - logit_diff(logits, batch)
        torch.testing.assert_close(exact.values[:, i], expected, **EXACT)


@pytest.mark.parametrize(
    ("places", "rule", "ablation"),
    [
        (MLPS, plain, None),
        (MLPS, relp, zero),
        (("a0", "m0", "r0.post", "m1", "r2.mid", "m2"), plain, "mean"),
    ],
)
def test_edges_out_of_a_node_add_up_to_its_effect(model, task, places, rule, ablation):
    own = random_dictionaries(model, places, 6, 3, skip=True, across=True)
    chosen = {"mean": mean(task), None: Setting().ablation}.get(ablation, ablation)
    setting = Setting(chosen, by_position=ablation != "mean")
    found = feature_effects(model, task, logit_diff, own, rule=rule, setting=setting)
    edges = direct_edges(model, task, logit_diff, own, found.nodes, rule=rule, setting=setting)
    assert edges[:-1].abs().max() > 0.01 * found.mean.abs().max()
    torch.testing.assert_close(edges.sum(dim=0), found.mean, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("handling", [Handling(), Handling(errors="kept"), Handling(others="free")])
def test_a_circuit_runs_as_its_slow_twin(model, task, across, effects, seen, handling):
    """Each MLP rebuilt of features that are read anew, its error, and what replaces both."""
    generator = torch.Generator().manual_seed(2)
    kept = torch.rand(4, len(effects), generator=generator) < 0.5
    kept[0], kept[1] = True, False
    runs = run_feature_circuits(
        model, task, logit_diff, across, effects.nodes, kept, handling=handling
    )
    (batch,), nodes = task.batches(2), effects.nodes
    patch_f, patch_e = parts(across, seen[0][1])
    for mask, values in zip(kept, runs.values, strict=True):
        logits = _twin(model, batch, across, (nodes, mask, handling), (patch_f, patch_e))
        torch.testing.assert_close(values, logit_diff(logits, batch), rtol=0, atol=1e-10)
    torch.testing.assert_close(runs.values[0], effects.clean, **EXACT)


def _twin(model, batch, across, circuit, patches):
    nodes, mask, handling = circuit
    reads, live, mixed = {}, {}, {}

    def put(number, y):
        name = MLPS[number]
        one, n = across[name], nodes.sites == number
        live[name] = one.encode(reads[name])
        on = torch.full_like(live[name], handling.others == "free").bool()
        held = torch.full((*y.shape[:2], 1), handling.errors == "kept")
        for p, i, is_kept in zip(nodes.positions[n], nodes.features[n], mask[n], strict=True):
            if i >= 0:
                on[:, p, i] = is_kept
            elif handling.errors == "nodes":
                held[:, p] = is_kept
        held[:, :2] = on[:, :2] = True  # both runs are the same up to the first difference
        mixed[name] = torch.where(on, live[name], patches[0][name])
        senders = [s for s in across if name in s.decoders]
        error = y - one.b_dec - sum(live[s.writes] @ s.decoders[name] for s in senders)
        made = sum(mixed[s.writes] @ s.decoders[name] for s in senders) + one.b_dec
        return made + torch.where(held, error, patches[1][name])

    sites = find_sites(model, across)
    hooks = [(s.reads.hook, lambda x, n=s.name: reads.update({n: x})) for s in sites]
    hooks += [(s.writes.hook, lambda y, i=i: put(i, y)) for i, s in enumerate(sites)]
    return model.answer_logits(batch.clean, batch, hooks)


def test_features_that_write_before_their_own_place_are_refused(model, task, across):
    first, second, third = across
    back = replace(second, later={"m0": second.w_dec})
    wrong = replace(across, members=(first, back, third))
    with pytest.raises(
        ValueError, match="are of m1 and write at m0 too, which does not come after"
    ):
        feature_effects(model, task, logit_diff, wrong)
