"""What no linter rule says: short functions, short files, nothing done or printed at import."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
MODULES = sorted(path for name in ("circuits", "patching") for path in (ROOT / name).rglob("*.py"))
PRINTING = ("circuits/cli.py", "circuits/shell/")


def _code_lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines from `def` to the end, without the docstring."""
    first = function.body[0]
    is_doc = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
    doc = (first.end_lineno or 0) - first.lineno + 1 if is_doc else 0
    return (function.end_lineno or 0) - function.lineno + 1 - doc


def _calls_at_import(tree: ast.Module) -> list[str]:
    """Bare calls among a module's statements: what runs only for its effect."""
    calls = [s.value for s in tree.body if isinstance(s, ast.Expr)]
    return [ast.unparse(call) for call in calls if isinstance(call, ast.Call)]


@pytest.fixture(params=MODULES, ids=lambda path: path.relative_to(ROOT).as_posix())
def module(request: pytest.FixtureRequest) -> Path:
    return request.param


def test_no_function_has_more_than_40_code_lines(module: Path):
    nodes = ast.walk(ast.parse(module.read_text()))
    functions = [f for f in nodes if isinstance(f, ast.FunctionDef | ast.AsyncFunctionDef)]
    assert {f.name: _code_lines(f) for f in functions if _code_lines(f) > 40} == {}


def test_no_file_has_more_than_300_lines(module: Path):
    assert len(module.read_text().splitlines()) <= 300


def test_importing_a_module_does_nothing_but_define(module: Path):
    if module.name != "__main__.py":
        assert _calls_at_import(ast.parse(module.read_text())) == []


def test_only_the_shell_prints(module: Path):
    name = module.relative_to(ROOT).as_posix()
    if not name.startswith(PRINTING) and module.name != "__main__.py":
        tree = ast.parse(module.read_text())
        calls = [n.func for n in ast.walk(tree) if isinstance(n, ast.Call)]
        assert not [f for f in calls if isinstance(f, ast.Name) and f.id == "print"]


def test_no_module_delays_its_annotations(module: Path):
    """Shape types are checked at run time, which needs real annotations."""
    assert "from __future__ import annotations" not in module.read_text()
