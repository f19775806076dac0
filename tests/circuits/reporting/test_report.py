"""The verdict on a task, and what the report says."""

import pytest
import torch

from circuits.circuit import Circuit
from circuits.reporting.report import (
    Findings,
    Measured,
    Verdict,
    percent,
    readable,
    render,
    strongest,
    table,
    usable,
)
from patching.graph import Graph

GRAPH = Graph(n_layers=1, n_heads=2, n_kv_heads=2)
CAN = Verdict(share_right=0.97, gap=3.0, spread=1.0)
CANNOT = Verdict(share_right=0.4, gap=-0.1, spread=1.0)


def rows(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def findings(**changes: object) -> Findings:
    scores = torch.arange(GRAPH.exists.numel(), dtype=torch.float64).reshape(GRAPH.exists.shape)
    scores = (scores - 12).where(GRAPH.exists, 0.0)
    values = {
        "circuit": Circuit(GRAPH.exists.clone(), GRAPH, scores),
        "ranking": "absolute",
        "metric_name": "logit-diff",
        "verdict": CAN,
        "prompts": "8 held-out prompts (the search used 16 prompts)",
        "clean": 4.0,
        "corrupt": -1.0,
        "found": Measured(12, 3.0, 0.8),
        "sizes": [Measured(1, 0.0, 0.2), Measured(12, 3.0, 0.8)],
        "random": [Measured(12, -1.0, 0.0)],
        "settings": {"model": "tiny", "task": "copy", "options": {"steps": 5}},
    }
    return Findings(**{**values, **changes})


def test_a_model_that_prefers_the_answers_can_do_the_task():
    verdict = usable(rows(2, 3, 4, -1), rows(2, 3, 4, -1), rows(-2, -2, -3, -1))
    assert verdict.can_do
    assert "can do this task: it prefers the answer on 75%" in verdict.sentence


def test_a_model_that_is_right_on_few_prompts_cannot_do_the_task():
    verdict = usable(rows(1, -1, -1, 1), rows(1, -1, -1, 1), rows(-3, -3, -3, -3))
    assert not verdict.can_do
    assert "cannot do this task: it prefers the answer on only 50%" in verdict.sentence


def test_exactly_60_percent_right_is_enough():
    clean = rows(1, 1, 1, -1, -1)
    assert usable(clean, clean, clean - 2).can_do


def test_a_gap_of_the_wrong_sign_means_that_the_model_cannot_do_the_task():
    verdict = usable(rows(1, 1), rows(1, 1), rows(2, 2))
    assert not verdict.can_do
    assert "clean prompts do no better than corrupt ones (gap -1)" in verdict.sentence


def test_a_gap_that_is_lost_in_its_spread_means_that_the_model_cannot_do_the_task():
    corrupt = rows(-9, 11, -9.5, 11)  # gaps of 10, -10, 10.5 and -10: mean 0.125, spread 10.1
    verdict = usable(rows(1, 1, 1, 1), rows(1, 1, 1, 1), corrupt)
    assert not verdict.can_do
    assert "is lost in its spread" in verdict.sentence


def test_one_prompt_has_no_spread_and_can_be_judged():
    assert usable(rows(1), rows(1), rows(-1)).can_do


def test_undefined_faithfulness_is_said_so():
    assert percent(None) == "undefined"


def test_people_see_kl_positive():
    assert readable("kl", -0.25) == "0.2500"
    assert readable("kl", 0.0) == "0.000"
    assert readable("logit-diff", 0.25) == "+0.250"


def test_the_strongest_edges_follow_the_ranking():
    circuit = findings().circuit
    scores = [score or 0.0 for *_, score in circuit.scored_edges()]
    signed = [score for *_, score in strongest(circuit, 3, "signed")]
    absolute = [score for *_, score in strongest(circuit, 3, "absolute")]
    assert signed == sorted(scores, reverse=True)[:3]
    assert absolute == sorted(scores, key=abs, reverse=True)[:3]


def test_a_circuit_without_scores_lists_its_first_edges():
    assert strongest(Circuit.full(GRAPH), 1, "absolute") == [("embed", "a0.h0.q", None)]


def test_the_report_says_verdict_metrics_sizes_edges_settings_and_sign():
    report = render(findings(), figure="circuit.svg", top=3)
    assert report.startswith("# copy in tiny: a circuit of 13 edges\n\n**The model can do")
    for text in (
        "| **this circuit** | 13 | +3.000 | 80.0% |",
        "8 held-out prompts",
        "![The circuit](circuit.svg)",
        "| random paths 1 | 12 | -1.000 | 0.0% |",
        "all on paths from embed to logits, drawn at random",
        "helps the metric in the clean run",
        "| options | steps 5 |",
        "Faithfulness = (circuit - empty) / (clean - empty)",
    ):
        assert text in report
    assert report.count("->") == 3


def test_the_report_of_a_task_that_cannot_be_done_says_so_first():
    report = render(findings(verdict=CANNOT), figure="circuit.svg")
    assert "**The model cannot do this task: it prefers" in report.split("\n\n")[1]
    assert "they explain nothing" in report.split("\n\n")[1]


def test_kl_is_explained_in_the_report():
    report = render(findings(metric_name="kl", clean=0.0, corrupt=-2.0), figure="circuit.svg")
    assert "KL from the clean run (nats, smaller is better)" in report
    assert "| no edge | 0 | 2.000 | 0.0% |" in report


@pytest.mark.parametrize("cell", ["1,000", "+3.2", "80.0%", "undefined"])
def test_a_column_of_numbers_is_aligned_right(cell):
    assert table(("", "x"), [("a", cell)]).splitlines()[1] == "| --- | ---: |"


def test_a_bar_in_a_cell_does_not_break_the_table():
    assert table(("", "x"), [("a", "b|c")]).splitlines()[2] == "| a | b\\|c |"


def test_the_first_prompts_stand_in_the_report_as_code():
    page = render(findings(examples=("'<b>a' -> ' b'",)), figure="c.svg")
    assert "with their answers:\n\n    '<b>a' -> ' b'\n\n" in page
