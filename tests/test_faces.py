"""The faces of the packages: every name once, all there, nothing heavy until one is used."""

import ast
import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import circuits
import patching
from circuits.circuit import Circuit
from circuits.scores import Scores
from patching.graph import Graph

ROOT = Path(__file__).resolve().parent.parent
FACES = (
    "circuits",
    "circuits.drawing",
    "circuits.explorer",
    "circuits.judging",
    "circuits.repeating",
    "circuits.running",
    "patching",
    "patching.neurons",
)
SMALL = Graph(1, 1, 1)
MOVES = {**circuits.moved.MOVES, **patching.moved.MOVES}


@pytest.fixture(params=FACES)
def face(request):
    return import_module(request.param)


def listed(face) -> list[str]:
    stub = ast.parse(Path(face.__file__).with_suffix(".pyi").read_text())
    return [alias.name for line in stub.body for alias in line.names]


def test_every_name_stands_once_and_can_be_imported(face):
    names = listed(face)
    assert len(names) == len(set(names))
    assert sorted(names) == face.__all__
    assert [name for name in names if getattr(face, name, None) is None] == []
    assert set(names) <= set(dir(face))


def test_no_name_is_that_of_a_module_beside_it(face):
    """Whichever was imported first would hide the other."""
    beside = {path.stem for path in Path(face.__file__).parent.iterdir()}
    assert beside.isdisjoint(face.__all__)


def test_a_name_is_what_its_home_calls_so_and_no_module(face):
    stub = ast.parse(Path(face.__file__).with_suffix(".pyi").read_text())
    for line in stub.body:
        home = import_module(f"{face.__name__}.{line.module}")
        for alias in line.names:
            assert alias.name == alias.asname
            assert getattr(face, alias.name) is getattr(home, alias.name)


def test_a_star_brings_all_names_and_no_others(face):
    found: dict[str, object] = {}
    exec(f"from {face.__name__} import *", found)
    assert sorted(found.keys() - {"__builtins__"}) == face.__all__


def test_the_top_of_circuits_has_every_scorer_that_the_shell_lists():
    functions = {method.function.__name__ for method in circuits.METHODS.values()}
    assert functions <= set(circuits.__all__)
    others = "score Recipe METHODS acdc budgeted_search completeness minimality recovery".split()
    assert set(others) <= set(circuits.__all__)
    assert "shapley_cost" not in circuits.__all__


def test_a_name_that_is_not_there_is_refused():
    with pytest.raises(AttributeError, match="evalute"):
        _ = circuits.evalute
    with pytest.raises(ImportError, match="cannot import name 'evalute'"):
        exec("from circuits import evalute")


def test_packages_and_the_shells_parser_need_no_torch():
    code = (
        f"import sys, circuits.cli, {', '.join(FACES)}; circuits.cli.make_parser(); "
        "print(sorted({'torch', 'pandas', 'tqdm'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, cwd=ROOT)
    assert done.stdout.decode().strip() == "[]"


WITHOUT_A_MODEL = (
    "select s.safetensors --size 2 --out c.json",
    "select s.safetensors --size 2 --selector greedy --out g.json",
    "show .",
    "show curve.json",
    "compare c.json g.json",
    "export c.json --out c.svg --out c.pdf --out c.tikz --out c.html --out c.graphml",
    "view . --scores s.safetensors --out page.html",
)


def test_commands_that_run_no_model_load_no_model_library(tmp_path):
    """It takes four seconds to load, and a person waits."""
    given = {"model": "m", "task": "t", "method": "eap", "metric": "logit_diff"}
    Scores(SMALL.exists.double(), SMALL, given).save(tmp_path / "s.safetensors")
    Circuit(SMALL.exists, SMALL, None, given).save(tmp_path / "circuit.json")
    (tmp_path / "curve.json").write_text('{"provenance": {}, "points": [{"faithfulness": 0.5}]}')
    code = (
        "import sys; from circuits.cli import main\n"
        f"for line in {WITHOUT_A_MODEL}:\n"
        "    done = main(line.split())\n"
        "    found = {'transformer_lens', 'transformers'} & {*sys.modules}\n"
        "    assert done == 0 and not found, (line, done, found)"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("old", MOVES)
def test_an_old_name_of_a_module_works_and_says_the_new_one(old, monkeypatch):
    monkeypatch.delitem(sys.modules, old, raising=False)
    now = import_module(MOVES[old])
    with pytest.warns(DeprecationWarning, match=f"{old} is {MOVES[old]} now"):
        found = import_module(old)
    names = [name for name in vars(now) if not name.startswith("__")]
    assert all(getattr(found, name) is getattr(now, name) for name in names)


def test_an_import_under_an_old_name_warns_where_it_is_written():
    code = "\n\nfrom patching.parsing import read_json"
    command = [
        sys.executable,
        "-W",
        "ignore",
        "-W",
        "always::DeprecationWarning:__main__",
        "-c",
        code,
    ]
    done = subprocess.run(command, capture_output=True, check=True, cwd=ROOT)
    said = done.stderr.decode()
    assert said.startswith(
        "<string>:3: DeprecationWarning: patching.parsing is patching.files.parsing"
    )


def test_the_parts_of_a_package_that_moved_are_not_made_twice(monkeypatch):
    for old in ("patching.sweeps", "patching.sweeps.pairs"):
        monkeypatch.delitem(sys.modules, old, raising=False)
    from patching.runs import pairs

    with pytest.warns(DeprecationWarning):
        found = import_module("patching.sweeps.pairs")
    assert found.run_both is pairs.run_both


def test_what_is_a_function_by_now_can_be_called_after_its_module_was_asked_for(monkeypatch):
    monkeypatch.delitem(sys.modules, "circuits.recovery", raising=False)
    with pytest.warns(DeprecationWarning):
        module = import_module("circuits.recovery")
    assert module.__module__ == MOVES["circuits.recovery"]  # where the function is at home
    with pytest.raises(TypeError, match="scores"):
        module()


def test_a_module_that_never_was_is_not_found():
    with pytest.raises(ModuleNotFoundError, match="circuits.nowhere"):
        import_module("circuits.nowhere")


def test_what_was_the_module_of_files_hands_its_names_on():
    from patching.files import read_text, whole

    assert read_text is whole.read_text
