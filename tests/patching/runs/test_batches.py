"""Computations of `patching` in a run's folder: stopped, shared out, they come to the same bits."""

import json
from functools import partial

import families
import pytest
import torch
from conflicting import conflicts
from stopping import nothing_left, resumed

from patching.activation import activation_patching, neuron_patching, span_patching
from patching.attribution import (
    atp_star,
    attribution_patching,
    bound_missed,
    grad_drop,
    qk_fix,
)
from patching.attribution.missed import Sampling
from patching.grid import Grid
from patching.metrics import logit_diff, prob_diff
from patching.model import Model
from patching.neurons import NEURON_METHODS, Neurons, control_rates, scale_neurons, sweep
from patching.neurons.scores import answer_probability
from patching.quadrature import left
from patching.rules import relp
from patching.runs.batches import sums_joined
from patching.tracing import Noise, causal_tracing
from patching.work import Interrupted, Ranks, Run

MODEL, TASK = Model.load(families.module("gpt2", torch.float64)), families.task(n=5)
CONFLICTS = conflicts(n=5)
SHORTLIST = Neurons([(0, 3), (1, 5)])
SPANS = {"first": range(1, 4), "second": range(4, 7)}
SCORES = attribution_patching(MODEL, TASK, logit_diff, kinds=["z"]).pick("z", ("layer", "head"))

PATCHING = {
    "positions": partial(activation_patching, MODEL, TASK, logit_diff),
    "heads": partial(activation_patching, MODEL, TASK, logit_diff, "z", ("layer", "head")),
    "spans": partial(span_patching, MODEL, TASK, logit_diff, SPANS),
    "neurons": partial(neuron_patching, MODEL, TASK, logit_diff, [1]),
    "estimates": partial(attribution_patching, MODEL, TASK, logit_diff),
    "qk-fix": partial(qk_fix, MODEL, TASK, logit_diff),
    "grad-drop": partial(grad_drop, MODEL, TASK, logit_diff),
    "atp-star": partial(atp_star, MODEL, TASK, logit_diff, by_position=False),
    "missed": partial(bound_missed, MODEL, TASK, logit_diff, SCORES, sampling=Sampling(6)),
}
NOISE = Noise(2.0, 2)
OF_NEURONS = {
    **{
        name: partial(
            method.function, MODEL, CONFLICTS, **({"steps": 2} if method.takes_steps else {})
        )
        for name, method in NEURON_METHODS.items()
        if not method.needs_neurons
    },
    "exact-ablation": partial(
        NEURON_METHODS["exact-ablation"].function, MODEL, CONFLICTS, neurons=SHORTLIST
    ),
    "sweep": partial(sweep, MODEL, CONFLICTS, SHORTLIST, sizes=(1, 2), betas=(0.0, 2.0)),
    "controls": partial(control_rates, MODEL, CONFLICTS, SHORTLIST, betas=(2.0,), seeds=(0, 1)),
}
EVERYTHING = {
    **{name: partial(compute, batch_size=2) for name, compute in PATCHING.items()},
    **{name: partial(compute, batch_size=2) for name, compute in OF_NEURONS.items()},
    "tracing": partial(causal_tracing, MODEL, TASK, logit_diff, range(1, 3), noise=NOISE),
}


def numbers(found) -> list[torch.Tensor]:
    """All tensors of a result."""
    if isinstance(found, torch.Tensor):
        return [found]
    parts = found.values() if isinstance(found, dict) else vars(found).values()
    kept = (Grid, dict, torch.Tensor)
    return [tensor for part in parts if isinstance(part, kept) for tensor in numbers(part)]


def provenance(found) -> object:
    grid = getattr(found, "grid", found)
    return getattr(grid, "provenance", None)


@pytest.mark.parametrize("name", EVERYTHING)
def test_stopped_and_gone_on_with_it_comes_to_the_same_bits(name, tmp_path):
    whole = EVERYTHING[name]()
    assert numbers(whole)
    for found in resumed(lambda run: EVERYTHING[name](run=run), tmp_path):
        assert len(numbers(found)) == len(numbers(whole))
        for a, b in zip(numbers(found), numbers(whole), strict=True):
            assert torch.equal(a.nan_to_num(nan=-7.0), b.nan_to_num(nan=-7.0))
        assert provenance(found) == provenance(whole)


@pytest.mark.parametrize("name", ["heads", "tracing", "estimates", "ircan"])
def test_of_two_workers_each_comes_to_the_same_bits(name, tmp_path):
    whole = numbers(EVERYTHING[name]())
    found = [numbers(EVERYTHING[name](run=Run(tmp_path, Ranks(rank, 2)))) for rank in (0, 1)]
    for some in found:
        assert all(torch.equal(a, b) for a, b in zip(some, whole, strict=True))


VARIANTS = {
    "patching": [
        partial(activation_patching, MODEL, TASK, logit_diff),
        partial(activation_patching, MODEL, TASK, prob_diff),
        partial(activation_patching, MODEL, TASK, logit_diff, batch_size=2),
        partial(activation_patching, MODEL, TASK, logit_diff, direction="noising"),
        partial(activation_patching, MODEL, TASK, logit_diff, "mlp_out"),
        partial(activation_patching, MODEL, TASK, logit_diff, "z"),
        partial(activation_patching, MODEL, TASK, logit_diff, "z", ("layer", "head")),
        partial(activation_patching, MODEL, TASK.take(3), logit_diff),
        partial(span_patching, MODEL, TASK, logit_diff, SPANS),
        partial(span_patching, MODEL, TASK, logit_diff, {**SPANS, "second": range(4, 8)}),
        partial(neuron_patching, MODEL, TASK.take(1), logit_diff, [0]),
        partial(neuron_patching, MODEL, TASK.take(1), logit_diff, [1]),
    ],
    "tracing": [
        partial(causal_tracing, MODEL, TASK, logit_diff, range(1, 3), noise=NOISE),
        partial(causal_tracing, MODEL, TASK, logit_diff, range(1, 4), noise=NOISE),
        partial(causal_tracing, MODEL, TASK, logit_diff, range(1, 3), noise=Noise(2.0, 2, 1)),
        partial(causal_tracing, MODEL, TASK, logit_diff, range(1, 3), noise=Noise(2.0, 1)),
        partial(causal_tracing, MODEL, TASK, logit_diff, range(1, 3), noise=Noise(1.0, 2)),
        partial(causal_tracing, MODEL, TASK, logit_diff, range(1, 3), what="mlp_out", noise=NOISE),
        partial(
            *(causal_tracing, MODEL, TASK, logit_diff, range(1, 3)),
            **{"what": "mlp_out", "noise": NOISE, "window": 2},
        ),
    ],
    "attributing": [
        partial(attribution_patching, MODEL, TASK, logit_diff),
        partial(attribution_patching, MODEL, TASK, logit_diff, rule=relp),
        partial(attribution_patching, MODEL, TASK, logit_diff, kinds=["z"]),
        partial(attribution_patching, MODEL, TASK, logit_diff, direction="noising"),
        partial(qk_fix, MODEL, TASK, logit_diff),
    ],
    "attributing-dropped": [
        partial(grad_drop, MODEL, TASK, logit_diff),
        partial(grad_drop, MODEL, TASK, logit_diff, by_position=False),
        partial(atp_star, MODEL, TASK, logit_diff),
    ],
    "bounding": [
        partial(bound_missed, MODEL, TASK, logit_diff, SCORES, sampling=Sampling(6)),
        partial(bound_missed, MODEL, TASK, logit_diff, SCORES, sampling=Sampling(6, seed=1)),
        partial(bound_missed, MODEL, TASK, logit_diff, SCORES, verified=1, sampling=Sampling(6)),
    ],
    "scoring-neurons": [
        *(partial(OF_NEURONS[name]) for name in NEURON_METHODS),
        partial(OF_NEURONS["ircan"], steps=3),
        partial(OF_NEURONS["ircan"], variant="released"),
        partial(OF_NEURONS["ircan"], quadrature=left),
        partial(OF_NEURONS["relp"], metric=prob_diff),
        partial(OF_NEURONS["exact-ablation"], replacement="zero"),
        partial(OF_NEURONS["exact-ablation"], neurons=Neurons([(0, 3)])),
    ],
    "rating-edits": [
        OF_NEURONS["sweep"],
        partial(OF_NEURONS["sweep"], betas=(0.0, 3.0)),
        partial(OF_NEURONS["sweep"], sizes=(1,)),
        OF_NEURONS["controls"],
    ],
}


@pytest.mark.parametrize("what", VARIANTS)
def test_results_of_different_settings_stand_beside_each_other(what, tmp_path):
    for compute in VARIANTS[what]:
        compute(run=Run(tmp_path))
    folders = [folder.name for folder in tmp_path.iterdir()]
    assert len(folders) == len(VARIANTS[what])
    assert all(folder.rpartition("-")[0] == what for folder in folders)


def stops(logits, batch):
    """Like `logit_diff`, until the last batch, of one pair, interrupts."""
    if len(batch) == 1:
        raise KeyboardInterrupt
    return logit_diff(logits, batch)


@pytest.mark.parametrize("compute", [activation_patching, attribution_patching])
def test_an_interrupt_gives_the_grid_of_the_examples_so_far(compute, tmp_path):
    with pytest.raises(Interrupted, match="interrupted after 4 of 5 examples") as caught:
        compute(MODEL, TASK, stops, batch_size=2, run=Run(tmp_path))
    expected = compute(MODEL, TASK.take(4), logit_diff, batch_size=2)
    for a, b in zip(numbers(caught.value.partial), numbers(expected), strict=True):
        assert torch.equal(a, b)


def test_a_grid_of_some_examples_says_so():
    with pytest.raises(Interrupted) as caught:
        activation_patching(MODEL, TASK, stops, batch_size=2)
    said = caught.value.partial.provenance
    assert said["partial"] == {"n_examples": 4, "of": 5}
    assert said["n_examples"] == 4


def test_an_interrupt_before_the_first_batch_is_a_plain_one():
    with pytest.raises(KeyboardInterrupt) as caught:
        activation_patching(MODEL, TASK, stops, batch_size=1)
    assert not isinstance(caught.value, Interrupted)


def short_of_memory(most: int, metric):
    """A metric for which memory runs out with more than so many examples."""

    def short(logits, batch):
        if len(batch) > most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.50 GiB.")
        return metric(logits, batch)

    return short


def test_where_memory_runs_out_the_batch_is_halved_inside_its_chunk(tmp_path):
    whole = attribution_patching(MODEL, TASK, logit_diff)
    metric = short_of_memory(1, logit_diff)
    halved = attribution_patching(MODEL, TASK, metric, run=Run(tmp_path))
    for a, b in zip(numbers(halved), numbers(whole), strict=True):
        # float64: other shapes of the same products
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)
    assert halved["z"].provenance["memory"]["batches_halved"] == 4
    log = next(tmp_path.glob("*/log.jsonl")).read_text()
    assert json.loads(log)["memory"]["batches_halved"] == 4


def test_conflicts_are_halved_on_both_sides():
    method = NEURON_METHODS["relp"].function
    whole = method(MODEL, CONFLICTS)
    halved = method(MODEL, CONFLICTS, metric=short_of_memory(2, answer_probability))
    torch.testing.assert_close(halved.values, whole.values, rtol=1e-10, atol=1e-12)
    assert halved.grid.provenance["memory"]["batches_halved"] == 2


def test_sums_of_halves_are_added():
    first, second = {"a": torch.ones(2)}, {"a": torch.tensor([1.0, 2.0])}
    assert sums_joined(first, second)["a"].tolist() == [2.0, 3.0]


def test_numbers_that_are_none_name_the_row_and_the_layer(tmp_path):
    def broken(logits, batch):
        return logit_diff(logits, batch) * torch.nan

    with pytest.raises(ValueError, match="effects came out as NaN or infinite: both plain runs"):
        activation_patching(MODEL, TASK, broken, run=Run(tmp_path))
    assert not list(tmp_path.glob("*/chunk-*"))


def test_hooks_that_are_in_place_cannot_be_told_from_others(tmp_path):
    with scale_neurons(MODEL, SHORTLIST, 2.0):
        found = activation_patching(MODEL, TASK, logit_diff)
        assert found.provenance["hooks"] == ["blocks.0.mlp.out.hook_in", "blocks.1.mlp.out.hook_in"]
        with pytest.raises(ValueError, match=r"hooks that are in place \(blocks.0.mlp.out"):
            activation_patching(MODEL, TASK, logit_diff, run=Run(tmp_path))
    assert "hooks" not in activation_patching(MODEL, TASK, logit_diff).provenance
    assert list(tmp_path.iterdir()) == []


def test_the_log_says_how_long_each_batch_took_and_what_memory_it_needed(tmp_path):
    activation_patching(MODEL, TASK, logit_diff, batch_size=2, run=Run(tmp_path))
    lines = [json.loads(s) for s in next(tmp_path.glob("*/log.jsonl")).read_text().splitlines()]
    assert [line["chunk"] for line in lines] == [0, 1, 2]
    assert all(line["seconds"] > 0 and line["peak_bytes"]["cpu"] > 10**7 for line in lines)
    activation_patching(MODEL, TASK, logit_diff, batch_size=2, run=Run(tmp_path, nothing_left))
