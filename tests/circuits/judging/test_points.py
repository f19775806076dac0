import json
import math

import pytest
import torch
from handmade import GRAPH, curve

from circuits.circuit import Circuit
from circuits.judging.points import band, weighted_edge_count


def test_a_ratio_of_means_is_no_mean_of_ratios():
    found = curve([[2.0, 2.0]], clean=[4.0, 3.0], corrupt=[0.0, 1.0])
    (point,) = found.points
    assert found.per_example.tolist() == [[0.5, 0.5]]
    assert point.faithfulness == 0.5
    found = curve([[2.0, 3.0]], clean=[4.0, 3.0], corrupt=[0.0, 1.0])
    (point,) = found.points
    assert point.faithfulness == pytest.approx((2.5 - 0.5) / (3.5 - 0.5))
    assert (point.example_mean, point.example_median) == (0.75, 0.75)


def test_examples_without_a_gap_are_counted_and_the_rest_is_not_trimmed():
    found = curve([[1.0, 5.0, 9.0, 7.0]], clean=[2, 2, 2, 2], corrupt=[0, 2, 0, 1.99])
    (point,) = found.points
    assert found.per_example.isnan().tolist() == [[False, True, False, False]]
    assert point.undefined == 1
    assert point.example_mean == pytest.approx((0.5 + 4.5 + 501) / 3)
    assert point.example_median == pytest.approx(4.5)


def test_kl_is_positive_in_the_table():
    assert curve([[1.0]], [2.0], [0.0]).points[0].kl == 1


def test_the_table_has_a_row_per_size_and_a_column_per_number():
    frame = curve([[0.0, 0.0], [2.0, 2.0]], [2.0, 2.0], [0.0, 0.0]).to_dataframe()
    assert frame["faithfulness"].tolist() == [0, 1]
    assert {"requested", "edges", "low", "high", "kl", "accuracy", "layer_matched_high"} <= {*frame}


def test_json_holds_every_number_and_null_where_there_is_none():
    content = json.loads(curve([[1.0, 5.0]], [2.0, 2.0], [0.0, 2.0]).to_json())
    assert content["points"][0]["low"] is None
    assert content["examples"]["circuits"] == [[1, 5]]
    assert content["conditions"]["granularity"] == "a"
    assert content["provenance"] == {"model": "none"}


def test_the_band_is_the_middle_of_random_circuits():
    found = band(torch.arange(41, dtype=torch.float64))
    assert (found.low, found.value, found.high) == (1, 20, 39)
    assert math.isnan(band(torch.zeros(0)).value)


def test_weighted_edges_count_the_share_of_the_writer_that_is_kept():
    circuit = Circuit.from_edges(GRAPH, [("embed", "m0"), ("a0.h0", "m0"), ("a0.h0", "logits")])
    assert weighted_edge_count(circuit) == 3
    kept = torch.tensor([1.0, 0.25, 0.5])  # embed, head, MLP
    assert weighted_edge_count(circuit, kept) == 1.5
    with pytest.raises(ValueError, match="one share from 0 to 1 for each of 3 writers"):
        weighted_edge_count(circuit, torch.tensor([1.0, 2.0, 0.5]))
    with pytest.raises(ValueError, match="one share from 0 to 1 for each of 3 writers"):
        weighted_edge_count(circuit, torch.ones(2))
