"""A folder to run commands in, shared by the tests of the shell."""

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import shells  # imports the packages, whose types are prepared after this file is read

    return shells.furnish(tmp_path_factory.mktemp("shell"))
