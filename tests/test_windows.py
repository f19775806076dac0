"""The packages import on systems that are not POSIX: what those have is asked for when used."""

import ast
import sys
from collections import namedtuple
from pathlib import Path

import pytest

from patching import memory

ROOT = Path(__file__).parent.parent
POSIX = {"fcntl", "grp", "posix", "pty", "pwd", "resource", "syslog", "termios", "tty"}
MODULES = sorted(path for part in ("patching", "circuits") for path in (ROOT / part).rglob("*.py"))


def imported_at_once(path: Path) -> set[str]:
    """The modules that are imported when this one is, outside of functions."""
    found = set()
    for node in ast.parse(path.read_text()).body:
        for part in ast.walk(node) if not isinstance(node, ast.FunctionDef) else ():
            if isinstance(part, ast.Import):
                found |= {name.name.partition(".")[0] for name in part.names}
            if isinstance(part, ast.ImportFrom) and part.module and not part.level:
                found.add(part.module.partition(".")[0])
    return found


def test_no_module_imports_at_once_what_only_posix_has():
    wrong = {path.name: imported_at_once(path) & POSIX for path in MODULES}
    assert not {name: some for name, some in wrong.items() if some}


def test_the_peak_of_memory_is_known_without_resource(monkeypatch):
    import psutil

    class Windows:
        def memory_info(self) -> object:
            return namedtuple("pmem", ["peak_wset"])(123)

    monkeypatch.setitem(sys.modules, "resource", None)  # importing it raises ModuleNotFoundError
    monkeypatch.setattr(psutil, "Process", Windows)
    assert memory.peak_bytes()["cpu"] == 123
    with pytest.raises(ModuleNotFoundError):
        __import__("resource")
