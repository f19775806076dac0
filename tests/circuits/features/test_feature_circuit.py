"""Feature circuits: edges add up, full is clean and empty is corrupt, sets, curves, files."""

from dataclasses import replace
from inspect import unwrap

import families
import networkx as nx
import pytest
import torch
from feature_sites import random_dictionaries

from circuits.features import (
    Choice,
    FeatureCircuit,
    Handling,
    draw_feature_circuit,
    feature_circuit,
    load_feature_circuit,
    run_feature_circuits,
    save_feature_circuit,
)
from circuits.features.circuit import check_word, without_edges
from circuits.features.circuit_formats import CIRCUIT_FILES
from circuits.features.edges import direct_edges
from circuits.judging.feature_curves import FeatureSweep
from circuits.judging.features import (
    compare_feature_circuits,
    feature_curve,
    feature_minimality,
    feature_recovery,
    judge_features,
)
from patching.attribution.features import (
    Setting,
    exact_feature_effects,
    feature_effects,
    find_sites,
    zero,
)
from patching.dictionaries import fitted
from patching.intervals import of_mean
from patching.metrics import logit_diff
from patching.model import Model
from patching.models.truth import library
from patching.rules import plain, relp

MIXED = ("a0", "r0.mid", "m0", "r0.post", "a1.z", "m1")
STREAMS = ("r0.post", "r1.post")
SUMMED = Setting(by_position=False)


@pytest.fixture(scope="module")
def task():
    return families.task(2, length=6)


@pytest.fixture(scope="module")
def streams(gpt2):
    return random_dictionaries(gpt2, STREAMS)


@pytest.fixture(scope="module")
def effects(gpt2, task, streams):
    return feature_effects(gpt2, task, logit_diff, streams)


@pytest.fixture(scope="module")
def circuit(gpt2, task, streams):
    return feature_circuit(gpt2, task, logit_diff, streams, Choice(nodes=12, edges=20))


@pytest.mark.parametrize(
    ("places", "rule", "setting"),
    [
        (MIXED, plain, Setting()),
        (MIXED, relp, SUMMED),
        (STREAMS, relp, Setting()),
        ("neurons", plain, SUMMED),
        (MIXED, plain, Setting(zero)),
    ],
)
def test_edges_out_of_a_node_add_up_to_its_effect(gpt2, task, places, rule, setting):
    """Whatever the places: each way to the metric passes a first one of them, or none."""
    own = places if places == "neurons" else random_dictionaries(gpt2, places, 6, 3, skip=True)
    found = feature_effects(gpt2, task, logit_diff, own, rule=rule, setting=setting)
    edges = direct_edges(gpt2, task, logit_diff, own, found.nodes, rule=rule, setting=setting)
    assert edges[:-1].abs().max() > 0.01 * found.mean.abs().max()
    # the same products in another order, over several places
    torch.testing.assert_close(edges.sum(dim=0), found.mean, rtol=1e-9, atol=1e-10)


def test_between_streams_nothing_goes_past_the_next_one(gpt2, task, streams, effects):
    edges = direct_edges(gpt2, task, logit_diff, streams, effects.nodes)
    first = effects.nodes.sites == 0
    assert not edges[-1, first].any()  # to the metric
    assert not edges[:-1][first].any() and not edges[:-1][:, ~first].any()  # and never back
    torch.testing.assert_close(edges[-1, ~first], effects.mean[~first], rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("places", "others"),
    [("neurons", "held"), (MIXED, "held"), (STREAMS, "free"), (STREAMS, "held")],
)
def test_the_full_circuit_is_the_clean_run_and_the_empty_one_the_corrupt(
    gpt2, task, places, others
):
    """With free features only where nothing goes around the first place."""
    own = places if places == "neurons" else random_dictionaries(gpt2, places, skip=True)
    found = feature_effects(gpt2, task, logit_diff, own)
    kept = torch.stack([torch.ones(len(found)), torch.zeros(len(found))]).bool()
    runs = run_feature_circuits(
        gpt2, task, logit_diff, own, found.nodes, kept, handling=Handling(others=others)
    )
    assert torch.equal(runs.values[1], runs.empty)
    # rows of one batch are multiplied in another order than alone
    exact = {"rtol": 0, "atol": 1e-12}
    torch.testing.assert_close(runs.values[0], found.clean, **exact)
    if places == STREAMS:
        torch.testing.assert_close(runs.values[1], found.corrupt, **exact)


@pytest.mark.parametrize("handling", [Handling(), Handling(errors="kept"), Handling(others="free")])
def test_a_circuit_runs_as_its_slow_twin(gpt2, task, streams, effects, handling):
    """Streams taken apart, what is outside put in from the corrupt run, and put together again."""
    generator = torch.Generator().manual_seed(2)
    kept = torch.rand(3, len(effects), generator=generator) < 0.5
    runs = run_feature_circuits(
        gpt2, task, logit_diff, streams, effects.nodes, kept, handling=handling
    )
    (batch,) = task.batches(2)
    sites, patches = find_sites(gpt2, streams), {}
    keep = [(s.writes.hook, lambda x, n=s.name: patches.update({n: x.clone()})) for s in sites]
    gpt2.answer_logits(batch.corrupt, batch, keep)

    def put(number, mask, x):
        site, y = sites[number], patches[sites[number].name]
        f, g = site.encode(x), site.encode(y)
        e, h = x - site.dictionary.decode(f), y - site.dictionary.decode(g)
        on = torch.full_like(f, handling.others == "free").bool()
        held = torch.zeros(*x.shape[:2], 1, dtype=torch.bool)
        held |= handling.errors == "kept"
        nodes, n = effects.nodes, effects.nodes.sites == number
        for p, i, is_kept in zip(nodes.positions[n], nodes.features[n], mask[n], strict=True):
            if i >= 0:
                on[:, p, i] = is_kept
            elif handling.errors == "nodes":
                held[:, p] = is_kept
        held[:, :2] = on[:, :2] = True  # both runs are the same up to the first difference
        return site.dictionary.decode(torch.where(on, f, g)) + torch.where(held, e, h)

    for mask, values in zip(kept, runs.values, strict=True):
        hooks = [(s.writes.hook, lambda x, i=i, m=mask: put(i, m, x)) for i, s in enumerate(sites)]
        expected = logit_diff(gpt2.answer_logits(batch.clean, batch, hooks), batch)
        torch.testing.assert_close(values, expected, rtol=0, atol=1e-10)


def test_budgets_are_numbers_and_thresholds_fractions(gpt2, task, streams, effects, circuit):
    assert (len(circuit), circuit.n_edges) == (12, 20)
    assert circuit.top(12) == effects.top(12)
    source, target, weight = circuit.edges[0]
    assert circuit.of(source, target) == weight and circuit.of(source, source) == 0
    least = abs(circuit.top(12)[-1][1])
    again = feature_circuit(gpt2, task, logit_diff, streams, Choice(nodes=least, edges=0))
    assert again.names == circuit.names and again.n_edges == 0
    plain_features = feature_circuit(
        gpt2, task, logit_diff, streams, Choice(nodes=5, edges=0, errors="removed")
    )
    assert not plain_features.nodes.are_errors.any()


def test_circuits_are_sets(circuit):
    names = circuit.names
    first, second = circuit.only(names[:8]), circuit.only(names[4:])
    assert (first & second).names == names[4:8] and (first - second).names == names[:4]
    assert (first | second).names == names and first <= circuit and not circuit <= first
    both = first | second
    assert {e[:2] for e in both.edges} == {e[:2] for e in (*first.edges, *second.edges)}
    assert both.of(*first.edges[0][:2]) == first.edges[0][2]
    nodes, edges = compare_feature_circuits({"first": first, "second": second})
    assert nodes.loc["first", "second"] == pytest.approx(4 / 12)
    assert edges.loc["first", "first"] == 1
    with pytest.raises(ValueError, match="errors are nodes in one circuit, kept in the other"):
        first & replace(second, errors="kept")
    with pytest.raises(ValueError, match="two or more circuits, got 1"):
        compare_feature_circuits({"first": first})


def test_a_circuit_survives_its_file(circuit, tmp_path):
    circuit.save(tmp_path / "c.safetensors")
    again = load_feature_circuit(tmp_path / "c.safetensors")
    assert (again.names, again.edges, again.errors) == (circuit.names, circuit.edges, "nodes")
    assert again.provenance["choice"] == {"nodes": 12, "edges": 20, "errors": "nodes"}
    replace(circuit, targets=circuit.targets + 9).save(tmp_path / "c.safetensors")
    with pytest.raises(ValueError, match="an edge ends at no node; it has 12"):
        load_feature_circuit(tmp_path / "c.safetensors")


def test_a_curve_ends_at_the_whole_model(gpt2, task, streams, effects):
    sweep = FeatureSweep(shares=(0.1, 0.5, 1.0), n_random=3, n_bootstrap=20)
    curve = feature_curve(gpt2, task, logit_diff, streams, effects, sweep)
    first, _, last = curve.points
    assert (last.faithfulness, last.completeness) == (pytest.approx(1), pytest.approx(0))
    assert first.nodes == int(0.1 * len(effects)) and first.low <= first.faithfulness <= first.high
    assert curve.uniform.shape == curve.matched.shape == (3, 3)
    assert curve.matched[-1].tolist() == pytest.approx([1.0] * 3)
    assert curve.plot().axes and "completeness" in curve.to_json()
    kept = replace(sweep, handling=Handling(errors="kept"), n_random=0)
    only = feature_curve(gpt2, task, logit_diff, streams, effects, kept)
    assert only.n_nodes == int((~effects.nodes.are_errors).sum()) and only.points[0].uniform_low


def test_minimality_is_the_circuit_less_the_circuit_without_a_node(gpt2, task, streams, circuit):
    small = circuit.only(circuit.names[:3])
    found = feature_minimality(gpt2, task, logit_diff, streams, small)
    without = [small - small.only([name]) for name in small.names]
    runs = judge_features(gpt2, task, logit_diff, streams, [small, *without])
    means = runs.values.mean(dim=1)
    torch.testing.assert_close(found.effects[:, 0], means[0] - means[1:], rtol=0, atol=1e-12)
    assert found.gap == pytest.approx(float((runs.clean - runs.empty).mean()))
    low, high = of_mean((runs.values[0] - runs.values[1:]).T)
    table = found.to_dataframe()
    assert table["low"].tolist() == pytest.approx(low.tolist(), abs=1e-12)
    assert table["high"].tolist() == pytest.approx(high.tolist(), abs=1e-12)
    assert (table["low"] <= table["alone"]).all() and (table["alone"] <= table["high"]).all()


def test_a_circuit_without_nodes_keeps_nothing(gpt2, task, streams, circuit):
    nothing = circuit.only([])
    runs = judge_features(gpt2, task, logit_diff, streams, [nothing, nothing])
    assert runs.faithfulness.tolist() == [0, 0] and torch.equal(runs.values[0], runs.empty)
    assert not len(feature_minimality(gpt2, task, logit_diff, streams, nothing).effects)


def test_known_nodes_are_told_apart_by_their_effects(effects):
    best = [name for name, _ in effects.top(3)]
    assert feature_recovery(effects, best).auroc == 1.0
    assert feature_recovery(effects, []).undefined_because


def test_refusals_of_circuits(gpt2, task, streams, effects, circuit):
    with pytest.raises(ValueError, match="0 or more, got nodes=-1"):
        Choice(nodes=-1)
    with pytest.raises(ValueError, match="errors are one of 'nodes', 'kept'; got 'keep'"):
        check_word("errors", "keep", ("nodes", "kept"))  # types are checked in tests already
    other = replace(
        streams, name="theirs", members=tuple(m.to("cpu", torch.float32) for m in streams)
    )
    with pytest.raises(
        ValueError, match="of the features of 'random', and not of those of 'theirs'"
    ):
        judge_features(gpt2, task, logit_diff, other, circuit)
    with pytest.raises(
        ValueError, match=r"got one, 'random r0.post': Dictionaries\(name, \(one,\)\)"
    ):
        unwrap(fitted)(gpt2, streams["r0.post"])
    with pytest.raises(ValueError, match=r"shares of all nodes lie in \(0, 1\]"):
        FeatureSweep(shares=(0.0,))
    with pytest.raises(ValueError, match="there is no circuit to run"):
        judge_features(gpt2, task, logit_diff, streams, [])
    with pytest.raises(ValueError, match="not of the same dictionaries"):
        judge_features(gpt2, task, logit_diff, "neurons", [circuit])
    assert isinstance(without_edges(effects), FeatureCircuit)


@pytest.mark.parametrize("suffix", CIRCUIT_FILES)
def test_every_form_of_file_holds_the_circuit(circuit, tmp_path, suffix):
    path = tmp_path / f"c{suffix}"
    save_feature_circuit(circuit, path)
    names = {**dict.fromkeys(circuit.names), "metric": None}
    reading = {".graphml": nx.read_graphml, ".gexf": nx.read_gexf, ".gml": nx.read_gml}
    if suffix in reading:
        again = reading[suffix](path)
        assert {*again} == {*names} and len(again.edges) == circuit.n_edges
        source, target, weight = circuit.edges[0]
        assert again[source][target]["weight"] == pytest.approx(weight)
    elif suffix == ".csv":
        assert len(path.read_text().splitlines()) == circuit.n_edges + 1
    elif suffix in (".pdf", ".png"):
        assert path.read_bytes().startswith((b"%PDF", b"\x89PNG"))
    elif suffix != ".safetensors":
        text = path.read_text()
        assert all(name.rpartition(".")[2].partition("@")[0] in text for name in circuit.names)


def test_other_files_and_empty_pictures_are_refused(circuit, tmp_path):
    with pytest.raises(ValueError, match="a feature circuit has the suffix .safetensors, .json"):
        save_feature_circuit(circuit, tmp_path / "c.pt")
    with pytest.raises(ValueError, match="without nodes cannot be drawn"):
        draw_feature_circuit(circuit.only([]))
    with pytest.raises(ValueError, match="a width is 'column'"):
        draw_feature_circuit(circuit, width="wide")
    summed = replace(circuit, nodes=replace(circuit.nodes, positions=circuit.nodes.positions * 0))
    assert draw_feature_circuit(summed, tokens=("a",)).axes


def test_on_a_model_whose_program_is_known_effects_find_the_neurons_that_it_needs():
    """Rows of its table that are on in one prompt of a pair, where the answer is asked."""
    name = "truth/comparison"
    model, task = Model.load(name), library.known(name, n=3).task
    found = feature_effects(model, task, logit_diff, "neurons")
    exact = exact_feature_effects(model, task, logit_diff, "neurons", found.nodes)
    known = [name for name, effect in exact.top(len(exact)) if abs(effect) > 1e-3]
    last = task.max_length - 1
    assert known and {name.partition("@")[2] for name in known} == {str(last)}
    assert feature_recovery(found, known).auroc == 1.0
    small = feature_circuit(model, task, logit_diff, "neurons", Choice(nodes=len(known), edges=0))
    runs = judge_features(model, task, logit_diff, "neurons", [small])
    assert float(runs.faithfulness[0]) == pytest.approx(1, abs=1e-3)
