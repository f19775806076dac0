from dataclasses import replace

import matplotlib
import pytest
import torch
from handmade import curve
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from circuits.circuit import Circuit
from circuits.drawing.plots import render
from circuits.judging.compare import compare_circuits
from circuits.judging.curves import CHANCE, COLOURS, plot_comparison, plot_curves
from circuits.judging.points import Curve
from circuits.select import random_circuit
from patching.graph import Graph

GRAPH = Graph(2, 2, 2)
CIRCUITS = {f"n = {n}": random_circuit(GRAPH, n, seed=0) for n in (10, 20, 30)}


def measured(requested: tuple[int, ...] = (0, 10, 100), n_random: int = 3) -> Curve:
    n = len(requested)
    values = torch.arange(n).double()[:, None].expand(-1, 2)
    ends = torch.stack([values[:, 0] - 0.5, values[:, 0] + 0.5], dim=1)
    changes = {"requested": requested, "intervals": ends, "layer_matched": torch.zeros(n, n_random)}
    changes |= {"uniform": torch.zeros(n, n_random)}
    return curve(values, [1.0, 1.0], [0.0, 0.0], **changes)


def labels(figure: Figure) -> list[str]:
    (legend,) = figure.legends  # below the axes, where it covers no curve
    return [text.get_text() for text in legend.get_texts()]


def test_lines_are_faithfulness_by_edges_and_shading_the_interval():
    figure = plot_curves({"eap": measured(), "other": measured((5, 10, 200))}, title="the title")
    (axes,) = figure.axes
    lines = {line.get_label(): line for line in axes.lines}
    assert list(lines["eap"].get_xdata()) == [10, 100]  # 0 has no place on a logarithmic axis
    assert list(lines["eap"].get_ydata()) == [1, 2]
    assert to_hex(lines["other"].get_color()) == COLOURS[1].lower()
    band = axes.collections[1].get_paths()[0].vertices
    assert (band[:, 1].min(), band[:, 1].max()) == (0.5, 2.5)
    assert axes.get_xscale() == "log"
    assert axes.get_title() == "the title"
    assert labels(figure) == [CHANCE, "eap", "other"]


def test_without_random_circuits_there_is_no_band_of_them():
    assert labels(plot_curves({"eap": measured(n_random=0)})) == ["eap"]


def test_a_comparison_shows_every_number_and_leaves_undefined_ones_out():
    comparison = compare_circuits({**CIRCUITS, "none": Circuit.empty(GRAPH)})
    (axes,) = plot_comparison(comparison, title="t").axes
    said = [text.get_text() for text in axes.texts]
    assert len(said) == 16
    assert said[0] == "1.00"
    assert said[-1] == "–"
    assert axes.get_xlabel() == comparison.measure
    assert [tick.get_text() for tick in axes.get_yticklabels()] == [*CIRCUITS, "none"]


@pytest.mark.parametrize("kind", ["svg", "pdf", "png"])
def test_equal_numbers_give_equal_files_and_settings_stay(kind):
    before = dict(matplotlib.rcParams)
    first, second = (render(plot_curves({"eap": measured()}), kind) for _ in range(2))
    assert first == second
    assert render(plot_comparison(compare_circuits(CIRCUITS)), kind)
    assert dict(matplotlib.rcParams) == before


def test_curves_that_cannot_share_a_figure_are_refused():
    with pytest.raises(ValueError, match="no curves to draw"):
        plot_curves({})
    other = replace(measured(), conditions=replace(measured().conditions, metric="kl"))
    with pytest.raises(ValueError, match="of different metrics cannot share an axis: g, kl"):
        plot_curves({"one": measured(), "two": other})
