"""Shapes are checked in the first case of every test, and in one of eight of the others.

The checks of all annotations double the time of a test, and cases of one test call the same
functions. `SHAPES=all` checks everywhere. Progress, which a slow machine would show among what
commands say, is off.
"""

import os
from pathlib import Path
from zlib import crc32

import jaxtyping
import pytest
import transformer_lens  # noqa: F401  # before ours: the hook that checks shapes reads no compiled files

ONE_OF = 8

first = pytest.StashKey[bool]()

os.environ.setdefault("TQDM_DISABLE", "1")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    seen: set[str] = set()
    for item in items:
        name = item.nodeid.partition("[")[0]
        item.stash[first] = name not in seen
        seen.add(name)


def has_shapes_checked(item: pytest.Item) -> bool:
    everywhere = os.environ.get("SHAPES") == "all"
    return everywhere or item.stash[first] or crc32(item.nodeid.encode()) % ONE_OF == 0


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item):
    jaxtyping.config.update("jaxtyping_disable", not has_shapes_checked(item))
    return (yield)


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder to run commands in, shared by the tests of the shell."""
    import shells  # imports the packages, whose types are prepared after this file is read

    return shells.furnish(tmp_path_factory.mktemp("shell"))


@pytest.fixture(scope="module")
def gpt2():
    """A tiny GPT-2 in float64; each module of tests has one of its own."""
    import families

    return families.load("gpt2")


@pytest.fixture(scope="module")
def toy():
    """The embedded GPT-2; each module of tests has one of its own."""
    from patching.model import Model

    return Model.load("toy")


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of a tiny Llama."""
    import families
    import torch

    path = tmp_path_factory.mktemp("models") / "llama"
    families.module("llama", torch.float32).save_pretrained(path)
    return path


@pytest.fixture
def own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Hashes are not remembered in the user's folder."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture(autouse=True)
def quiet(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Benchmarks turn progress off in their process: here, for the length of a test."""
    if "benchmarks" in request.path.parts:
        monkeypatch.setenv("TQDM_DISABLE", "1")
