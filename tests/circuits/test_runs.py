"""Long runs of the library: stopped, gone on with, shared out, they come to the same last bit."""

import ctypes
import gc
import json
import os
import re
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import families
import psutil
import pytest
import torch
from stopping import nothing_left, resumed

from circuits import Interrupted
from circuits.judging.faithfulness import Sweep, curve
from circuits.judging.uncertainty import uncertainty
from circuits.running.evaluation import evaluate
from circuits.scoring import METHODS, Recipe, eap, eap_ig, exact, position_scores, score
from circuits.select import top_n
from patching.metrics import logit_diff, prob_diff
from patching.model import Model
from patching.models import induction
from patching.work import Run


@pytest.fixture(scope="module")
def subject():
    """A model with a task of 8 prompts, which makes chunks of 3, 3 and 2."""
    return Model.load("truth/induction"), induction(n=8).task


@pytest.mark.parametrize("name", METHODS)
def test_every_method_stopped_and_gone_on_with_gives_the_same_bits(subject, name, tmp_path):
    model, task = subject
    method = METHODS[name].function

    def compute(run):
        return method(model, task, logit_diff, batch_size=3, run=run)

    whole = compute(None)
    for found in resumed(compute, tmp_path):
        assert torch.equal(found.matrix, whole.matrix)
        assert found.provenance == whole.provenance
        if whole.completeness is not None:
            assert torch.equal(found.completeness, whole.completeness)


def test_positions_evaluations_curves_and_bootstraps_too(subject, tmp_path):
    model, task = subject
    scores = eap(model, task, logit_diff)
    circuits = [top_n(scores, n, ranking="absolute") for n in (1, 5, 20)]
    sweep = Sweep("absolute", sizes=(1, 5), n_random=1, n_bootstrap=10)

    def positions(run):
        return position_scores(model, task, logit_diff, batch_size=3, run=run).tensor

    def evaluation(run):
        return evaluate(model, task, circuits, logit_diff, batch_size=3, run=run).values

    def curves(run):
        return curve(model, task, scores, logit_diff, sweep, batch_size=3, run=run).values

    def bootstrap(run):
        options = {"size": 5, "ranking": "absolute", "n_resamples": 20}
        found = uncertainty(task, lambda part: eap(model, part, logit_diff), run=run, **options)
        return found.standard_error

    for compute in (positions, evaluation, curves):
        whole = compute(None)
        for found in resumed(compute, tmp_path / compute.__name__):
            assert torch.equal(found, whole)
    assert torch.equal(bootstrap(Run(tmp_path / "bootstrap")), bootstrap(None))
    assert torch.equal(bootstrap(Run(tmp_path / "bootstrap", nothing_left)), bootstrap(None))


@pytest.mark.slow
def test_exact_scores_and_evaluations_are_cut_by_edges_and_circuits_too(
    subject, tmp_path, monkeypatch
):
    model, task = subject
    circuits = [top_n(eap(model, task, logit_diff), n, ranking="absolute") for n in range(1, 6)]

    def scores(run):
        return exact(model, task, logit_diff, batch_size=3, run=run).matrix

    def values(run):
        return evaluate(model, task, circuits, logit_diff, batch_size=3, run=run).values

    before = {compute: compute(None) for compute in (scores, values)}
    monkeypatch.setattr("circuits.scoring.single_edges.EDGES_A_CHUNK", 20)
    monkeypatch.setattr("circuits.running.evaluation.CIRCUITS_A_CHUNK", 2)
    for compute in (scores, values):
        whole = compute(None)
        # float32: circuits in other company are products of other shapes
        torch.testing.assert_close(whole, before[compute], rtol=1e-5, atol=1e-4)
        for found in resumed(compute, tmp_path / compute.__name__):
            assert torch.equal(found, whole)
    assert len(list((tmp_path / "scores").glob("*/chunk-*"))) > 3
    assert len(list((tmp_path / "values").glob("*/chunk-*"))) == 9


def test_results_of_different_settings_stand_beside_each_other(subject, tmp_path):
    model, task = subject
    run = Run(tmp_path)

    def mine(logits, batch):
        return logit_diff(logits, batch) * 2

    def logit_diff_(logits, batch):
        return logit_diff(logits, batch) * 3

    logit_diff_.__name__ = mine.__name__  # one name for two metrics
    first = eap(model, task, logit_diff, run=run)
    others = [
        eap(model, task, prob_diff, run=run),
        eap(model, task, mine, run=run),
        eap(model, task, logit_diff_, run=run),
        eap(model, task.take(4), logit_diff, run=run),
        eap_ig(model, task, logit_diff, run=run),
        eap_ig(model, task, logit_diff, steps=2, run=run),
        eap(model, task, logit_diff, batch_size=2, run=run),
        eap(model, replace(task, padding="left"), logit_diff, run=run),
    ]
    assert len(list(tmp_path.iterdir())) == len(others) + 1
    assert torch.equal(others[2].matrix, eap(model, task, logit_diff_).matrix)
    assert torch.equal(eap(model, task, logit_diff, run=run).matrix, first.matrix)


@pytest.mark.parametrize("kept", [False, True])
def test_an_interrupt_gives_the_estimate_of_the_prompts_so_far(subject, tmp_path, kept):
    model, task = subject

    def stops(logits, batch):
        if len(batch) == 2:  # the third and last batch
            raise KeyboardInterrupt
        return logit_diff(logits, batch)

    run = Run(tmp_path) if kept else None
    with pytest.raises(Interrupted, match="interrupted after 6 of 8 examples") as caught:
        eap(model, task, stops, batch_size=3, run=run)
    partial = caught.value.partial
    assert torch.equal(partial.matrix, eap(model, task.take(6), logit_diff, batch_size=3).matrix)
    assert partial.provenance["partial"] == {"n_examples": 6, "of": 8}
    assert partial.provenance["n_examples"] == 6
    assert len(partial.completeness) == 6


@pytest.mark.parametrize("name", ["grad-drop", "qk-fix", "atp-star"])
def test_an_interrupt_of_one_pass_of_several_leaves_no_estimate(subject, name):
    model, task = subject
    calls = []

    def stops(logits, batch):
        calls.append(batch)
        if len(calls) > 6:
            raise KeyboardInterrupt
        return logit_diff(logits, batch)

    with pytest.raises(KeyboardInterrupt) as caught:
        METHODS[name].function(model, task, stops, batch_size=2)
    assert not isinstance(caught.value, Interrupted)


def test_an_interrupt_before_the_first_batch_is_a_plain_one(subject):
    def stops(logits, batch):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as caught:
        eap(*subject, stops)
    assert not isinstance(caught.value, Interrupted)


def short_of_memory(most: int):
    """A metric for which memory runs out with more than so many examples."""

    def metric(logits, batch):
        if len(batch) > most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.50 GiB.")
        return logit_diff(logits, batch)

    return metric


@pytest.mark.parametrize("name", ["eap", "eap-ig", "exact", "qk-fix"])
def test_where_memory_runs_out_the_batch_is_halved_inside_its_chunk(name, tmp_path):
    model, task = Model.load(families.module("gpt2", torch.float64)), families.task()
    method, n = METHODS[name].function, len(task)
    whole = method(model, task, logit_diff, batch_size=n)
    halved = method(model, task, short_of_memory(1), batch_size=n, run=Run(tmp_path))
    # float64: another order of the same sums
    torch.testing.assert_close(halved.matrix, whole.matrix, rtol=1e-10, atol=1e-12)
    assert halved.provenance["memory"]["batches_halved"] == n - 1
    again = method(model, task, short_of_memory(1), batch_size=n, run=Run(tmp_path, nothing_left))
    assert again.provenance["memory"] == halved.provenance["memory"]
    log = next(tmp_path.glob("*/log.jsonl")).read_text().splitlines()
    assert json.loads(log[0])["memory"]["batches_halved"] == n - 1


def test_evaluations_halve_their_batches(subject):
    model, task = subject
    circuits = [top_n(eap(model, task, logit_diff), 5, ranking="absolute")]
    whole = evaluate(model, task, circuits, logit_diff)
    halved = evaluate(model, task, circuits, short_of_memory(3))
    torch.testing.assert_close(halved.values, whole.values, rtol=1e-5, atol=1e-5)  # float32


def test_one_example_that_does_not_fit_says_what_it_would_need(subject):
    needed = r"it needs ([\d.]+) GiB on c.* or more, .* of which the process has had"
    said = rf"one example .*Tried to allocate 2.50 GiB.*{needed}.*bfloat16.*--memory, now 32 MiB"
    with pytest.raises(MemoryError, match=said) as caught:
        eap(*subject, short_of_memory(0))
    found = re.search(needed, str(caught.value))
    assert found is not None and 2.5 < float(found[1]) < 200


@pytest.mark.parametrize("batch_size", [1, 3, 5])
def test_scores_do_not_depend_on_the_batch_size(batch_size):
    model, task = Model.load(families.module("llama", torch.float64)), families.task()
    whole = score(model, task, logit_diff, Recipe(), batch_size=len(task)).matrix
    found = score(model, task, logit_diff, Recipe(), batch_size=batch_size).matrix
    assert (found - whole).abs().max() <= 1e-12 * whole.abs().max()


def test_a_chunk_that_holds_nan_is_never_kept(subject, tmp_path):
    def broken(logits, batch):
        return logit_diff(logits, batch) * torch.nan

    with pytest.raises(ValueError, match="NaN"):
        eap(*subject, broken, run=Run(tmp_path))
    assert not list(tmp_path.glob("*/chunk-*"))


def left_behind(model) -> tuple[int, int, int]:
    """Hooks on modules, hooks on the library's hook points, and living tensors."""
    gc.collect()
    hooks = sum(
        len(m._forward_hooks)
        + len(m._forward_pre_hooks)
        + len(m._backward_hooks)
        + len(m._backward_pre_hooks)
        for m in model.bridge.modules()
    )
    points = sum(len(p.fwd_hooks) + len(p.bwd_hooks) for p in model.bridge.hook_dict.values())
    tensors = sum(issubclass(type(thing), torch.Tensor) for thing in gc.get_objects())
    return hooks, points, tensors


def bytes_in_use() -> int:
    """Memory of this process, after the allocator has given back what it can."""
    with suppress(OSError, AttributeError):  # other systems have no malloc_trim
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    return psutil.Process(os.getpid()).memory_info().rss


def score_often(model, task, n: int, folder: Path) -> None:
    """So many scorings, every other one in a folder."""
    for i in range(n):
        run = Run(folder / str(i)) if i % 2 else None
        eap_ig(model, task, logit_diff, steps=2, batch_size=3, run=run)


@pytest.mark.parametrize("n", [6, pytest.param(200, marks=pytest.mark.slow)])
def test_many_scorings_leave_no_memory_and_no_hooks_behind(subject, tmp_path, n):
    model, task = subject
    score_often(model, task, 6, tmp_path / "first")  # caches fill
    before, used = left_behind(model), bytes_in_use()
    score_often(model, task, n, tmp_path / "then")
    assert left_behind(model) == before
    grown = bytes_in_use() - used
    print(f"{n} scorings: {grown / 2**20:+.2f} MiB, {before} hooks and tensors")  # noqa: T201
    assert grown < 8 * 2**20  # the allocator's unrest; a leak of a run would be 20 MiB in 200
