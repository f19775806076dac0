"""Error bars that contain the search: resamples by hand, and coverage on planted effects."""

from functools import partial

import numpy as np
import pytest
import torch

from circuits.circuit import Circuit
from circuits.judging.prompts import by_prompt
from circuits.judging.resampling import Resampled, difference, resampled
from circuits.judging.stability import agreement, resamples
from circuits.running.trial import prepare
from circuits.scores import Scores, load_scores, merge
from circuits.scoring import Recipe, along_inputs, at_both, eap, score, score_each
from circuits.select import by_inclusion, by_lower_bound, by_mean_size, by_smoothed_size, top_n
from patching.graph import Graph
from patching.intervals import counts
from patching.metrics import logit_diff
from patching.model import Model
from patching.models import induction
from patching.tasks.generators import ioi

GRAPH = Graph(n_layers=2, n_heads=2, n_kv_heads=2)
N = GRAPH.n_edges


def scores_of(rows: torch.Tensor) -> Scores:
    matrix = torch.zeros(GRAPH.exists.shape, dtype=torch.float64)
    matrix[GRAPH.exists] = rows.mean(dim=0)
    return Scores(matrix, GRAPH, {}, by_prompt=rows)


def test_resamples_are_means_over_prompts_drawn_again():
    rows = torch.from_numpy(np.random.default_rng(0).normal(size=(5, N)))
    often = counts(5, 3, seed=4)
    assert (often.sum(axis=1) == 5).all()
    for one, times in zip(resamples(scores_of(rows), 3, 4), often, strict=True):
        drawn = np.repeat(np.arange(5), times.astype(int))
        torch.testing.assert_close(one.matrix[GRAPH.exists], rows[drawn].mean(dim=0))


def test_scores_by_prompt_are_kept_in_files_and_merges(tmp_path):
    model, task = Model.load("truth/induction"), induction(n=5).task
    score = partial(eap, model, metric=logit_diff)
    whole = by_prompt(task, lambda part: score(part))
    torch.testing.assert_close(whole.matrix, score(task).matrix, rtol=1e-5, atol=1e-5)  # float32
    assert whole.by_prompt is not None and whole.completeness is not None
    whole.save(tmp_path / "s.safetensors")
    again = load_scores(tmp_path / "s.safetensors")
    assert again.by_prompt is not None and torch.equal(again.by_prompt, whole.by_prompt)
    parts = [by_prompt(part, lambda part: score(part)) for part in task.split(0.4, seed=0)]
    both = merge(*parts)
    assert both.by_prompt is not None
    torch.testing.assert_close(both.matrix, whole.matrix, rtol=1e-5, atol=1e-5)
    assert {*both.by_prompt[:, 0].tolist()} == {*whole.by_prompt[:, 0].tolist()}


@pytest.mark.parametrize("path", [along_inputs(2), at_both], ids=["inputs", "both"])
def test_prompts_of_a_batch_are_scored_as_each_is_alone(path):
    """In batches of unequal prompts, the last one smaller."""
    model = Model.load("toy", dtype=torch.float64)
    assert model.tokenizer is not None
    task = ioi(model.tokenizer, n=5, seed=0)
    recipe = Recipe(path)
    found = score_each(model, task, logit_diff, recipe, batch_size=3)
    alone = by_prompt(task, lambda part: score(model, part, logit_diff, recipe))
    assert found.by_prompt is not None and alone.by_prompt is not None
    torch.testing.assert_close(found.by_prompt, alone.by_prompt, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(found.completeness, alone.completeness, rtol=1e-9, atol=1e-12)


def test_a_mean_that_is_not_of_its_rows_is_refused():
    rows = torch.ones(3, N, dtype=torch.float64)
    with pytest.raises(ValueError, match="are the mean of those by prompt"):
        Scores(GRAPH.exists.double() * 2, GRAPH, {}, by_prompt=rows)


def test_edges_are_chosen_by_lower_bound():
    """A large mean of one prompt alone loses to a smaller one of all."""
    rows = torch.zeros(8, N, dtype=torch.float64)
    rows[0, 0] = 80.0  # mean 10, of one prompt
    rows[:, 1] = torch.tensor([-3.0, -5.0] * 4)
    rows[:, 2] = torch.tensor([1.0, 2.0] * 4)
    rows[:, 3] = torch.tensor([0.1, -0.1] * 4)
    scores, edge = scores_of(rows), GRAPH.exists.nonzero()
    mask = by_lower_bound(scores, 2, ranking="absolute").mask
    assert [bool(mask[tuple(edge[i])]) for i in range(4)] == [False, True, True, False]
    assert by_lower_bound(scores, N, ranking="absolute").size == N
    assert by_lower_bound(scores, 1, ranking="signed").scores[tuple(edge[2])] == 1.5
    mask = top_n(scores, 2, ranking="absolute").mask
    assert [bool(mask[tuple(edge[i])]) for i in range(4)] == [True, True, False, False]


@pytest.mark.parametrize("ranking", ["absolute", "signed"])
def test_edges_are_chosen_by_how_often_they_are_among_the_best(ranking):
    """The slow twin: the best of every resample, counted."""
    scores = scores_of(torch.from_numpy(drawn(np.random.default_rng(3), 6)) - 0.2)
    best = [top_n(one, 9, ranking=ranking).mask for one in resamples(scores, 100, 0)]
    often = torch.stack(best).sum(dim=0)
    found = by_inclusion(scores, 9, ranking=ranking)
    assert found.size == 9
    assert often[found.mask].min() >= often[~found.mask].max()
    said = found.provenance["selection"]
    assert isinstance(said, dict)
    assert (said["selector"], said["ranking"]) == ("by_inclusion", ranking)


def test_an_edge_that_helps_and_hurts_counts_by_mean_size():
    rows = torch.zeros(4, N, dtype=torch.float64)
    rows[:, 0] = torch.tensor([5.0, -5.0] * 2)  # nothing in the mean
    rows[:, 1] = -2.0
    rows[:, 2] = torch.tensor([1.0, 2.0] * 2)
    scores, edge = scores_of(rows), GRAPH.exists.nonzero()
    mask = by_mean_size(scores, 2, ranking="absolute").mask
    assert [bool(mask[tuple(edge[i])]) for i in range(3)] == [True, True, False]
    mask = top_n(scores, 2, ranking="absolute").mask
    assert [bool(mask[tuple(edge[i])]) for i in range(3)] == [False, True, True]
    with pytest.raises(ValueError, match="sizes have no sign"):
        by_mean_size(scores, 2, ranking="signed")


def test_an_edge_counts_by_its_ends_too():
    """By hand, of sizes 2, 2.1 and 6: sqrt(2 * 8 * 2 / 10.1) is more than sqrt(2.1^3 / 10.1)."""
    small, alone, large = ("embed", "a0.h0.q"), ("a0.h0", "m0"), ("embed", "m1")
    size = torch.zeros(GRAPH.exists.shape, dtype=torch.float64)
    for edge, number in ((small, 2.0), (alone, 2.1), (large, 6.0)):
        size[GRAPH.edge_index(*edge)] = number
    rows = torch.stack([size[GRAPH.exists], -size[GRAPH.exists]])
    best = (by_mean_size, by_smoothed_size)
    chosen = [{*by(scores_of(rows), 2, ranking="absolute").edges} for by in best]
    assert chosen == [{large, alone}, {large, small}]
    assert by_smoothed_size(scores_of(rows * 0), 2, ranking="absolute").size == 2
    with pytest.raises(ValueError, match="by_smoothed_size ranks by absolute"):
        by_smoothed_size(scores_of(rows), 2, ranking="signed")


def test_selection_by_prompts_needs_them():
    bare = Scores(GRAPH.exists.double(), GRAPH, {})
    with pytest.raises(ValueError, match="do not say what each prompt alone scores"):
        by_inclusion(bare, 2, ranking="absolute")
    with pytest.raises(ValueError, match="do not say what each prompt alone scores"):
        next(resamples(bare, 2, 0))


EFFECTS = np.random.default_rng(0).permutation(1 / np.arange(1, N + 1) ** 0.7)


def drawn(rng: np.random.Generator, n: int) -> np.ndarray:
    """Prompts of a world in which effects add up: what each edge carries on each prompt."""
    common = rng.lognormal(0, 0.3, size=(n, 1))
    return EFFECTS * common + 0.4 * rng.standard_normal((n, N)) * EFFECTS**0.5


FEW = agreement([Circuit.full(GRAPH)] * 2)  # not looked at where only numbers are


def searched(rng: np.random.Generator, n: int, m: int, size: int, seed: int) -> Resampled:
    """A circuit found on n prompts and judged on m others, with what every circuit keeps known."""
    rows, judged = drawn(rng, n), torch.from_numpy(drawn(rng, m))
    means = torch.from_numpy(np.concatenate([np.ones((1, n)), counts(n, 60, seed)]) @ rows)
    best = means.abs().topk(size, dim=1).indices
    masks = torch.zeros_like(means).scatter(1, best, 1.0)
    values, clean = masks @ judged.T, judged.sum(dim=1)
    return Resampled(Circuit.full(GRAPH), FEW, values, clean, clean * 0, seed)


def test_intervals_hold_the_truth_as_often_as_they_say():
    """400 searches; 93 to 97 % within two standard errors, 2.2 %. Those of judging alone do not."""
    rng = np.random.default_rng(1)
    share = drawn(rng, 40_000).mean(axis=0)
    share /= share.sum()
    means = [torch.from_numpy(drawn(rng, 20).mean(axis=0)) for _ in range(3000)]
    truth = np.mean(
        [share[mean.abs().argsort(descending=True)[:12].numpy()].sum() for mean in means]
    )
    both, alone = [], []
    for seed in range(400):
        found = searched(rng, 20, 20, 12, seed)
        estimate = found.found_and_judged
        both.append(estimate.low <= truth <= estimate.high)
        if seed < 60:
            alone.append(found.judged.low <= truth <= found.judged.high)
    assert 0.93 - 0.011 <= np.mean(both) <= 0.97 + 0.011
    assert np.mean(alone) < 0.9


def test_a_search_against_itself_and_against_a_worse_one():
    rng = np.random.default_rng(2)
    good = searched(rng, 20, 20, 12, 0)
    same = difference(good, good)
    assert (same.value, same.low, same.high, same.p) == (0, 0, 0, 1)
    worse = Resampled(good.circuit, good.stability, good.values * 0.5, good.clean, good.corrupt, 0)
    found = difference(good, worse)
    assert found.low > 0 and found.p < 0.01
    assert found.value == pytest.approx(good.found_and_judged.value / 2)
    with pytest.raises(ValueError, match="the same prompts, draws and seed"):
        difference(good, searched(rng, 20, 20, 12, 0))


def test_the_whole_model_is_as_sure_as_can_be():
    model, task = Model.load("truth/induction"), induction(n=6).task
    found, held_out = task.split(0.5, seed=0)
    scores = by_prompt(found, lambda part: eap(model, part, logit_diff))
    trial = prepare(model, held_out, logit_diff)
    result = resampled(trial, scores, lambda s: Circuit.full(s.graph), n=3)
    estimate = result.found_and_judged
    assert (estimate.value, estimate.low, estimate.high) == pytest.approx((1, 1, 1), abs=1e-9)
    assert "share 100% of their edges in pairs" in result.sentence
    with pytest.raises(ValueError, match="two resamples or more"):
        resampled(trial, scores, lambda s: Circuit.full(s.graph), n=1)
