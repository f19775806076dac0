"""What no linter rule says: short functions and files, no circles, nothing done at import."""

import ast
from collections import Counter
from collections.abc import Callable
from functools import cache
from pathlib import Path

import networkx as nx

ROOT = Path(__file__).resolve().parent.parent
MODULES = sorted(path for name in ("circuits", "patching") for path in (ROOT / name).rglob("*.py"))
PRINTING = ("circuits/cli.py", "circuits/shell/")


@cache
def parsed(module: Path) -> ast.Module:
    return ast.parse(module.read_text())


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


def _faults(of: Callable[[Path], object]) -> dict[str, object]:
    """What is wrong in which module; one test speaks of all, as 500 tests take 20 seconds."""
    found = {path.relative_to(ROOT).as_posix(): of(path) for path in MODULES}
    return {name: fault for name, fault in found.items() if fault}


def _long_functions(module: Path) -> dict[str, int]:
    nodes = ast.walk(parsed(module))
    functions = [f for f in nodes if isinstance(f, ast.FunctionDef | ast.AsyncFunctionDef)]
    return {f.name: _code_lines(f) for f in functions if _code_lines(f) > 40}


def _prints(module: Path) -> list[int]:
    name = module.relative_to(ROOT).as_posix()
    if name.startswith(PRINTING) or module.name == "__main__.py":
        return []
    calls = [n.func for n in ast.walk(parsed(module)) if isinstance(n, ast.Call)]
    return [f.lineno for f in calls if isinstance(f, ast.Name) and f.id == "print"]


def test_no_function_has_more_than_40_code_lines():
    assert _faults(_long_functions) == {}


def test_no_file_has_more_than_300_lines():
    lengths = {path: len(path.read_text().splitlines()) for path in MODULES}
    assert {path.name: n for path, n in lengths.items() if n > 300} == {}


def test_importing_a_module_does_nothing_but_define():
    found = _faults(lambda module: _calls_at_import(parsed(module)))
    assert {name: calls for name, calls in found.items() if "__main__" not in name} == {}


def test_only_the_shell_prints():
    assert _faults(_prints) == {}


def test_no_module_delays_its_annotations():
    """Shape types are checked at run time, which needs real annotations."""
    delayed = "from __future__ import annotations"
    assert _faults(lambda module: delayed in module.read_text()) == {}


def _name_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _imported(path: Path) -> set[str]:
    """What a module imports of ours, wherever it does: inside functions too."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {one.name for one in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{one.name}" for one in node.names)}
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            found |= {one.value for one in node.args if isinstance(one, ast.Constant)}
    return found


def _circles(imports: dict[str, set[str]]) -> list[list[str]]:
    """Modules that import each other; what is no key is none of ours."""
    graph = nx.DiGraph([(a, b) for a, those in imports.items() for b in those & imports.keys()])
    return [sorted(circle) for circle in nx.strongly_connected_components(graph) if len(circle) > 1]


def test_circles_of_imports_are_found():
    imports = {"a": {"b", "c.d"}, "b": {"c"}, "c": {"a"}, "e": {"a"}}
    assert _circles(imports) == [["a", "b", "c"]]


def test_no_module_is_in_a_circle_of_imports():
    """Nor in one that a function hides; a face imports only when it is asked for a name."""
    faces = {"circuits", "patching", "patching.neurons"}
    imports = {_name_of(path): _imported(path) for path in MODULES}
    assert _circles({name: those for name, those in imports.items() if name not in faces}) == []


def test_the_first_look_at_circuits_shows_few_rooms():
    shown = [path for path in (ROOT / "circuits").iterdir() if path.name[:2] != "__"]
    assert len(shown) <= 30, sorted(path.name for path in shown)


def test_no_two_files_of_tests_have_one_name():
    """Without packages among the tests, a second file of one name is an error of collection."""
    names = Counter(path.name for path in (ROOT / "tests").rglob("*.py"))
    assert [name for name, times in names.items() if times > 1] == []
