"""Units changed in the real model beside what a graph foresaw; what is told of units."""

from statistics import correlation

import feature_laws
import pytest
import torch

from circuits.features import Convention, Transcoders, look_at_features, steer, trace
from circuits.features.validity import total_effects
from patching import Model
from patching.dictionaries import scale_feature
from patching.intervene import intervening, zero

TOKENS = list(feature_laws.TOKENS)
FEW = Convention(most=30)


@pytest.fixture(scope="module")
def toy():
    return Model.load("toy-llama")


@pytest.fixture(scope="module")
def graph(toy):
    return trace(toy, TOKENS, "neurons", logits=2, convention=FEW, validity=0)


@pytest.fixture(scope="module")
def made(toy):
    features = Transcoders(toy, feature_laws.synthetic(toy))
    return features, trace(toy, TOKENS, features, logits=2, prune=False, validity=0)


def changed(model, graph, interventions):
    with torch.no_grad():
        before = model.run(TOKENS).logits[0, -1].double()
        with intervening(model, *interventions):
            after = model.run(TOKENS).logits[0, -1].double()
    difference = after - before
    ids = graph.nodes.indices[graph.nodes.kinds == 3]
    return (difference - difference.mean())[ids].tolist()


def test_a_neuron_is_changed_at_its_own_position(toy, graph):
    found = steer(toy, graph, "neurons", n=1, factors=(0.0, 1.0))
    removed, same = found.rows
    place, _, position = removed.node.partition("@")
    assert removed.changes == pytest.approx(
        changed(toy, graph, [zero(place, positions=int(position))]), abs=2e-5
    )  # written with five digits
    assert same.changes == pytest.approx((0, 0), abs=2e-5) and same.foreseen == (0, 0)
    assert removed.foreseen[0] != 0 and len(found.targets) == 2
    assert sum(p for _, p in found.tokens) <= 1 and len(removed.tokens) == 5


def test_a_feature_is_scaled_as_by_hand(toy, made):
    features, graph = made
    (row,) = steer(toy, graph, features, n=1, factors=(3.0,)).rows
    place, _, rest = row.node.partition(".f")
    index, _, position = rest.partition("@")
    member = next(one for one in features.dictionaries if one.writes == place)
    by_hand = scale_feature(member, int(index), 3.0, positions=int(position))
    assert row.changes == pytest.approx(changed(toy, graph, by_hand), abs=2e-5)


def test_what_is_foreseen_is_the_total_effect_over_all_paths(toy, graph):
    found = steer(toy, graph, "neurons", n=3, factors=(0.0, 3.0))
    effects = total_effects(graph)
    for row in found.rows:
        expected = (row.factor - 1) * effects[:, graph.index(row.node)]
        assert row.foreseen == pytest.approx(expected.tolist(), abs=2e-5)
    pairs = [(a, b) for row in found.rows for a, b in zip(row.foreseen, row.changes, strict=True)]
    assert found.agreement == pytest.approx(correlation(*zip(*pairs, strict=True)), abs=1e-4)
    assert steer(toy, graph, "neurons", n=1, factors=(1.0,)).agreement is None  # nothing changed


def test_values_are_those_of_the_run_and_examples_of_the_sign(toy, graph):
    seen = look_at_features(toy, graph, "neurons", steered=0)
    run = toy.run(TOKENS, cache=["m0.neurons", "m3.neurons"])
    for (layer, index), values in zip(seen.units.tolist(), seen.values, strict=True):
        if layer in (0, 3):
            expected = run[f"m{layer}.neurons"][0, :, index].float()
            torch.testing.assert_close(values, expected, atol=1e-5, rtol=1e-4)
    late = seen.values[:, 1:]
    for (layer, index), values in zip(seen.units.tolist(), late, strict=True):
        told = seen.examples[f"m{layer}", index]
        assert len(told.promoted) == 4
        assert told.largest in (
            pytest.approx(float(values.max()), abs=1e-5),
            pytest.approx(float(-values.min()), abs=1e-5),
        )
    assert seen.examples.facts["text"] == "the prompt" and seen.steering is None


def test_features_of_dictionaries_are_told_of(toy, made):
    features, graph = made
    seen = look_at_features(toy, graph, features, steered=1, contexts=2)
    names = {name.partition("@")[0] for name in graph.names if ".f" in name}
    assert {f"m{layer}.f{i}" for layer, i in seen.units.tolist()} == names
    at = {name: i for i, name in enumerate(graph.names)}
    for (layer, index), values in zip(seen.units.tolist(), seen.values.tolist(), strict=True):
        for position, value in enumerate(values):
            node = at.get(f"m{layer}.f{index}@{position}")
            expected = 0.0 if node is None else float(graph.nodes.values[node])
            assert value == pytest.approx(expected, abs=1e-5)
    assert len(seen.steering.rows) == 2


def test_other_features_than_the_graphs_are_refused(toy, graph, made):
    with pytest.raises(ValueError, match="the graph is of neurons, not of these random"):
        steer(toy, graph, made[0])
    with pytest.raises(ValueError, match="one unit, factor and token are the least, got 0"):
        steer(toy, graph, "neurons", n=0)
    other = Transcoders(toy, feature_laws.synthetic(toy, n=13))
    with pytest.raises(ValueError, match="the graph is of random, not of these random"):
        look_at_features(toy, made[1], other)
