"""What pyproject.toml asks for is what the packages it stands on ask for."""

import os
import re
import subprocess
import sys
import tomllib
from importlib.metadata import requires
from pathlib import Path

import yaml
from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def lower_bounds() -> dict[str, Version]:
    found = {}
    for line in PROJECT["dependencies"]:
        name, version = re.fullmatch(r"([\w.-]+)>=([\w.]+)", line).groups()
        found[name] = Version(version)
    return found


def test_no_lower_bound_is_below_that_of_the_model_library():
    """Of the version that is installed; those of other packages are told by `make test-lowest`."""
    bounds = lower_bounds()
    for line in requires("transformer-lens") or ():
        asked = Requirement(line)
        if asked.name in bounds and (asked.marker is None or asked.marker.evaluate({"extra": ""})):
            assert bounds[asked.name] in asked.specifier, line


def test_the_bounds_are_handed_to_pip_as_they_stand():
    said = subprocess.run(
        [sys.executable, ROOT / ".ci/bounds"], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    assert {f"{name}=={version}" for name, version in lower_bounds().items()} <= set(said)


def test_a_job_runs_the_oldest_and_the_newest_by_commands_that_exist():
    """What its steps call are targets of the Makefile and files that can be run."""
    jobs = [yaml.safe_load(path.read_text()) for path in (ROOT / ".github/workflows").glob("*.yml")]
    called = set()
    for job in (job for one in jobs for job in one["jobs"].values()):
        for which in job.get("strategy", {}).get("matrix", {}).get("which", [""]):
            steps = (step.get("run", "") for step in job["steps"])
            called |= {step.replace("${{ matrix.which }}", which) for step in steps}
    assert {".ci/run", "make test-lowest PYTHON=python", "make test-newest PYTHON=python"} <= called
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), flags=re.M)
    assert {call.split()[1] for call in called if call.startswith("make ")} <= set(targets)
    assert all(
        os.access(ROOT / path, os.X_OK) for path in (".ci/run", ".ci/versions", ".ci/bounds")
    )
