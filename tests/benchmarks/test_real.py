"""The page of a real model: made in cells that are kept, from one file."""

from pathlib import Path

import pytest

from benchmarks.real.__main__ import main
from benchmarks.real.facts import COST, Fact, from_csv, to_csv
from benchmarks.real.page import AREAS, COSTS, KEPT, page
from benchmarks.real.roles import DIRECT, INPUTS, QUERIES, WHOLE, Look, losses, verdict
from benchmarks.real.subjects import subjects
from circuits import Circuit
from circuits.running.trial import prepare, run
from patching import logit_diff

DOCS = Path(__file__).resolve().parents[2] / "docs"


def method(task, name, split, log_cmd, low, high):
    """All facts of a method on a split."""
    place = "method", task, name, split
    numbers = [Fact(*place, at, 1.5, 1.0, 2.0) for at in (*KEPT, *COSTS, *AREAS[1:])]
    return [Fact(*place, "log CMD", log_cmd, low, high), Fact(*place, "kept", said=""), *numbers]


@pytest.fixture(scope="module")
def facts():
    head = [Fact("head", "ioi", "a1.h0", 0, at, 0.25) for at in ("promotes", WHOLE, DIRECT)]
    head += [Fact("head", "ioi", "a1.h0", 0, at, 0.0) for at in (QUERIES, INPUTS)]
    head += [Fact("head", "ioi", "a1.h0", 0, "role", said="name mover")]
    head += [Fact("head", "ioi", "a1.h0", 0, "attends", 0.6, said="IO")]
    head += [Fact("head", "ioi", "a1.h0", 0, "test", said="holds")]
    rival = [Fact("rivals", "ioi", "1", 0, at, 0.5, 0.4, 0.6) for at in ("edges", "held out")]
    rival += [Fact("rivals", "ioi", "1", 0, at, 0.5, 0.4, 0.6) for at in ("search prompts",)]
    rival += [Fact("rivals", "ioi", "1", 0, "largest overlap", 0.07)]
    rival += [Fact("rivals", "ioi", "search", 0, "without", 0.2, 0.1, 0.3)]
    rival += [Fact("rivals", "ioi", "search", 0, at, 9.0) for at in ("circuits run", "seconds")]
    return [
        *method("ioi", "eap", 0, 0.5, 0.4, 0.6),
        *method("ioi", "eap", 1, 0.3, 0.2, 0.4),
        *method("ioi", "auto", 0, 0.45, 0.3, 0.6),
        *method("facts", "eap", 0, 0.1, 0.05, 0.2),
        *(f for f in method("facts", "eap-ig, by size", 0, 0.05, 0.04, 0.06) if f.name != "CPR"),
        *(f for name in ("", ", smoothed") for f in method("facts", f"eap-ig{name}", 0, 0.2, 0, 1)),
        *(
            Fact("method", "facts", name, 0, f"shared, {by}", share)
            for name, by, share in (
                ("eap-ig", "top-n", 0.55),
                ("eap-ig, by size", "mean-size", 0.75),
                ("eap-ig, smoothed", "smoothed-size", 0.8),
                ("auto", "smoothed-size", 0.81),
            )
        ),
        Fact(COST, "facts", "auto", 0, "cell", 1800.0),
        Fact(COST, "ioi", "auto", 0, "cell", 3600.0),
        *method("facts", "auto", 0, 0.3, 0.2, 0.4),
        Fact("circuit", "ioi", "auto", 0, "edges", 1234),
        Fact("circuit", "ioi", "auto", 0, "held out", 0.7, 0.6, 0.8),
        *head,
        Fact("nodes", "ioi", "mlp_out", 0, "plain", 0.011),
        Fact("nodes", "facts", "", 0, "refused", said="no place has an effect"),
        *rival,
        Fact("rivals", "ioi", "search", 0, "ended", said="None."),
        *(Fact("search", "ioi", "ugs", 0, at, 3.0, 2.0, 4.0) for at in ("1.0%", "edges")),
        Fact("search", "ioi", "ugs", 0, "seconds", 60.0),
    ]


def test_facts_survive_their_file(facts):
    assert to_csv(from_csv(to_csv(facts))) == to_csv(facts)


def test_the_page_says_what_was_measured_and_where_auto_loses(facts):
    said = page(facts)
    assert "| facts | `eap` | 0.100 (0.050 to 0.200) | 0.300 | **no** |" in said
    # two splits: the mean, and half widths of .1 as those of a mean of two
    assert "| ioi | `eap` | 0.400 (0.329 to 0.471) | 0.450 | yes |" in said
    assert "Splits measured: 1, 2 of 3." in said and "`auto` (1 of 2)" in said
    both = "1.50 (1.00 to 2.00) | 1.50 (1.00 to 2.00)"
    assert f"| facts | 1 | {both} | {both} | 0.55 | 0.75 | 0.80 | 0.81 |" in said
    assert "Its cells took 1.5 hours of one core" in said
    assert "| 0.050 (0.040 to 0.060) | 1.500 | - |" in said
    assert "| a1.h0 | name mover | holds | IO 0.60 | +0.25 |" in said
    assert "| ioi | mlp_out | 0.011 |" in said and "facts: no place has an effect." in said
    assert "| 1 | 0 | 0.070 | 0.50 (0.40 to 0.60) |" in said and "9 circuits were run" in said
    assert "## Searched and learned" in said
    assert "##" not in page([])[2:]


@pytest.mark.parametrize(
    ("role", "worth", "said"),
    [
        ("name mover", (0.2, 0.15, 0.0, 0.0), "holds"),
        ("name mover", (0.2, 0.05, 0.0, 0.0), "refuted"),
        ("negative name mover", (-0.1, -0.1, 0.0, 0.0), "holds"),
        ("S-inhibition", (0.3, 0.0, 0.2, 0.0), "holds"),
        ("S-inhibition", (0.3, 0.0, 0.0, 0.3), "refuted"),
        ("induction", (0.3, 0.0, 0.05, 0.1), "holds"),
        ("reads IO", (0.01, 0.0, 0.0, 0.0), "matters little"),
    ],
)
def test_a_role_is_borne_out_by_where_what_is_lost_goes(role, worth, said):
    assert verdict(role, dict(zip((WHOLE, DIRECT, QUERIES, INPUTS), worth, strict=True))) == said


def test_a_head_looks_like_what_it_writes_before_what_it_attends_to():
    shares = {"induction": 0.9, "duplicate token": 0.0}
    assert Look("IO", 0.8, 0.1, shares).role(is_ioi=True) == "name mover"
    assert Look("IO", 0.8, -0.1, shares).role(is_ioi=False) == "writes against it"
    assert Look("S2", 0.8, 0.0, shares).role(is_ioi=True) == "induction"
    assert Look("S2", 0.8, 0.0, {}).role(is_ioi=True) == "S-inhibition"
    assert Look("S2", 0.8, 0.0, {}).role(is_ioi=False) == "reads S2"


@pytest.fixture(scope="module")
def toy_subject(toy):
    first, *_ = subjects(toy, "ioi", 4)
    return first


def test_splits_share_no_prompt(toy):
    parts = [t for split in subjects(toy, "facts", 3) for t in (split.found, split.judged)]
    prompts = [prompt.clean for part in parts for prompt in part.prompts]
    assert len(parts) == 6 and len({*prompts}) == len(prompts) > 0


def test_what_a_head_is_worth_by_some_readers_is_what_the_model_loses_without_them(
    toy, toy_subject
):
    trial = prepare(toy, toy_subject.judged, logit_diff)
    roles = {"a3.h0": "writes the answer", "a1.h0": "induction"}
    worth = losses(trial, [*roles], roles)
    whole, others = Circuit.full(toy.graph), [("a1.h0", "a3.h0.k"), ("a1.h0", "a3.h0.v")]
    removed = [[("a3.h0", "logits")], [("a1.h0", "a3.h0.q")], others]
    kept = [whole - Circuit.from_edges(toy.graph, edges) for edges in removed]
    lost = (1 - run(trial, kept).faithfulness).tolist()
    told = [worth["a3.h0"][DIRECT], worth["a1.h0"][QUERIES], worth["a1.h0"][INPUTS]]
    assert lost == pytest.approx(told, abs=1e-5)


def test_cells_are_measured_once_and_the_page_is_made_of_the_file(tmp_path, monkeypatch):
    monkeypatch.setattr("benchmarks.real.methods.METHODS", ("eap", "eap-ig, by size"))
    monkeypatch.setattr("benchmarks.real.__main__.LATER", ())
    cells, docs = tmp_path / "cells", ["--docs", str(tmp_path)]
    few = ["toy", "--tasks", "ioi", "--splits", "1", "--n", "4", "--out", str(cells)]
    main([*few, *docs])
    facts = from_csv((tmp_path / "real.csv").read_text())
    assert {fact.of for fact in facts} == {"eap", "eap-ig, by size"}
    assert all(fact.low <= fact.value <= fact.high for fact in facts if fact.name in KEPT)
    before, files = (tmp_path / "real.md").read_text(), sorted(cells.glob("*.csv"))
    times = [file.stat().st_mtime for file in files]
    main([*few, *docs])
    assert len(files) == 2 and [file.stat().st_mtime for file in files] == times
    main([*docs, "--redraw"])
    assert (tmp_path / "real.md").read_text() == before


def test_the_page_of_the_docs_is_that_of_its_file():
    """It fails where somebody edited docs/real.md: `make real` writes it."""
    assert page(from_csv((DOCS / "real.csv").read_text())) == (DOCS / "real.md").read_text()
