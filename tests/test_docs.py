"""The documentation does what it says: its code runs, its commands parse, its tables are whole."""

import importlib.util
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import circuits
import patching
from circuits.cli import make_parser

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]
FENCE = re.compile(r"^( *)```(\w*)[^\n]*\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)


def blocks(page: Path, language: str) -> list[str]:
    found = FENCE.findall(page.read_text())
    return [re.sub(f"(?m)^{indent}", "", body) for indent, kind, body in found if kind == language]


def commands(page: Path) -> list[str]:
    text = "\n".join(blocks(page, "sh")).replace("\\\n", " ")
    return [line for line in text.splitlines() if line.startswith("circuits ")]


def with_some(find) -> list:
    return [pytest.param(page, id=name(page)) for page in PAGES if find(page)]


def name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


@pytest.fixture(scope="module")
def hooks():
    spec = importlib.util.spec_from_file_location("docs_hooks", DOCS / "hooks.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("page", with_some(lambda page: blocks(page, "python")))
def test_the_code_of_a_page_runs_from_top_to_bottom(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, object] = {"__name__": "__main__"}
    for i, block in enumerate(blocks(page, "python"), start=1):
        exec(compile(block, f"{name(page)}, block {i}", "exec"), namespace)


@pytest.mark.parametrize("page", with_some(commands))
def test_the_commands_of_a_page_parse(page):
    parser = make_parser()
    for line in commands(page):
        parser.parse_args(shlex.split(line, comments=True)[1:])


def test_pages_speak_no_other_languages_than_those_tested():
    """So that no block escapes for being called `py` or `bash`."""
    kinds = {kind for page in PAGES for _, kind, _ in FENCE.findall(page.read_text())}
    assert kinds <= {"python", "sh", "json", "text", "csv"}


def test_a_page_gets_its_tables(hooks):
    page = hooks.on_page_markdown("before\n\n<!-- table: metrics -->\n\nafter", page=None)
    assert page.startswith("before\n\n| In the shell | In Python | What it is |\n| --- |")
    assert "| `logit-diff` | [`logit_diff`][patching.metrics.logit_diff] |" in page
    assert page.endswith("|\n\nafter")


def test_an_unknown_table_is_refused(hooks):
    with pytest.raises(ValueError, match="no table 'metric'; there are edge scorers"):
        hooks.table("metric")


def test_every_table_is_on_a_page_and_has_equally_many_cells_in_every_row(hooks):
    used = {found for page in PAGES for found in hooks.MARKER.findall(page.read_text())}
    assert used == set(hooks.TABLES)
    for found in used:
        lengths = {line.count(" | ") for line in hooks.table(found).splitlines()}
        assert len(lengths) == 1, found


def test_the_method_tables_hold_every_method(hooks):
    from circuits.scoring import METHODS
    from patching.neurons import NEURON_METHODS

    for found, methods in (("edge scorers", METHODS), ("neuron methods", NEURON_METHODS)):
        text = hooks.table(found)
        assert all(f"| `{method}` |" in text for method in methods)
        assert all(cost.cost in text for cost in methods.values())


def test_costs_and_sources_in_the_readme_are_those_of_the_table():
    from circuits.scoring import METHODS

    known = {(method.cost, method.source) for method in METHODS.values()}
    rows = [line.strip("| ").split(" | ") for line in PAGES[0].read_text().splitlines()]
    found = [(row[1], row[2]) for row in rows if len(row) == 3 and "arXiv" in row[2]]
    assert len(found) >= 5 and set(found) <= known


def test_every_name_that_the_packages_export_is_in_the_api_reference():
    entries = set(re.findall(r"^::: ([\w.]+)$", "\n".join(map(Path.read_text, PAGES)), re.M))
    names = [getattr(face, name) for face in (circuits, patching) for name in face.__all__]
    homes = {name.__module__ for name in names if hasattr(name, "__module__")}
    missing = {
        home
        for home in homes
        if not any(entry == home or entry.startswith(f"{home}.") for entry in entries)
    }
    assert missing == set()
    for entry in entries:
        package, _, attribute = entry.rpartition(".")
        found = importlib.util.find_spec(package)
        assert found is not None, entry
        whole = importlib.import_module(package)
        assert hasattr(whole, attribute) or importlib.util.find_spec(entry), entry


@pytest.mark.filterwarnings("default")
def test_the_site_builds_without_warnings_and_needs_no_network(tmp_path):
    pytest.importorskip("mkdocs")
    pytest.importorskip("mkdocstrings")
    pytest.importorskip("material")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert built.returncode == 0, built.stdout + built.stderr
    pages = {page: page.read_text() for page in tmp_path.rglob("*.html")}
    assert len(pages) == len(PAGES)  # README stays outside, 404.html comes with it
    fetching = re.compile(r"""<(?:script|img|iframe|source)\b[^>]*\bsrc="(?:https?:)?//[^>]*>""")
    linking = re.compile(r"""<link\b[^>]*\bhref="(?:https?:)?//[^>]*>""")
    for page, text in pages.items():
        assert fetching.findall(text) + linking.findall(text) == [], page
        assert "<!-- table:" not in text, page
