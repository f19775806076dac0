"""Bootstrap over examples against what is known of means, and ensembles by hand."""

from dataclasses import replace

import families
import numpy as np
import pytest
import torch

from circuits.judging.uncertainty import ensemble, uncertainty
from circuits.scores import Scores
from circuits.scoring import eap, eap_ig
from circuits.select import top_n
from patching import memory
from patching.graph import Graph
from patching.metrics import logit_diff
from patching.model import Model
from patching.tasks import Prompt, Task

GRAPH = Graph(n_layers=1, n_heads=1, n_kv_heads=1)


def numbered(n):
    """A task whose i-th prompt begins with the token i."""
    return Task("numbered", tuple(Prompt((i, 1), (i, 2), (3,), (4,)) for i in range(n)))


def simulated(values):
    """A scorer that gives the i-th prompt the i-th row of values, one column per edge."""

    def score(task):
        rows = values[[prompt.clean[0] for prompt in task.prompts]]
        matrix = torch.zeros(GRAPH.exists.shape, dtype=torch.float64)
        matrix[GRAPH.exists] = torch.from_numpy(rows.mean(axis=0))
        return Scores(matrix, GRAPH, {"method": "simulated", "n_examples": len(task)})

    return score


def normal(n, *, seed=0):
    """Edge e has mean e and standard deviation 1 + e, over the examples."""
    edges = np.arange(GRAPH.n_edges)
    noise = np.random.default_rng(seed).normal(size=(n, GRAPH.n_edges))
    return edges + (1 + edges) * noise


def bootstrap(values, **options):
    options = {"size": 2, "ranking": "absolute", "n_resamples": 2000, **options}
    return uncertainty(numbered(len(values)), simulated(values), **options)


def test_the_standard_error_is_that_of_a_mean():
    values = normal(400)
    found = bootstrap(values).standard_error[GRAPH.exists].numpy()
    expected = values.std(axis=0) / np.sqrt(400)
    # 2000 resamples know a standard deviation to 1 / sqrt(4000) = 1.6 %; that Poisson totals are
    # not always 400 adds less than 1 / 400. Five standard deviations.
    assert np.abs(found / expected - 1).max() < 0.08


def test_the_mean_is_that_of_all_examples():
    values = normal(50)
    found = bootstrap(values).mean[GRAPH.exists].numpy()
    np.testing.assert_allclose(found, values.mean(axis=0), rtol=1e-12)


def test_sign_stability_is_what_the_normal_distribution_says():
    values = normal(400)
    values += 0.5 - values.mean(axis=0)  # mean 0.5, standard errors from 0.05 to 0.4
    found = bootstrap(values).sign_stability[GRAPH.exists].numpy()
    z = 0.5 / (values.std(axis=0) / np.sqrt(400))
    expected = torch.special.ndtr(torch.from_numpy(z)).numpy()
    # a share of 2000 has a standard deviation of at most 1.1 %; the rest is the skew left by 400
    np.testing.assert_allclose(found, expected, atol=0.05)
    assert found.min() < 0.95 < found.max()


def test_inclusion_is_a_coin_toss_between_equals_and_sure_for_the_best():
    rng = np.random.default_rng(1)
    values = np.zeros((300, GRAPH.n_edges))
    values[:, 0] = 5
    values[:, 1:3] = rng.normal(size=(300, 2))
    values[:, 1:3] += 1 - values[:, 1:3].mean(axis=0)
    result = bootstrap(values)
    inclusion = result.inclusion[GRAPH.exists]
    assert float(inclusion[0]) == 1
    # of two independent edges of equal mean the first wins half the time: 5 of 1.1 %, and skew
    assert float(inclusion[1]) == pytest.approx(0.5, abs=0.08)
    assert float(inclusion.sum()) == pytest.approx(2)  # two places in each resample
    assert result.stable(1.0).size == 1
    assert result.stable(0.3).size == 3
    stable = result.stable(0.3)
    assert stable.provenance["selection"]["among_best"] == 2
    assert torch.equal(stable.scores, result.mean.where(stable.mask, 0.0))


def test_a_signed_ranking_leaves_strong_negative_edges_out():
    values = np.zeros((10, GRAPH.n_edges))
    values[:, 0], values[:, 1] = -9, 1
    absolute = bootstrap(values, size=1).stable(1.0).edges
    signed = bootstrap(values, size=1, ranking="signed").stable(1.0).edges
    edges = GRAPH.exists.nonzero().tolist()
    names = [(GRAPH.sources[s].name, GRAPH.destinations[d].name) for s, d in edges[:2]]
    assert (absolute, signed) == (names[:1], names[1:])


def test_examples_that_agree_leave_no_doubt_and_ties_go_the_way_of_top_n():
    values = np.ones((5, GRAPH.n_edges)) * [1, 1, 1, -2, 0, 0, 1, 1]
    result = bootstrap(values, n_resamples=50, size=3)
    assert float(result.standard_error.max()) < 1e-12
    assert result.sign_stability[GRAPH.exists].min() == 1
    assert result.stable(1.0) == top_n(result.scores, 3, ranking="absolute")


def test_two_examples_are_enough_and_no_resample_is_empty():
    result = bootstrap(normal(2))
    assert bool(result.standard_error.isfinite().all())


def test_the_seed_decides():
    values = normal(20)
    first, again, other = (bootstrap(values, seed=seed, n_resamples=50) for seed in (0, 0, 1))
    assert torch.equal(first.standard_error, again.standard_error)
    assert not torch.equal(first.standard_error, other.standard_error)
    with memory.budget(1) as ledger:
        tiled = bootstrap(values, n_resamples=50)
    assert ledger.largest_tile == 1  # edge
    torch.testing.assert_close(tiled.standard_error, first.standard_error, atol=1e-14, rtol=0)
    assert torch.equal(tiled.sign_stability, first.sign_stability)


@pytest.mark.parametrize("scorer", [eap, eap_ig])
def test_the_mean_of_single_examples_is_the_scorers_own_result(scorer):
    model, task = Model.load(families.module("gpt2", torch.float64)), families.task(4)
    whole = scorer(model, task, logit_diff)
    result = uncertainty(
        task,
        lambda part: scorer(model, part, logit_diff),
        size=10,
        ranking="absolute",
        n_resamples=20,
    )
    error = (result.mean - whole.matrix).abs().max() / whole.matrix.abs().max()
    assert error < 1e-12
    torch.testing.assert_close(result.scores.completeness, whole.completeness)
    said = result.scores.provenance
    assert (said["tokens"], said["n_examples"]) == (task.hash, 4)
    assert said["bootstrap"] == {"n_resamples": 20, "seed": 0, "weights": "Poisson(1)"}
    assert (result.standard_error[~model.graph.exists] == 0).all()


def test_the_table_has_one_row_per_edge():
    frame = bootstrap(normal(5), n_resamples=10).to_dataframe()
    columns = ["source", "dest", "score", "standard_error", "sign_stability", "inclusion"]
    assert list(frame.columns) == columns
    assert len(frame) == GRAPH.n_edges


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_resamples": 1}, "a standard error needs two resamples or more, got 1"),
        ({"size": 0}, "cannot count the best 0 edges; this graph has 8, 1 is the least"),
        ({"size": 9}, "cannot count the best 9 edges; this graph has 8"),
    ],
)
def test_what_a_bootstrap_refuses(options, message):
    with pytest.raises(ValueError, match=message):
        bootstrap(normal(3), **options)


def test_one_example_has_no_spread():
    with pytest.raises(ValueError, match="needs two prompts or more, got 1"):
        bootstrap(normal(1))


@pytest.mark.parametrize("share", [0, 1.01])
def test_stable_edges_are_held_by_a_share(share):
    with pytest.raises(ValueError, match=f"above 0 and at most 1, got {share}"):
        bootstrap(normal(3), n_resamples=5).stable(share)


def scores(*values, **provenance):
    matrix = torch.zeros(GRAPH.exists.shape, dtype=torch.float64)
    matrix[GRAPH.exists] = torch.tensor(values, dtype=torch.float64)
    return Scores(matrix, GRAPH, provenance)


def test_members_of_an_ensemble_count_alike_whatever_their_scale():
    # root mean squares 1 (of eight numbers: 4 + 4) and 300
    small = scores(2, -2, 0, 0, 0, 0, 0, 0, method="a", weights="w", metric="m")
    large = scores(600, 0, 0, 0, 0, 0, 0, 600, method="b", weights="w", metric="n")
    mean = ensemble([small, large])
    assert mean.matrix[GRAPH.exists].tolist() == [2, -1, 0, 0, 0, 0, 0, 1]
    assert mean.provenance["weights"] == "w"
    assert "metric" not in mean.provenance  # the members do not agree on it
    assert mean.provenance["method"] == "ensemble"
    assert mean.provenance["members"] == [dict(small.provenance), dict(large.provenance)]


def test_an_ensemble_of_one_method_ranks_like_that_method():
    one = scores(3, -1, 4, 1, -5, 9, 2, 6)
    mean = ensemble([one, replace(one, matrix=one.matrix * 7)])
    assert top_n(mean, 4, ranking="absolute") == top_n(one, 4, ranking="absolute")


def test_what_an_ensemble_refuses():
    one = scores(*range(8))
    with pytest.raises(ValueError, match="two members or more, got 1"):
        ensemble([one])
    with pytest.raises(ValueError, match="member 1 scores every edge 0"):
        ensemble([one, scores(*[0] * 8)])
    graph = Graph(2, 1, 1)
    other = Scores(graph.exists.double(), graph, {})
    with pytest.raises(ValueError, match="member 1 is of another graph"):
        ensemble([one, other])
