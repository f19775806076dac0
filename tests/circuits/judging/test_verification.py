"""Verification: the sample, the weighted statistics against slow twins, and whole agreement."""

import families
import matplotlib
import numpy as np
import pytest
import torch
import toys
from scipy import stats

from circuits.judging import verification as module
from circuits.judging.verification import (
    plot_verification,
    sample,
    verify,
    weighted_pearson,
    weighted_spearman,
)
from circuits.scores import Scores
from circuits.scoring import eap
from circuits.scoring.single_edges import exact
from patching.ablations import zero
from patching.graph import Graph
from patching.metrics import logit_diff, prob_diff
from patching.model import Model

GPT2_SMALL = Graph(12, 12, 12)


@pytest.fixture(scope="module")
def model():
    return families.load("gpt2", torch.float64)


@pytest.fixture(scope="module")
def scores(model):
    return eap(model, families.task(), logit_diff)


@pytest.fixture(scope="module")
def verified(model, scores):
    return verify(model, families.task(), logit_diff, scores, k=60)


def descending(graph):
    """Scores that fall in row-major order, so that an edge's rank is its place."""
    matrix = torch.zeros(graph.exists.shape, dtype=torch.float64)
    matrix[graph.exists] = torch.arange(graph.n_edges, 0, -1).double()
    return Scores(matrix, graph, {})


def test_strata_are_thirds_of_the_log_rank_and_each_gives_what_it_can():
    scores = descending(GPT2_SMALL)
    drawn = sample(scores, 200, seed=0)
    ranks = GPT2_SMALL.n_edges + 1 - scores.matrix.flatten()[drawn.edges]
    counts = [drawn.stratum.count(name) for name in module.STRATA]
    assert counts == [32, 84, 84]  # 32 is all that the top has
    limits = [(1, 32), (33, 1018), (1019, 32491)]
    for name, (first, last) in zip(module.STRATA, limits, strict=True):
        own = ranks[[stratum == name for stratum in drawn.stratum]]
        assert first <= own.min() and own.max() <= last
    assert len(set(drawn.edges.tolist())) == 200
    assert ranks.tolist() == sorted(ranks.tolist())  # strongest first


def test_weights_say_how_many_edges_each_stands_for():
    drawn = sample(descending(GPT2_SMALL), 200, seed=0)
    assert float(drawn.weight.sum()) == pytest.approx(32491)
    assert drawn.weight[:32].tolist() == [1] * 32
    assert float(drawn.weight[32]) == pytest.approx(986 / 84)


def test_a_sample_as_large_as_the_graph_is_the_graph():
    graph = Graph(2, 3, 3)
    drawn = sample(descending(graph), graph.n_edges, seed=0)
    assert sorted(drawn.edges.tolist()) == graph.exists.flatten().nonzero().flatten().tolist()
    assert set(drawn.weight.tolist()) == {1.0}


def test_the_seed_decides_which_edges():
    first, again, other = (sample(descending(GPT2_SMALL), 50, seed=s).edges for s in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_weighted_statistics_are_the_plain_ones_of_repeated_values():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, 30)).round(1)  # rounded: ties
    weight = rng.integers(1, 5, size=30)
    many = x.repeat(weight), y.repeat(weight)
    pearson, spearman = stats.pearsonr(*many)[0], stats.spearmanr(*many)[0]
    assert float(weighted_pearson(x, y, weight * 1.0)) == pytest.approx(pearson, abs=1e-12)
    assert float(weighted_spearman(x, y, weight * 1.0)) == pytest.approx(spearman, abs=1e-12)


def test_weighted_statistics_take_many_draws_at_once():
    rng = np.random.default_rng(0)
    x, y, weight = rng.normal(size=(3, 4, 20))
    weight = np.abs(weight)
    for statistic in (weighted_pearson, weighted_spearman):
        alone = [statistic(x[i], y[i], weight[i]) for i in range(4)]
        np.testing.assert_allclose(statistic(x, y, weight), alone, atol=1e-12)


def test_weighted_correlations_of_a_sample_are_near_those_of_all_edges(model, scores):
    task, exists = families.task(), model.graph.exists
    true = exact(model, task, logit_diff)
    pair = scores.matrix[exists], true.matrix[exists]
    everything = stats.pearsonr(*pair)[0], stats.spearmanr(*pair)[0]
    whole = verify(model, task, logit_diff, scores, k=model.graph.n_edges)
    assert whole.pearson.value == pytest.approx(everything[0], abs=1e-9)
    assert whole.spearman.value == pytest.approx(everything[1], abs=1e-9)
    part = verify(model, task, logit_diff, scores, k=90)
    for estimate, value in zip((part.pearson, part.spearman), everything, strict=True):
        # the interval is wide enough for the truth to lie at most its own width outside
        width = estimate.high - estimate.low
        assert estimate.low - width < value < estimate.high + width


def test_on_a_linear_model_first_order_scores_agree_wholly():
    model, task = toys.linear_model(), toys.task(2)
    result = verify(model, task, logit_diff, eap(model, task, logit_diff), k=13)
    torch.testing.assert_close(result.score, result.exact, atol=1e-9, rtol=0)
    assert result.pearson.value == pytest.approx(1)
    assert result.sign_agreement == module.Estimate(1.0, 1.0, 1.0)
    found = dict(zip(result.edges, result.exact.tolist(), strict=True))
    for edge, expected in toys.SCORES.items():
        assert found[edge] == pytest.approx(expected, abs=1e-9)


def test_intervals_hold_their_values_and_exact_scores_are_those_of_the_edges(model, verified):
    for estimate in (verified.pearson, verified.spearman, verified.sign_agreement):
        assert -1 <= estimate.low <= estimate.value <= estimate.high <= 1
    alone = exact(model, families.task(), logit_diff, edges=verified.edges[:3])
    values = [alone.of(*edge) for edge in verified.edges[:3]]
    expected = torch.tensor(values, dtype=torch.float64)
    torch.testing.assert_close(verified.exact[:3], expected, atol=1e-9, rtol=0)


def test_opposite_scores_agree_only_where_there_is_nothing():
    model, task = toys.linear_model(), toys.task()
    scores = eap(model, task, logit_diff)
    opposite = Scores(-scores.matrix, scores.graph, scores.provenance)
    result = verify(model, task, logit_diff, opposite, k=13)
    assert result.pearson.value == pytest.approx(-1)
    # of the model's 13 edges 6 have a score, the others are 0 in both
    assert result.sign_agreement.value == pytest.approx(7 / 13)
    strata = result.summary().splitlines()[-3:]
    assert [line.rsplit(maxsplit=1)[1] for line in strata] == ["0%", "0%", "100%"]


def test_constant_scores_have_no_correlation(model):
    constant = Scores(model.graph.exists.double(), model.graph, {})
    result = verify(model, families.task(), logit_diff, constant, k=12)
    assert np.isnan(result.pearson.value)
    assert np.isnan(result.spearman.low)


def test_the_table_and_the_summary_say_it_all(verified):
    frame = verified.to_dataframe()
    assert list(frame.columns) == ["edge", "score", "exact", "stratum", "weight"]
    assert len(frame) == 60
    assert frame["edge"][0] == "->".join(verified.edges[0])
    text = verified.summary()
    assert text.startswith("eap against exact scores of 60 edges (5 top, 18 middle, 37 bottom)")
    assert f"Pearson        {verified.pearson.value:6.3f}" in text
    assert "signs agree in the bottom stratum: " in text


def test_the_picture_has_one_dot_per_edge_and_the_line_of_equality(verified):
    before = dict(matplotlib.rcParams)
    figure = plot_verification(verified, title="the title")
    figure.draw_without_rendering()
    assert dict(matplotlib.rcParams) == before
    (axes,) = figure.axes
    dots = np.concatenate([dots.get_offsets() for dots in axes.collections])
    expected = np.stack([verified.score.numpy(), verified.exact.numpy()], axis=1)
    assert sorted(dots.tolist()) == sorted(expected.tolist())
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert "equal" in labels and "top: 5 edges" in labels
    assert axes.get_title() == "the title"


class TestRefusals:
    def test_too_few_edges(self, model, scores):
        with pytest.raises(ValueError, match="cannot verify on 2 edges; 3 is the least"):
            verify(model, families.task(), logit_diff, scores, k=2)

    def test_another_graph(self, model):
        with pytest.raises(ValueError, match="these scores are of another graph"):
            verify(model, families.task(), logit_diff, descending(GPT2_SMALL))

    def test_another_metric(self, model, scores):
        with pytest.raises(ValueError, match=r"another metric \(logit-diff\).*\(prob-diff\)"):
            verify(model, families.task(), prob_diff, scores)

    def test_another_ablation(self, model, scores):
        with pytest.raises(ValueError, match=r"another ablation \(resample.*\(zero\)"):
            verify(model, families.task(), logit_diff, scores, ablation=zero)

    def test_other_weights(self, scores):
        other = Model.load(families.module("gpt2", torch.float64, seed=1))
        with pytest.raises(ValueError, match="another weights"):
            verify(other, families.task(), logit_diff, scores)
