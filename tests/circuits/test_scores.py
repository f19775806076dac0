import json
import math
import struct
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import cast

import pytest
import torch
from jaxtyping import config
from safetensors.torch import save as to_safetensors

from circuits.cautions import DOUBTFUL
from circuits.cli import main
from circuits.scores import MUST_AGREE, Ranking, Scores, load_scores, merge, rank
from circuits.scoring import eap, eap_ig
from circuits.select import top_n
from patching.graph import Graph
from patching.metrics import logit_diff
from patching.model import Model
from patching.models import TOY_GENERATORS

GRAPHS = [Graph(1, 1, 1), Graph(2, 2, 2), Graph(2, 4, 2), Graph(3, 2, 1, parallel=True)]
SMALL = Graph(n_layers=1, n_heads=1, n_kv_heads=1)
# sources embed a0.h0 m0; destinations a0.h0.q a0.h0.k a0.h0.v m0 logits
BY_HAND = torch.tensor(
    [[1.0, -3.0, 0.0, 2.0, -2.0], [0, 0, 0, 2.0, 0.5], [0, 0, 0, 0, -0.25]], dtype=torch.float64
)


def made_with(**changes: object) -> dict[str, object]:
    provenance: dict[str, object] = {field: f"the {field}" for field in MUST_AGREE}
    return {**provenance, "n_examples": 10, **changes}


def random_scores(
    graph: Graph, seed: int = 0, changes: Mapping[str, object] | None = None
) -> Scores:
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(graph.exists.shape, generator=generator, dtype=torch.float64)
    delta = torch.randn(4, generator=generator, dtype=torch.float64)
    return Scores(noise * graph.exists, graph, made_with(**changes or {}), delta)


@pytest.fixture
def without_type_checks() -> Iterator[None]:
    """What a user sees: shape and type checks run in tests only."""
    config.update("jaxtyping_disable", True)
    yield
    config.update("jaxtyping_disable", False)


def names(scores: Scores, flat: torch.Tensor) -> list[str]:
    width = scores.matrix.shape[1]
    graph = scores.graph
    return [
        f"{graph.sources[i // width].name}->{graph.destinations[i % width].name}"
        for i in flat.tolist()
    ]


def test_scores_are_looked_up_by_name():
    scores = Scores(BY_HAND, SMALL, {})
    assert scores.of("embed", "a0.h0.k") == -3
    assert scores.of("m0", "logits") == -0.25
    with pytest.raises(ValueError, match="no edge m0->a0.h0.q"):
        scores.of("m0", "a0.h0.q")


def test_ranking_by_hand_breaks_ties_in_row_major_order():
    scores = Scores(BY_HAND, SMALL, {})
    assert names(scores, rank(scores, "absolute")) == [
        "embed->a0.h0.k",
        "embed->m0",
        "embed->logits",
        "a0.h0->m0",
        "embed->a0.h0.q",
        "a0.h0->logits",
        "m0->logits",
        "embed->a0.h0.v",
    ]
    assert names(scores, rank(scores, "signed")) == [
        "embed->m0",
        "a0.h0->m0",
        "embed->a0.h0.q",
        "a0.h0->logits",
        "embed->a0.h0.v",
        "m0->logits",
        "embed->logits",
        "embed->a0.h0.k",
    ]


@pytest.mark.parametrize("graph", GRAPHS)
@pytest.mark.parametrize("ranking", ["absolute", "signed"])
def test_ranking_lists_every_edge_once_and_agrees_with_sorting_by_hand(graph, ranking):
    scores = random_scores(graph)
    flat = scores.matrix.flatten().tolist()
    edges = [i for i, exists in enumerate(graph.exists.flatten().tolist()) if exists]
    best = sorted(edges, key=lambda i: -(abs(flat[i]) if ranking == "absolute" else flat[i]))
    assert rank(scores, ranking).tolist() == best


def test_top_lists_the_best_edges_with_their_scores():
    scores = Scores(BY_HAND, SMALL, {})
    assert scores.top(2, ranking="absolute") == [("embed", "a0.h0.k", -3.0), ("embed", "m0", 2.0)]
    assert scores.top(0, ranking="signed") == []
    assert len(scores.top(1000, ranking="signed")) == SMALL.n_edges


def test_impossible_requests_are_refused(without_type_checks):
    scores = Scores(BY_HAND, SMALL, {})
    with pytest.raises(ValueError, match="cannot list -1 edges; k is 0 or more"):
        scores.top(-1, ranking="signed")
    with pytest.raises(ValueError, match="no ranking named 'size'; it is 'absolute' or 'signed'"):
        rank(scores, cast(Ranking, "size"))


def test_node_scores_sum_over_outgoing_edges():
    assert Scores(BY_HAND, SMALL, {}).node_scores().tolist() == [-2.0, 2.5, -0.25]


def test_the_table_has_one_row_per_edge():
    table = Scores(BY_HAND, SMALL, {}).to_dataframe()
    assert list(table.columns) == ["source", "dest", "score"]
    assert table.values.tolist()[1] == ["embed", "a0.h0.k", -3.0]
    assert len(table) == SMALL.n_edges
    assert table.score.dtype == "float64"


def test_a_matrix_of_the_wrong_shape_is_refused():
    with pytest.raises(ValueError, match=r"have the shape \(3, 5\) .*got \(3, 4\)"):
        Scores(BY_HAND[:, :4], SMALL, {})


def test_a_matrix_of_the_wrong_dtype_is_refused():
    with pytest.raises(ValueError, match="scores are float64 on the CPU, got torch.float32 on cpu"):
        Scores(BY_HAND.float(), SMALL, {})


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_scores_that_are_not_finite_are_refused_by_name(value):
    matrix = BY_HAND.clone()
    matrix[0, 1] = matrix[1, 4] = value
    with pytest.raises(
        ValueError, match="2 edges .*first embed->a0.h0.k, a0.h0->logits; .*weights or the metric"
    ):
        Scores(matrix, SMALL, {})


def test_a_score_where_no_edge_is_is_refused():
    matrix = BY_HAND.clone()
    matrix[2, 0] = 0.5
    with pytest.raises(ValueError, match="no edge m0->a0.h0.q, yet it has the score 0.5"):
        Scores(matrix, SMALL, {})


@pytest.mark.parametrize("graph", GRAPHS)
def test_saving_and_loading_gives_the_same_scores(graph, tmp_path):
    scores = random_scores(graph, changes={"note": "größer ≥", "nested": {"list": [1, 2.5, None]}})
    scores.save(tmp_path / "new folder" / "scores.safetensors")
    loaded = load_scores(tmp_path / "new folder" / "scores.safetensors")
    assert torch.equal(loaded.matrix, scores.matrix)
    assert loaded.completeness is not None and scores.completeness is not None
    assert torch.equal(loaded.completeness, scores.completeness)
    assert loaded.graph == graph
    assert loaded.provenance == scores.provenance


def test_scores_without_completeness_stay_so(tmp_path):
    Scores(BY_HAND, SMALL, {}).save(tmp_path / "s.safetensors")
    assert load_scores(tmp_path / "s.safetensors").completeness is None


def test_equal_scores_make_equal_files(tmp_path):
    for name in "ab":
        random_scores(SMALL).save(tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_file_cut_short_anywhere_is_refused(tmp_path):
    path = tmp_path / "s.safetensors"
    random_scores(SMALL).save(path)
    whole = path.read_bytes()
    for length in range(0, len(whole), 37):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match="s.safetensors is not a whole safetensors file"):
            load_scores(path)


def test_another_kind_of_file_is_refused(tmp_path):
    path = tmp_path / "s.safetensors"
    path.write_text("source,dest,score\n" * 20)
    with pytest.raises(ValueError, match="not a whole safetensors file"):
        load_scores(path)


def test_a_safetensors_file_of_something_else_is_refused(tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(to_safetensors({"weight": torch.zeros(2)}))
    with pytest.raises(ValueError, match="is no file of scores: it lacks version, .*, exists"):
        load_scores(path)


def test_every_altered_tensor_is_noticed(tmp_path):
    path = tmp_path / "s.safetensors"
    random_scores(SMALL).save(path)
    whole = path.read_bytes()
    (header,) = struct.unpack("<Q", whole[:8])
    for place in range(8 + header, len(whole), 7):
        altered = bytearray(whole)
        altered[place] ^= 1
        path.write_bytes(bytes(altered))
        with pytest.raises(ValueError, match="was altered after it was written"):
            load_scores(path)


@pytest.mark.parametrize(
    ("old", "new"), [(b"the metric", b"my  metric"), (b"m0", b"m9"), (b"n_layers", b"n_lawyer")]
)
def test_altered_metadata_are_noticed(old, new, tmp_path):
    path = tmp_path / "s.safetensors"
    random_scores(SMALL).save(path)
    whole = path.read_bytes()
    assert old in whole
    path.write_bytes(whole.replace(old, new))
    with pytest.raises(ValueError, match="was altered after it was written"):
        load_scores(path)


def test_a_later_version_of_the_format_is_refused(tmp_path):
    path = tmp_path / "s.safetensors"
    random_scores(SMALL).save(path)
    path.write_bytes(path.read_bytes().replace(b'"version":"1"', b'"version":"3"'))
    with pytest.raises(ValueError, match="has version '3' .* reads versions 1 and 2"):
        load_scores(path)


def test_provenance_that_is_not_json_is_refused(tmp_path):
    for value in (torch.zeros(1), math.nan):
        with pytest.raises(ValueError, match="the provenance does not fit into JSON"):
            Scores(BY_HAND, SMALL, {"seed": value}).save(tmp_path / "s.safetensors")
    assert list(tmp_path.iterdir()) == []


def test_merging_weighs_by_examples():
    a = Scores(BY_HAND, SMALL, made_with(n_examples=3))
    b = Scores(BY_HAND * 5, SMALL, made_with(n_examples=1))
    merged = merge(a, b)
    torch.testing.assert_close(merged.matrix, BY_HAND * 2, rtol=0, atol=0)
    assert merged.provenance["n_examples"] == 4
    assert merged.completeness is None


def test_merging_three_results_does_not_depend_on_the_order():
    a, b, c = (random_scores(GRAPHS[2], seed, {"n_examples": seed + 1}) for seed in range(3))
    left, right = merge(merge(a, b), c), merge(a, merge(b, c))
    # sums of three float64 numbers of size 1: a few roundings
    torch.testing.assert_close(left.matrix, right.matrix, rtol=0, atol=1e-14)
    assert left.provenance == right.provenance
    assert left.provenance["merged_from"] == [a.provenance, b.provenance, c.provenance]
    assert left.completeness is not None and left.completeness.shape == (12,)


@pytest.mark.parametrize("field", MUST_AGREE)
def test_merging_refuses_results_made_differently(field):
    a, b = random_scores(SMALL), random_scores(SMALL, changes={field: "another"})
    with pytest.raises(ValueError, match=f'differ in {field}: "the {field}" and "another"'):
        merge(a, b)
    silent = Scores(BY_HAND, SMALL, {k: v for k, v in made_with().items() if k != field})
    with pytest.raises(ValueError, match=f"provenance does not state '{field}'"):
        merge(a, silent)


def test_merging_refuses_different_graphs():
    with pytest.raises(ValueError, match="differ in graph: 1 sequential .* and 2 sequential"):
        merge(random_scores(SMALL), random_scores(GRAPHS[1]))


@pytest.mark.parametrize("n", [None, 0, "ten"])
def test_merging_refuses_results_without_a_number_of_examples(n):
    with pytest.raises(ValueError, match="provenance.'n_examples'. is .*, a positive whole number"):
        merge(random_scores(SMALL), random_scores(SMALL, changes={"n_examples": n}))


def test_options_agree_after_a_trip_through_a_file(tmp_path):
    a = random_scores(SMALL, changes={"options": {"steps": 5, "layers": (1, 2)}})
    a.save(tmp_path / "a")
    assert json.dumps(merge(a, load_scores(tmp_path / "a")).provenance)


# What the scores add up to.


def of_sum(total: float, gap: float) -> Scores:
    """Scores whose embedding's edges sum to `total`, where the gap is another."""
    matrix = torch.zeros(SMALL.exists.shape, dtype=torch.float64)
    matrix[0, -1] = total
    return Scores(matrix, SMALL, {}, torch.tensor([total - gap - 1, total - gap + 1]).double())


@pytest.mark.parametrize(
    ("total", "gap", "error"),
    [(3.0, 2.0, 0.5), (-6.0, 3.0, 3.0), (0, 4, 1), (-1, 4, 1.25), (7.0, -2.0, 4.5)],
)
def test_the_completeness_error_is_a_share_of_the_gap(total, gap, error):
    scores = of_sum(total, gap)
    assert scores.completeness_error == error
    assert (scores.caution is None) == (error <= DOUBTFUL)


@pytest.mark.parametrize(("total", "said"), [(0.5, False), (0.2, True)])
def test_a_choice_by_sign_is_cautioned_before_the_scores_are(total, said):
    """They are off by half of the gap, and by .8; absolute values are chosen without a word."""
    scores = of_sum(total, 1.0)
    assert scores.caution is None
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        top_n(scores, 1, ranking="absolute")
        assert not heard
        top_n(scores, 1, ranking="signed")
    assert [str(one.message) for one in heard] == [scores.signs_caution] * said
    assert not said or "a choice by sign leaves them out" in str(heard[0].message)


def test_without_a_delta_or_a_gap_nothing_is_shared():
    assert replace(of_sum(1, 2), completeness=None).completeness_error is None
    assert replace(of_sum(1, 2), completeness=None).caution is None
    assert of_sum(1, 0).completeness_error == float("inf")


def test_what_does_not_add_up_is_said_once_and_kept(tmp_path):
    toy = Model.load("toy-llama")
    task = TOY_GENERATORS["ioi"](toy.tokenizer, 8, 0)
    with pytest.warns(UserWarning, match="add up to .* where the metric's gap is") as said:
        scores = eap(toy, task, logit_diff)
    assert len(said) == 1
    error = scores.provenance["completeness_error"]
    assert error == pytest.approx(scores.completeness_error, rel=1e-2)
    scores.save(tmp_path / "scores.safetensors")
    assert load_scores(tmp_path / "scores.safetensors").caution == scores.caution is not None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert eap_ig(toy, task, logit_diff, steps=5).caution is None


def test_the_shell_says_it_where_scores_are_made_and_shown(tmp_path, capsys):
    path = str(tmp_path / "scores.safetensors")
    made = ["score", "--model", "toy-llama", "--task", "ioi", "--n", "8", "--out", path]
    assert main([*made, "--method", "eap"]) == 0
    assert "warning: the scores of all edges out of the embedding add up" in capsys.readouterr().err
    assert main(["show", path]) == 0
    shown = capsys.readouterr().out
    assert "caution: the scores of all edges" in shown
    assert "completeness_error" in shown
    assert main([*made, "--method", "eap-ig", "--steps", "5", "--overwrite"]) == 0
    assert "add up" not in capsys.readouterr().err
