"""The bundle: all files, that LaTeX takes them, that the notebook makes them again, the errors."""

import csv
import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import nbformat
import numpy as np
import pytest
from nbclient import NotebookClient
from shells import on

from circuits.circuit import Circuit, load_circuit
from circuits.cli import main
from circuits.drawing.roles import Roles
from circuits.export import load
from circuits.paper import (
    REFERENCES,
    Run,
    bibtex,
    methods_latex,
    methods_markdown,
    open_run,
    plot_measurements,
    write_bundle,
)
from circuits.paper.prose import citations
from circuits.paper.references import (
    FAITHFULNESS,
    INTERVALS,
    PATHS,
    RULES,
    SELECTORS,
    of_method,
    of_task,
)
from circuits.reporting.measurements import load_measurements
from circuits.scoring import METHODS
from patching.paths import PATHS as ALL_PATHS
from patching.rules import RULES as ALL_RULES
from patching.tasks import FAMILIES

FILES = {
    *("circuit.pdf", "circuit.svg", "circuit.tikz", "curve.pdf", "curve.svg"),
    *("edges.csv", "edges.tex", "faithfulness.csv", "faithfulness.tex", "paper.tex"),
    *("methods.md", "methods.tex", "references.bib", "regenerate.ipynb"),
}
ROLES = Roles({"first_layer & %": ("a0.h0", "a0.h1"), "MLPs": ("m0", "m1")}, {"MLPs": "gold"})
ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def folder(home, tmp_path_factory) -> Path:
    """A finished search of the furnished model."""
    out = tmp_path_factory.mktemp("paper") / "run"
    assert main(["discover", *on(home), "--size", "20", "--steps", "2", "--out", str(out)]) == 0
    return out


@pytest.fixture
def run(folder: Path) -> Run:
    return open_run(folder)


@pytest.fixture(scope="module")
def bundle(folder: Path) -> Path:
    """A bundle with roles beside its search."""
    write_bundle(folder, folder / "bundle", roles=ROLES, top=3)
    return folder / "bundle"


class TestBundle:
    def test_it_holds_every_file_and_nothing_else(self, folder, tmp_path):
        written = write_bundle(folder, tmp_path / "b")
        assert {path.name for path in written} == FILES
        assert {path.name for path in (tmp_path / "b").iterdir()} == FILES
        assert all(path.stat().st_size > 50 for path in written)

    def test_tables_have_every_edge_and_circuit(self, bundle, run):
        edges = list(csv.DictReader((bundle / "edges.csv").read_text().splitlines()))
        found = {(row["source"], row["dest"], float(row["score"])) for row in edges}
        assert found == set(run.circuit.scored_edges())
        sizes = [abs(float(row["score"])) for row in edges]
        assert sizes == sorted(sizes, reverse=True)
        judged = list(csv.DictReader((bundle / "faithfulness.csv").read_text().splitlines()))
        assert [row["kind"] for row in judged] == list(run.measurements.kinds)
        assert {float(row["low"]) <= float(row["high"]) for row in judged} == {True}
        assert (bundle / "edges.tex").read_text().count(r"\texttt") == 2 * 3

    def test_what_does_not_fit_is_refused_before_anything_is_written(self, folder, tmp_path):
        (tmp_path / "file").write_text("")
        with pytest.raises(ValueError, match=r"file is a file; name a folder for the bundle"):
            write_bundle(folder, tmp_path / "file")
        with pytest.raises(ValueError, match="a width is 'column'"):
            write_bundle(folder, tmp_path / "b", width="colum")
        with pytest.raises(
            ValueError, match="needs a width and at least one edge, got None and 20"
        ):
            write_bundle(folder, tmp_path / "b", width=None)
        with pytest.raises(ValueError, match="got column and 0"):
            write_bundle(folder, tmp_path / "b", top=0)
        with pytest.raises(ValueError, match="the role 'r' names 'a7.h0'"):
            write_bundle(folder, tmp_path / "b", roles=Roles({"r": ("a7.h0",)}))
        assert not (tmp_path / "b").exists()

    @pytest.mark.skipif(shutil.which("pdflatex") is None, reason="needs pdflatex")
    def test_all_parts_compile_as_one_paper(self, bundle, tmp_path):
        shutil.copytree(bundle, tmp_path, dirs_exist_ok=True)
        tools = ["pdflatex", *(["bibtex", "pdflatex"] if shutil.which("bibtex") else [])]
        options = {"pdflatex": ["-interaction=nonstopmode", "-halt-on-error"], "bibtex": []}
        for tool in [*tools, "pdflatex"]:
            command = [tool, *options[tool], "paper"]
            said = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
            assert said.returncode == 0, said.stdout[-2000:]
        log = (tmp_path / "paper.log").read_text()
        assert "Overfull" not in log
        if "bibtex" in tools:
            assert "undefined" not in log
            said = (tmp_path / "paper.blg").read_text()
            warnings = re.findall(r"Warning--(.*)", said)
            # plain.bst has no @software, which it sets as it does @misc
            assert all("isn't style-file defined" in warning for warning in warnings)
            assert said.count("isn't style-file defined") == 2

    @pytest.mark.skipif(shutil.which("pdflatex") is None, reason="needs pdflatex")
    def test_tables_and_paragraph_need_no_package(self, bundle, tmp_path):
        shutil.copytree(bundle, tmp_path, dirs_exist_ok=True)
        parts = "".join(rf"\input{{{name}.tex}}" + "\n\n" for name in ("edges", "faithfulness"))
        body = rf"\begin{{document}}{parts}\input{{methods.tex}}\end{{document}}"
        (tmp_path / "bare.tex").write_text(rf"\documentclass{{article}}{body}")
        command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "bare"]
        said = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
        assert said.returncode == 0, said.stdout[-2000:]

    @pytest.mark.filterwarnings("default")  # the kernel's own libraries warn
    def test_the_notebook_makes_everything_again(self, folder, bundle, monkeypatch):
        home = shutil.copytree(bundle, folder / "again")
        before = {path.name: path.read_bytes() for path in home.iterdir()}
        notebook = nbformat.read(home / "regenerate.ipynb", as_version=4)
        nbformat.validate(notebook)
        for name in before:
            if name not in ("regenerate.ipynb", "roles.json"):
                (home / name).unlink()
        monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), *sys.path]))
        place = {"metadata": {"path": str(home)}}
        NotebookClient(notebook, timeout=120, kernel_name="python3", resources=place).execute()
        assert {path.name: path.read_bytes() for path in home.iterdir()} == before
        kinds = [out.get("data", {}) for cell in notebook.cells for out in cell.get("outputs", [])]
        assert sum("image/png" in data for data in kinds) == 3

    def test_the_notebook_knows_the_way_to_the_run_and_no_machine_path(self, folder, bundle):
        for out, way in ((bundle, ".."), (folder.parent / "x", "../run")):
            write_bundle(folder, out, roles=ROLES, top=3)
            text = (out / "regenerate.ipynb").read_text()
            assert f"RUN = Path('{way}')" in text
            assert str(folder) not in text


def method_papers(name):
    return of_method(name, "", "")


class TestReferences:
    @pytest.mark.parametrize(
        ("table", "papers_of"), [(METHODS, method_papers), (FAMILIES, of_task)]
    )
    def test_every_method_and_every_task_cites_a_paper_of_its_author_and_year(
        self, table, papers_of
    ):
        for name, row in table.items():
            papers = [REFERENCES[number] for number in papers_of(name)]
            assert papers, f"{name} has no entry for {row.source}"
            for paper in papers:
                assert paper.short == row.source.split(",")[0]
                surname = paper.authors.split(",")[0].strip("{}")
                assert paper.short.startswith(re.sub(r"\{\\'a\}", "á", surname))
                assert str(paper.year) in paper.short

    def test_every_number_named_elsewhere_has_an_entry(self):
        for table, names in (
            (RULES, {*ALL_RULES} - {"plain"}),
            (PATHS, {*ALL_PATHS} - {"clean", "corrupt"}),
            (SELECTORS, {"greedy"}),
        ):
            assert set(table) == names
            assert all(number in REFERENCES for numbers in table.values() for number in numbers)
        assert {*FAITHFULNESS, *INTERVALS} <= set(REFERENCES)

    def test_a_task_is_cited_under_every_corruption_and_one_from_a_file_is_not(self):
        assert of_task("ioi:swap") == of_task("ioi, random corrupt") == of_task("ioi") != ()
        assert of_task("my prompts") == ()

    def test_keys_are_unique_and_braces_balance(self):
        text = bibtex(list(REFERENCES) * 2)
        keys = re.findall(r"@\w+\{(\w+),", text)
        assert len(keys) == len(set(keys)) == len(REFERENCES)
        assert text.count("{") == text.count("}")

    @pytest.mark.parametrize(
        ("method", "rule", "path", "numbers"),
        [
            ("eap-ig", "plain", "inputs", ("2403.17806",)),
            ("relp x inputs", "relp", "inputs", ("2508.21258", "2403.17806")),
            ("plain x clean", "plain", "clean", ("2310.10348",)),
        ],
    )
    def test_a_combination_cites_both_its_parts(self, method, rule, path, numbers):
        assert of_method(method, rule, path) == numbers


class TestParagraph:
    def test_it_states_the_exact_settings(self, run):
        text = methods_markdown(run)
        for said in (
            "8 pairs of a clean and a corrupt prompt",
            "2 layers with 2 heads each",
            f"{run.circuit.graph.n_edges:,} edges",
            "integrated gradients (EAP-IG): EAP with gradients integrated",
            "steps 2, quadrature midpoint",
            "Hanna et al. 2024, arXiv:2403.17806",
            "We kept the 20 edges of the largest absolute score",
            "4 held-out prompts",
            "95% interval",
            "1,000 draws (Efron 1979, The Annals of Statistics 7(1), 1–26)",
            "so that the paired corrupt prompt writes in its place (resample ablation)",
            "float32 on cpu",
            "seed 0",
            f"weights {run.stated('weights')}",
        ):
            assert said in text
        assert "unknown" not in text
        assert "None" not in text

    def test_latex_cites_what_the_bibliography_has(self, run):
        text = methods_latex(run)
        keys = {key for found in re.findall(r"\\cite\{([^}]*)\}", text) for key in found.split(",")}
        entries = bibtex(citations(run))
        assert keys == set(re.findall(r"@\w+\{(\w+),", entries)) != set()
        assert "%" not in text.replace(r"\%", "")

    def test_names_in_it_are_no_markup(self, run):
        nasty = "<img src=x onerror=y> [a](javascript:b)\n\n# c"
        said = {**run.circuit.provenance, "task": nasty, "model": nasty, "ablation": nasty}
        text = methods_markdown(replace(run, circuit=replace(run.circuit, provenance=said)))
        assert "<img" not in text and "](" not in text and text.count("\n") == 1

    def test_other_settings_are_said(self, run):
        said = {
            "task": "greater-than",
            "revision": "main",
            "method": "relp x inputs",
            "options": {"rule": "relp", "path": "inputs"},
            "selection": {"selector": "greedy", "ranking": "signed", "pruned": True},
        }
        circuit = replace(run.circuit, provenance={**run.circuit.provenance, **said})
        text = methods_markdown(Run(circuit, run.measurements))
        assert "(revision main) on the task greater-than (Hanna et al. 2023" in text
        assert "relp x inputs; rule relp, path inputs (Rezaei Jafari et al. 2025" in text
        grown = (
            "We grew a circuit of 20 edges from the logits by signed score, best first (Hanna et"
        )
        assert grown in text and "arXiv:2403.17806), then pruned" in text

    def test_a_circuit_that_says_nothing_of_itself_still_has_a_paragraph(self, run):
        text = methods_markdown(Run(replace(run.circuit, provenance={}), run.measurements))
        assert "an unknown ablation" in text
        assert "None" not in text

    def test_one_prompt_has_no_interval(self, run):
        m = run.measurements
        one = replace(m, values=m.values[:, :1], clean=m.clean[:1], corrupt=m.corrupt[:1])
        text = methods_markdown(Run(run.circuit, one))
        assert "interval" not in text
        assert "NaN" not in text


class TestOpening:
    def test_a_folder_without_the_files_is_refused(self, folder, tmp_path):
        with pytest.raises(ValueError, match="nothing is no folder; name what `circuits discover"):
            open_run(tmp_path / "nothing")
        with pytest.raises(ValueError, match="holds no circuit.json and no measurements.json; "):
            open_run(tmp_path)
        shutil.copy(folder / "circuit.json", tmp_path)
        with pytest.raises(ValueError, match="holds no measurements.json; `circuits discover"):
            open_run(tmp_path)

    def test_files_of_two_searches_are_refused(self, folder, tmp_path):
        shutil.copy(folder / "measurements.json", tmp_path)
        circuit = load_circuit(folder / "circuit.json")
        Circuit.from_edges(circuit.graph, circuit.edges[:3]).save(tmp_path / "circuit.json")
        with pytest.raises(
            ValueError, match=r"has 3 of \d+ edges, but measurements.json is about 20"
        ):
            open_run(tmp_path)

    def test_measurements_agree_with_the_report(self, folder, run):
        (row,) = re.findall(
            r"\*\*this circuit\*\* \| 20 \| (\S+) \| (\S+) \|", (folder / "report.md").read_text()
        )
        found = run.found()
        assert row == (f"{found.metric:+.3f}", f"{found.faithfulness:.1%}")


def test_the_curve_marks_the_circuit_and_the_random_ones(folder):
    figure = plot_measurements(load_measurements(folder / "measurements.json"), title="t")
    (axes,) = figure.axes
    lines = {str(line.get_label()): line for line in axes.get_lines()}
    assert np.asarray(lines["this circuit"].get_xdata()).tolist() == [20]
    assert np.size(lines["random paths"].get_xdata()) == 3
    assert axes.get_xscale() == "log"


class TestShell:
    def test_report_writes_beside_the_search(self, folder, tmp_path, capsys):
        (tmp_path / "roles.json").write_text(json.dumps({"MLPs": ["m0", "m1"]}))
        roles, out = str(tmp_path / "roles.json"), tmp_path / "b"
        command = ["report", str(folder), "--out", str(out), "--roles", roles, "--width", "5"]
        assert main([*command, "--top", "3"]) == 0
        assert capsys.readouterr().out.startswith(f"written to {out}: circuit.pdf, ")
        assert {p.name for p in out.iterdir()} == FILES | {
            *("roles.pdf", "roles.svg", "roles.tikz", "roles.json")
        }

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            (["nowhere"], "error: nowhere is no folder; name what `circuits discover"),
            ([".", "--width", "wide"], "error: a width is 'column'"),
            ([".", "--roles", "absent.json"], "error: absent.json: No such file"),
            ([".", "--top", "0"], "error: argument --top: a whole number from 1 is needed"),
        ],
    )
    def test_wrong_use_is_one_line(self, options, message, tmp_path, monkeypatch, capsys):
        monkeypatch.chdir(tmp_path)
        assert main(["report", *options]) == 2
        error = capsys.readouterr().err
        assert error.startswith(message)
        assert error.count("\n") == 1

    def test_export_reads_and_writes_many_forms_with_looks(self, home, tmp_path, capsys):
        source, roles = str(home / "circuit.json"), tmp_path / "roles.json"
        roles.write_text(json.dumps({"heads": ["a0.h0", "a0.h1"]}))
        wanted = [str(tmp_path / name) for name in ("c.graphml", "c.tikz")]
        assert main(["export", source, "--out", wanted[0], "--out", wanted[1]]) == 0
        back = str(tmp_path / "back.json")
        assert main(["export", wanted[0], "--out", back]) == 0
        assert load_circuit(back).scored_edges() == load_circuit(source).scored_edges()
        for i, looks in enumerate(
            (
                ["--width", "5", "--title", "a title", "--roles", str(roles)],
                ["--roles", str(roles), "--by-role"],
                ["--against", wanted[0], "--out", str(tmp_path / "c.csv")],
            )
        ):
            assert main(["export", source, *looks, "--out", str(tmp_path / f"{i}.svg")]) == 0
        assert b"a title" in (tmp_path / "0.svg").read_bytes()
        assert (
            b"within a role" in (tmp_path / "1.svg").read_bytes()
            or b"arrows" in (tmp_path / "1.svg").read_bytes()
        )
        assert load(tmp_path / "c.csv", load_circuit(source).graph).size == 20
        assert b"in both" in (tmp_path / "2.svg").read_bytes()
        capsys.readouterr()

    @pytest.mark.parametrize(
        ("looks", "message"),
        [
            (["--by-role", "--out", "x.svg"], "error: --by-role needs --roles FILE"),
            (
                ["--against", "CIRCUIT", "--by-role", "--out", "x.svg"],
                "error: --against draws two circuits; leave out --roles and --by-role",
            ),
            (
                ["--width", "5", "--out", "x.csv"],
                "error: looks are for pictures (.svg, .pdf, .png, .tex, .tikz); x.csv is none",
            ),
            (
                ["--width", "5", "--out", "x.docx"],
                "error: cannot write 'x.docx': a file that ends in .json",
            ),
        ],
    )
    def test_looks_that_do_not_fit_are_refused(self, looks, message, home, capsys):
        circuit = str(home / "circuit.json")
        options = [circuit if option == "CIRCUIT" else option for option in looks]
        assert main(["export", circuit, *options]) == 2
        assert capsys.readouterr().err.startswith(message)
