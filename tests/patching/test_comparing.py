"""Agreement of estimates with exact effects."""

from dataclasses import replace

import families
import numpy as np
import pandas as pd
import pytest
import torch
import toys

from patching.activation import activation_patching
from patching.attribution import atp_star, attribution_patching
from patching.comparing import agreement_table, compare, similarity, which_to_trust
from patching.grid import Grid
from patching.metrics import logit_diff
from patching.model import Model
from patching.paths import along_inputs
from patching.rules import plain, relp

AXES = {"layer": ("0", "1"), "head": ("h0", "h1", "h2")}


def grid(*rows: list[float]) -> Grid:
    return Grid("effect", torch.tensor([list(rows)], dtype=torch.float64), AXES)


def test_agreement_by_hand():
    exact = grid([1.0, 2.0, 3.0], [0.0, -1.0, 4.0])
    found = compare(exact, grid([2.0, 4.0, 6.0], [5.0, 1.0, 3.0]))
    assert found.layers["0"].pearson == pytest.approx(1)
    assert found.layers["1"].spearman == pytest.approx(0.5)  # ranks (2, 1, 3) and (3, 1, 2)
    # (1, 2, 3, 0, -1, 4) less 1.5 and (2, 4, 6, 5, 1, 3) less 3.5: 7.5 / 17.5
    assert found.pearson == pytest.approx(7.5 / 17.5)
    # ranks (3, 4, 5, 2, 1, 6) and (2, 4, 6, 5, 1, 3): 1 - 6 * (1 + 0 + 1 + 9 + 0 + 9) / 210
    assert found.spearman == pytest.approx(1 - 6 * 20 / 210)
    assert found.same_sign == pytest.approx(4 / 5)  # the effect of 0 has none, -1 is missed
    table = found.to_dataframe()
    assert list(table["layer"]) == ["all", "0", "1"]
    assert list(table["n"]) == [6, 3, 3]


def test_where_nothing_varies_there_is_no_correlation():
    found = compare(grid([0.0] * 3, [0.0] * 3), grid([1.0] * 3, [2.0] * 3))
    assert np.isnan([found.pearson, found.spearman, found.same_sign]).all()


def test_places_that_are_not_numbers_are_left_out():
    found = similarity(np.array([1.0, 2.0, np.nan, 4.0]), np.array([1.0, 2.0, 3.0, np.nan]))
    assert found.n == 2
    assert found.pearson == pytest.approx(1)


def test_on_a_linear_model_estimates_are_exact():
    model, task = toys.linear_model(), toys.task(2)
    scores = attribution_patching(model, task, logit_diff)
    for kind in ("resid_pre", "resid_mid", "attn_out", "mlp_out"):
        exact = activation_patching(model, task, logit_diff, kind)
        torch.testing.assert_close(scores[kind].values, exact.values, atol=1e-9, rtol=0)
    assert compare(exact, scores["mlp_out"]).pearson == pytest.approx(1)


@pytest.mark.parametrize(
    ("kind", "over"),
    [("z", ("layer", "head")), ("z", ("head", "pos")), ("k", ("layer", "pos")), ("q", ("layer",))],
)
def test_maps_of_both_kinds_of_patching_fit_each_other(kind, over):
    model = Model.load(families.module("llama", torch.float64))
    exact = activation_patching(model, families.task(), logit_diff, kind, over)
    scores = attribution_patching(model, families.task(), logit_diff, kinds=[kind])
    found = compare(exact, scores.pick(kind, over))
    assert found.overall.n == exact.mean.numel()
    torch.testing.assert_close(scores[kind].clean, exact.clean)
    torch.testing.assert_close(scores[kind].corrupt, exact.corrupt)
    assert ("layer" in over) == bool(found.layers)


def test_sizes_are_compared_with_sizes(gpt2):
    exact = activation_patching(gpt2, families.task(), logit_diff, "z", ("layer", "head"))
    sizes = atp_star(gpt2, families.task(), logit_diff, kinds=["z"], by_position=False)["z"]
    found = compare(exact, sizes, absolute=True)
    expected = np.corrcoef(exact.mean.abs().flatten(), sizes.mean.flatten())[0, 1]
    assert found.pearson == pytest.approx(expected)


def test_the_scatter_plot_has_a_point_a_place_and_the_line_of_agreement():
    exact = grid([1.0, 2.0, 3.0], [0.0, -1.0, 4.0])
    figure = compare(exact, grid([2.0, 4.0, 6.0], [5.0, 1.0, 3.0])).plot(title="heads")
    axes = figure.axes[0]
    points = axes.collections[0].get_offsets()
    assert points.tolist()[4] == [-1.0, 1.0]
    assert len(points) == 6
    line = axes.lines[0].get_xydata()
    assert np.array_equal(line[:, 0], line[:, 1])
    assert axes.get_title() == "heads"
    single = replace(exact, values=exact.values[:, 0], axes={"head": AXES["head"]})
    assert len(compare(single, single).plot().axes) == 1  # no layers, no colour bar


def test_the_table_has_a_row_a_kind_and_a_column_a_rule(gpt2):
    task = families.task()
    table = agreement_table(gpt2, task, logit_diff, rules=[plain, relp], kinds=["z", "mlp_out"])
    assert table.index.name == "kind"
    assert table.columns.name == "rule"
    assert list(table.columns) == ["plain", "relp"]
    exact = activation_patching(gpt2, task, logit_diff, "mlp_out")
    scores = attribution_patching(gpt2, task, logit_diff, rule=relp)["mlp_out"]
    assert table.loc["mlp_out", "relp"] == pytest.approx(compare(exact, scores).pearson)


def test_the_cheapest_estimate_that_agrees_is_trusted(gpt2):
    task = families.task()
    found = which_to_trust(gpt2, task, logit_diff, kinds=["mlp_out"], steps=4)
    assert list(found.table.columns) == ["plain", "relp", "plain x inputs"]
    exact = activation_patching(gpt2, task, logit_diff, "mlp_out")
    path = along_inputs(4)
    scores = attribution_patching(gpt2, task, logit_diff, direction=path, kinds=["mlp_out"])
    along = compare(exact, scores.pick("mlp_out", over=tuple(exact.axes))).pearson
    assert found.table.loc["mlp_out", "plain x inputs"] == pytest.approx(along)
    assert found.enough == bool((found.table > 0.9).any(axis=None))


@pytest.mark.parametrize(
    ("rows", "recommended", "enough"),
    [
        ([[0.95, 0.99, 1.0], [0.91, 0.9, 1.0]], "plain", True),
        ([[0.5, 0.99, 1.0], [0.91, 0.9, 1.0]], "relp", True),
        ([[0.99, 0.63, 0.98], [0.01, 0.5, 0.99]], "plain x inputs", True),
        ([[0.1, 0.8, 0.7], [0.2, 0.8, 0.9], [np.nan] * 3], "relp", False),
    ],
)
def test_trust_is_by_the_least_agreement_of_all_kinds(rows, recommended, enough, monkeypatch, gpt2):
    table = pd.DataFrame(rows, columns=["plain", "relp", "plain x inputs"])
    monkeypatch.setattr("patching.comparing.agreement_table", lambda *_, **__: table)
    found = which_to_trust(gpt2, families.task(), logit_diff)
    assert (found.recommended, found.enough) == (recommended, enough)
    said = f"Trust {recommended}: " if enough else f"{recommended} is nearest. Patch exactly."
    assert said in found.sentence
    table[:] = np.nan
    with pytest.raises(ValueError, match="no place has another effect than the others"):
        which_to_trust(gpt2, families.task(), logit_diff)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"task": families.ragged_task((9, 6))}, r"prompts of 6, 9 tokens.*`task.of_length\(\)`"),
        ({"rules": []}, "got no rules"),
        ({"rules": [plain, plain]}, "a rule is named twice: plain, plain"),
    ],
)
def test_tables_that_mean_nothing_are_refused(gpt2, changes, said):
    options = {"task": families.task(), "metric": logit_diff, **changes}
    with pytest.raises(ValueError, match=said):
        agreement_table(gpt2, **options)


def about(**facts: str) -> Grid:
    return replace(grid([1.0, 2.0, 3.0], [4.0, 5.0, 6.0]), provenance=facts)


@pytest.mark.parametrize(
    ("other", "said"),
    [
        (Grid("x", torch.zeros(1, 2), {"layer": ("0", "1")}), "over layer, head and over layer"),
        (replace(about(), axes={**AXES, "head": tuple("abc")}), "the axis 'head' has 3 labels"),
        (about(tokens="b"), "not of the same thing: their tokens are a and b"),
    ],
)
def test_maps_that_cannot_be_compared_are_refused(other, said):
    with pytest.raises(ValueError, match=said):
        compare(about(tokens="a"), other)
