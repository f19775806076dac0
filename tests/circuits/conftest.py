"""A folder to run commands in, shared by the tests of the shell."""

from pathlib import Path

import pytest
import shells


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return shells.furnish(tmp_path_factory.mktemp("shell"))
