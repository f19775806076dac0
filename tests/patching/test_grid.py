"""Grids: values per example over named axes."""

import numpy as np
import pytest
import torch

from patching.figures import heat_map, token_labels
from patching.grid import Grid


def grid(n: int = 4) -> Grid:
    values = torch.arange(n * 6, dtype=torch.float64).reshape(n, 2, 3) - 8
    return Grid("effect", values, {"layer": ("0", "1"), "head": ("a", "b", "c")})


def test_mean_and_places_agree():
    assert grid().mean[1, 2] == grid().at(layer="1", head="c")


def test_top_is_by_absolute_mean_and_skips_what_is_undefined():
    values = torch.tensor([[1.0, -3.0, torch.nan, 2.0]])
    found = Grid("effect", values, {"head": tuple("abcd")}).top(10)
    assert found == [(("b",), -3.0), (("d",), 2.0), (("a",), 1.0)]


def test_a_table_has_one_row_a_place_with_an_interval_around_its_mean():
    table = grid().to_dataframe(n=200)
    assert list(table.columns) == ["layer", "head", "mean", "low", "high"]
    assert len(table) == 6
    assert ((table["low"] < table["mean"]) & (table["mean"] < table["high"])).all()


def test_one_example_has_no_interval():
    assert np.isnan(grid(1).interval()[0]).all()


def test_select_takes_one_label_of_an_axis():
    part = grid().select(layer="1")
    assert list(part.axes) == ["head"]
    assert torch.equal(part.values, grid().values[:, 1])


def test_colours_are_centred_on_zero_and_rows_rise():
    axes = {"a": ("0",), "b": ("0", "1")}
    signed = Grid("effect", torch.tensor([[[-1.0, 0.5]]]), axes)
    image = signed.plot().axes[0].images[0]
    assert image.norm.vmin == -image.norm.vmax
    assert image.origin == "lower"
    positive = Grid("p", torch.rand(1, 1, 2), axes)
    assert positive.plot().axes[0].images[0].norm.vmin == 0


def test_labels_of_tokens_are_no_mathematics():
    assert token_labels(["$x$", " a"]) == (r"0 \$x\$", "1 ·a")


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (lambda: grid().at(layer="2", head="a"), "the axis 'layer' has no '2'; one of 0, 1"),
        (lambda: grid().at(layer="1"), "say where on the axis 'head'"),
        (lambda: grid().at(layer="1", head="a", pos="3"), "there is no axis 'pos'"),
        (lambda: grid().select(pos="3"), "there is no axis 'pos'"),
        (lambda: grid().top(0), "1 is the least"),
        (lambda: Grid("x", torch.zeros(2, 3), {"head": ("a",)}), r"need values of shape"),
        (
            lambda: Grid("x", torch.zeros(1, 1, 1, 1), dict.fromkeys("abc", ("0",))).plot(),
            "a heat map shows two axes",
        ),
        (
            lambda: heat_map(np.zeros((1, 2)), (("a", "x"), ("b", "y"))),
            "needs values of that shape",
        ),
    ],
)
def test_wrong_input_is_explained(wrong, said):
    with pytest.raises(ValueError, match=said):
        wrong()
