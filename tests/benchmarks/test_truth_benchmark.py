"""The benchmark of methods: a whole run in small, its numbers by hand, and the page in the docs."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks.truth import judging, running, subjects
from benchmarks.truth.__main__ import DOCS, main
from benchmarks.truth.cells import Cell, estimate, from_csv, mean_cell, read, to_csv, write
from benchmarks.truth.contenders import RANDOM, Contender, combinations, contenders
from benchmarks.truth.page import chosen_table, losses, page
from benchmarks.truth.picture import cost_against_quality
from circuits.circuit import Circuit
from circuits.scores import Scores
from circuits.scoring import METHODS, PATHS
from patching.graph import Graph
from patching.metrics import logit_diff
from patching.models import TOY_GENERATORS
from patching.models.truth import library
from patching.rules import RULES
from patching.tasks import to_json

GRAPH = Graph(n_layers=1, n_heads=1, n_kv_heads=1)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A quick run, and where it put things."""
    folder = tmp_path_factory.mktemp("truth")
    main(["--quick", "--jobs", "1", "--out", str(folder / "cells"), "--docs", str(folder)])
    return folder


@pytest.fixture(scope="module")
def cells(whole) -> dict[tuple[str, str], Cell]:
    found = from_csv((whole / "truth.csv").read_text())
    return {(cell.model, cell.method): cell for cell in found}


@pytest.fixture(scope="module")
def place():
    return subjects.load(subjects.Subject("truth/induction"), subjects.QUICK)


def test_exact_patching_finds_a_known_circuit_and_chance_does_not(cells):
    exact, chance = (cells["truth/induction", name] for name in ("exact", RANDOM))
    assert (exact.auroc, exact.auprc, exact.recovered) == (1, 1, 1)
    # Five known edges of 110 and five draws: a standard error of 0.06.
    assert chance.auroc == pytest.approx(0.5, abs=0.18)
    assert chance.auprc is not None and chance.auprc < 0.3


def test_circuits_of_a_trained_model_are_judged_on_other_prompts(cells):
    exact, chance = (cells["toy", name] for name in ("exact", RANDOM))
    assert exact.cmd < 0.3 < 0.7 < chance.cmd
    assert exact.kept_10 > 0.3 > chance.kept_10
    assert exact.kept_10_low <= exact.kept_10 <= exact.kept_10_high
    place = subjects.load(subjects.quick_subjects()[1], subjects.QUICK)
    assert place.held_out is not None
    found, held_out = ({p.clean for p in t.prompts} for t in (place.found, place.held_out))
    assert not found & held_out
    assert (len(found), len(held_out)) == (4, 8)


def test_exact_patching_costs_more_than_a_gradient_and_that_more_than_chance(cells):
    for model in ("truth/induction", "toy"):
        costs = [cells[model, name].cost for name in (RANDOM, "eap", "exact")]
        assert costs == sorted(costs)


def test_where_what_was_chosen_loses_is_told():
    kept = {"eap": (0.5, 0.4, 0.6), "gim": (0.8, 0.7, 0.9), "auto": (0.65, 0.6, 0.7)}
    numbers = {
        name: dict(zip(("kept_5", "kept_5_low", "kept_5_high"), row, strict=True))
        for name, row in kept.items()
    }
    trained = [Cell("m", "lost", name, "x", **some) for name, some in numbers.items()]
    trained += [Cell("m", "won", name, "x", **numbers[name]) for name in ("eap", "auto")]
    known = [Cell("truth/copy", "its own", name, "x", recovered=1.0) for name in ("gim", "auto")]
    said = "".join(chosen_table(known, trained))
    assert "| m | lost | `gim` | 0.80 [0.70, 0.90] | 0.65 [0.60, 0.70] | **no** |" in said
    assert "| m | won | `eap` | 0.50 [0.40, 0.60] | 0.65 [0.60, 0.70] | yes |" in said
    assert chosen_table(known, trained[:2]) == []


def test_a_second_run_measures_nothing_again(whole, monkeypatch):
    monkeypatch.setattr(running, "judge", lambda *_, **__: pytest.fail("measured again"))
    before = (whole / "truth.csv").read_text()
    main(["--quick", "--jobs", "1", "--out", str(whole / "cells"), "--docs", str(whole)])
    assert (whole / "truth.csv").read_text() == before


def test_page_and_pictures_are_drawn_again_from_the_table(whole, tmp_path):
    (tmp_path / "truth.csv").write_text((whole / "truth.csv").read_text())
    main(["--redraw", "--docs", str(tmp_path)])
    for name in ("truth.md", "pictures/truth-known.svg", "pictures/truth-trained.svg"):
        assert (tmp_path / name).read_bytes() == (whole / name).read_bytes()


def test_some_methods_on_a_model_and_task_file_of_ones_own_are_printed(tmp_path, capsys):
    place = subjects.load(subjects.quick_subjects()[1], subjects.QUICK)
    to_json(place.held_out, tmp_path / "mine.json")
    arguments = ["--model", "toy", "--tasks", str(tmp_path / "mine.json"), "--methods", RANDOM]
    main([*arguments, "--jobs", "1", "--out", str(tmp_path), "--docs", str(tmp_path / "none")])
    assert f"| `{RANDOM}` | 0.7" in capsys.readouterr().out
    assert not (tmp_path / "none").exists()


def test_a_model_from_elsewhere_stands_beside_the_others_on_the_page(tmp_path):
    mine, docs = tmp_path / "mine", tmp_path / "docs"
    mine.mkdir()
    numbers = {"identity": "x", "cmd": 0.1, "cost": 2.0}
    running.publish([Cell("toy", "ioi", "eap", kept_10=0.25, **numbers)], docs)
    task = str(tmp_path / "copying.json")
    running.publish([Cell(str(mine), task, "eap", kept_10=0.5, **numbers)], docs)
    running.publish([Cell("toy", "ioi", "eap", kept_10=0.75, **numbers)], docs)
    table = from_csv((docs / "truth.csv").read_text())
    found = [(cell.model, cell.task, cell.kept_10) for cell in table]
    assert found == [("toy", "ioi", 0.75), ("mine", "copying", 0.5)]
    assert "### `mine`, 1 tasks" in (docs / "truth.md").read_text()


def test_an_unknown_method_is_refused():
    with pytest.raises(SystemExit, match="no method 'eep'; there are eap, eap-ig"):
        main(["--methods", "eep"])


# The page in the docs.


def test_the_page_in_the_docs_is_that_of_its_table():
    """It fails where somebody edited docs/truth.md: `make truth` writes it."""
    table = from_csv((DOCS / "truth.csv").read_text())
    assert page(table) == (DOCS / "truth.md").read_text()


def test_every_method_has_a_cell_on_every_subject_and_a_row_in_every_table_of_the_docs():
    """It fails after a method was added: `make truth` measures it."""
    table = from_csv((DOCS / "truth.csv").read_text())
    found = {(cell.subject, cell.method) for cell in table}
    wanted = {(subject, name) for subject in subjects.subjects() for name in contenders()}
    assert found >= wanted  # learned masks are there if they were asked for
    text = (DOCS / "truth.md").read_text()
    n_tables = 1 + len({cell.model for cell in table if not cell.subject.is_known})
    assert all(text.count(f"\n| `{name}` |") == n_tables for name in METHODS)


def test_exact_patching_finds_every_known_circuit_of_the_docs():
    table = from_csv((DOCS / "truth.csv").read_text())
    exact = {c.model: c.auroc for c in table if c.method == "exact" and c.subject.is_known}
    assert exact == dict.fromkeys(library.names(), 1)


# Who competes.


def test_every_method_competes_and_every_rule_on_every_path_can():
    assert set(METHODS) < set(contenders())
    assert len(combinations()) == len(RULES) * len(PATHS)


def test_random_scores_differ_by_seed_and_are_the_same_again(place):
    find = contenders()[RANDOM].find
    first, again, other = (
        find(place.model, place.found, logit_diff, (5,), seed=seed).matrix for seed in (0, 0, 1)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


# Numbers by hand.


def circuit(*edges: str) -> Circuit:
    return Circuit.from_edges(GRAPH, [tuple(edge.split("->")) for edge in edges])


def test_the_share_of_true_edges_counts_those_too_many_as_well():
    active = circuit("embed->m0", "m0->logits")
    assert judging.recovered(active, active) == 1
    assert judging.recovered(circuit("m0->logits"), active) == 0.5
    more = circuit("embed->m0", "m0->logits", "embed->logits", "a0.h0->logits")
    assert judging.recovered(more, active) == 0.5
    assert judging.recovered(Circuit.empty(GRAPH), active) == 0


def test_a_searched_circuit_has_its_share_of_true_edges_and_no_areas(place):
    def find(model, task, metric, sizes, *, seed):
        return [place.active]

    cell = judging.judge(Contender("oracle", find, ""), place, rounds=1)
    assert (cell.recovered, cell.auroc, cell.auprc, cell.pearson) == (1, None, None, None)


def test_searched_circuits_are_run_on_held_out_prompts():
    place = subjects.load(subjects.quick_subjects()[1], subjects.QUICK)
    sizes = []

    def find(model, task, metric, asked, *, seed):
        sizes.extend(asked)
        return [Circuit.empty(model.graph) for _ in asked]

    cell = judging.judge(Contender("nothing", find, ""), place, rounds=1)
    assert sizes == [4, 23, 47]  # of 479 edges
    # The corrupt run comes out of the batched pass again, in float32.
    assert (cell.kept_1, cell.kept_10_high) == (pytest.approx(0, abs=1e-5),) * 2
    assert cell.cmd is None


def test_circuits_that_are_too_large_or_too_few_are_refused():
    with pytest.raises(ValueError, match=r"mine gave circuits of \[2\] edges; \[1\] are the most"):
        judging.check_sizes("mine", [circuit("embed->m0", "m0->logits")], [1])
    with pytest.raises(ValueError, match=r"mine gave circuits of \[\] edges; \[1\] are the most"):
        judging.check_sizes("mine", [], [1])


def test_cost_is_the_median_over_rounds_in_units_of_the_same_round(monkeypatch):
    """A unit takes 0.01 s, the job 0.03, 0.9 and 0.05 s; the machine slows down in between."""
    clock, jobs = [0.0], iter((0.03, 0.09, 0.05))

    def takes(seconds):
        clock[0] += seconds

    monkeypatch.setattr(judging.time, "process_time", lambda: clock[0])
    found, cost = judging.timed(lambda: takes(next(jobs)) or 7, lambda: takes(0.01), rounds=3)
    assert (found, cost) == (7, pytest.approx(5))


def test_a_dear_method_is_timed_once(monkeypatch):
    clock, calls = [0.0], []

    def job():
        clock[0] += 2 * judging.ENOUGH
        calls.append(1)

    def unit():
        clock[0] += 0.1

    monkeypatch.setattr(judging.time, "process_time", lambda: clock[0])
    judging.timed(job, unit, rounds=5)
    assert len(calls) == 1


def test_pearson_is_with_exact_scores_and_undefined_where_all_scores_are_equal(place):
    drawn = torch.randn(GRAPH.exists.shape, dtype=torch.float64) * GRAPH.exists
    exact = Scores(drawn, GRAPH, {})
    same, opposite, flat = (
        judging._pearson(Scores(m, GRAPH, {}), exact) for m in (3 * drawn, -drawn, 0 * drawn)
    )
    assert (same, opposite, flat) == (pytest.approx(1), pytest.approx(-1), None)
    assert judging._pearson(exact, None) is None


# Cells.

CELL = Cell("toy", "ioi", "eap", "weights prompts", kept_10=0.5, kept_10_low=0.4, cost=3.0)


def test_cells_survive_their_files(tmp_path):
    write(tmp_path / "cell.json", CELL)
    assert read(tmp_path / "cell.json", CELL.identity) == CELL
    assert from_csv(to_csv([CELL, CELL])) == [CELL, CELL]


def test_a_cell_of_other_weights_or_prompts_or_none_is_not_read(tmp_path):
    write(tmp_path / "cell.json", CELL)
    assert read(tmp_path / "cell.json", "others") is None
    assert read(tmp_path / "none.json", CELL.identity) is None


def test_draws_are_averaged_and_what_one_leaves_undefined_is_undefined():
    mean = mean_cell([CELL, replace(CELL, kept_10=0.7, cost=None)])
    assert (mean.kept_10, mean.kept_10_low, mean.cost, mean.auroc) == (0.6, 0.4, None, None)


def test_an_estimate_is_a_mean_over_tasks_with_its_interval():
    cells = [replace(CELL, task=str(i), kept_10=i / 4) for i in range(5)]
    found = estimate(cells, "kept_10")
    assert found.value == 0.5
    assert 0 <= found.low < 0.5 < found.high <= 1
    assert estimate(cells, "auroc") is None


def test_both_formats_of_a_known_circuit_are_one_task():
    pair = [Cell(f"truth/copy{end}", "its own", "eap", "", auroc=1.0) for end in ("", "-llama")]
    assert math.isnan(estimate(pair, "auroc").low)  # one task has no spread


# What the page says.


def judged(method: str, kept: float) -> list[Cell]:
    return [Cell("toy", str(i), method, "", kept_10=kept + 0.01 * i, cost=1.0) for i in range(6)]


def test_the_page_says_who_loses_to_whom():
    table = [*judged("eap", 0.5), *judged("famous", 0.2), *judged("new", 0.8), *judged(RANDOM, 0.3)]
    text = "\n".join(losses(table))
    assert "keep clearly less than those of `eap`: `famous` (-0.30)." in text
    assert "keep clearly more than those of `eap`: `new` (+0.30)." in text
    assert "keep clearly less than those of `random`: `famous` (-0.10)." in text


def test_the_page_says_which_known_circuits_a_method_misses():
    values = {"truth/copy": 1.0, "truth/induction": 0.5, "truth/induction-noise": 0.7}
    bad = [Cell(name, "its own", "eap", "", auroc=auroc) for name, auroc in values.items()]
    text = "\n".join(losses([*bad, *(replace(cell, method="ig", auroc=1.0) for cell in bad)]))
    assert "AUROC 1 on every known circuit: `ig`." in text
    assert (
        "`eap` misses true edges (AUROC < 0.95) of 2 of 3 known circuits: "
        "`truth/induction` 0.50, `truth/induction-noise` 0.70." in text
    )


def test_undefined_numbers_are_shown_as_such_and_rows_are_sorted_by_quality():
    lines = page([*judged("poor", 0.1), *judged("good", 0.9)]).splitlines()
    rows = [line for line in lines if line.startswith("| `")]
    assert rows[0].startswith("| `good` | – | – | – | – | 0.93 [0.91, 0.94] | – | 1 |")
    assert rows[1].startswith("| `poor` |")


def test_the_picture_joins_the_methods_that_nothing_cheaper_matches():
    cheap, dear = judged("cheap", 0.505), [replace(c, cost=9.0) for c in judged("dear", 0.405)]
    figure = cost_against_quality([*cheap, *dear, *judged(RANDOM, 0.1)], "kept_10", "kept")
    (axes,) = figure.axes
    names = {text.get_text(): text.get_color() for text in axes.texts}
    assert names.keys() == {"cheap  0.53", "dear  0.43", "random circuits"}
    assert names["cheap  0.53"] != names["dear  0.43"]
    assert figure.axes[0].get_xscale() == "log"


def test_the_tasks_of_the_docs_are_those_of_the_trained_models():
    assert {s.task for s in subjects.subjects() if not s.is_known} == set(TOY_GENERATORS)
    assert subjects.tasks_of("truth/copy", []) == [subjects.Subject("truth/copy")]
    assert Path(DOCS).name == "docs"
