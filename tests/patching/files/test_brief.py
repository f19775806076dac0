"""What people look at in a notebook or at a prompt is short, and a table where that helps."""

import dataclasses
import re
from pathlib import Path

import pytest
import torch
from matplotlib.figure import Figure as PlainFigure

import circuits
import patching
from circuits import (
    Circuit,
    Evaluation,
    compare_circuits,
    features,
    judging,
    random_circuit,
    running,
)
from circuits.drawing import draw
from circuits.scores import Scores
from patching import dictionaries, lens, neurons
from patching.files.brief import brief
from patching.graph import Graph
from patching.grid import Grid
from patching.tasks import Prompt, Task

GRAPH = Graph(n_layers=2, n_heads=2, n_kv_heads=1)


def test_a_task_of_many_prompts_is_one_line():
    prompt = Prompt(clean=tuple(range(40)), corrupt=tuple(range(40)), answers=(1,))
    said = repr(Task("facts", (prompt,) * 500))
    assert said.startswith("Task(name='facts', prompts=<500 Prompt>, padding='right'")
    assert len(said) < 200


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (torch.zeros(2, 3), "float32[2, 3]"),
        ((1, 2, 3), "(1, 2, 3)"),
        (tuple(range(9)), "<9 int>"),
        ({"a": 1}, "<1 entries>"),
        ((), "()"),
        ("x" * 99, "'" + "x" * 56 + "..."),
    ],
)
def test_values_in_a_few_words(value, said):
    assert brief(value) == said


def exposed():
    """The dataclasses that the packages and their rooms hand to their users."""
    for package in (circuits, patching, features, judging, running, dictionaries, lens, neurons):
        for name in getattr(package, "__all__", dir(package)):
            value = getattr(package, name)
            if isinstance(value, type) and dataclasses.is_dataclass(value):
                yield value


@pytest.mark.parametrize("kind", sorted(set(exposed()), key=repr), ids=lambda kind: kind.__name__)
def test_no_exposed_result_prints_its_tensors(kind):
    hints = [str(field.type) for field in dataclasses.fields(kind) if field.repr]
    heavy = any("Tensor" in hint or "Prompt" in hint for hint in hints)
    own = kind.__dict__["__repr__"].__module__ if "__repr__" in kind.__dict__ else ""
    assert not heavy or own in ("patching.files.brief", "circuits.circuit")


def test_results_are_tables_in_a_notebook():
    scores = Scores(GRAPH.exists.double(), GRAPH, {"method": "<b>eap</b>"})
    circuit = random_circuit(GRAPH, 5, 0)
    values = Evaluation(torch.ones(1, 3), torch.full((3,), 2.0), torch.zeros(3))
    compared = compare_circuits({"a": circuit, "b": Circuit.full(GRAPH)})
    axes = {"layer": ("0", "1"), "head": ("0", "1")}
    grid = Grid("effect", torch.ones(3, 2, 2), axes)
    grids = (grid, grid.select(layer="0"), grid.select(layer="0", head="1"))
    for one in (scores, circuit, values, compared, *grids):
        assert "<table" in one._repr_html_()
    assert "<b>eap" not in scores._repr_html_()
    assert "0.5" in values._repr_html_()


def test_figures_show_themselves():
    figure = draw(random_circuit(GRAPH, 5, 0))
    content, size = figure._repr_png_()
    assert isinstance(figure, PlainFigure)
    assert content.startswith(b"\x89PNG")
    assert size["width"] == round(figure.get_size_inches()[0] * 100)


def test_every_figure_is_of_the_kind_that_shows_itself():
    made = re.compile(r"= (?:\w+\.)?Figure\(|plt\.|pyplot")
    root = Path(patching.__file__).parents[1]
    files = [path for part in ("circuits", "patching") for path in (root / part).rglob("*.py")]
    for path in files:
        text = path.read_text()
        if made.search(text) and path.name != "figures.py":
            assert "from patching.figures import" in text, path
