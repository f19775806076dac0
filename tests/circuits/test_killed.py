"""Scored runs with two workers that are killed at random moments: the same scores, bit for bit."""

import json
import os
import random
import signal
import time
from pathlib import Path

import forked
import psutil
import pytest
import scored

from patching.work import Run

KILLS = 20
KILLS_ON_RAY = 5  # each starts a worker anew


@pytest.fixture(scope="module")
def expected() -> str:
    """The hash of the scores that one process makes without a folder."""
    return scored.score(None)


def chunks(folder: Path) -> int:
    return len(list(folder.glob("*/chunk-*")))


def wait_for(chunk: int, folder: Path, seconds: float = 240.0) -> None:
    """Wait until so many chunks are there: importing takes long, and comes before all that counts.

    `pytest.fail` if that does not happen.
    """
    deadline = time.monotonic() + seconds
    while chunks(folder) < chunk:
        if time.monotonic() > deadline:
            pytest.fail(f"after {seconds} seconds {chunks(folder)} chunks were there")
        time.sleep(0.005)


def workers_of(folder: Path) -> set[int]:
    """Processes that have done chunks, as the log says."""
    (log,) = folder.glob("*/log.jsonl")
    facts = [json.loads(line) for line in log.read_text().splitlines()]
    return {int(one["worker"].rpartition(":")[2]) for one in facts if "worker" in one}


def killed_under_torchrun(folder: Path, seed: int) -> int:
    """Kill everything, or one worker, at a random moment; how many chunks were there then."""
    rng = random.Random(seed)
    run = scored.start(folder, 2)
    wait_for(rng.randint(1, scored.N - 4), folder)
    time.sleep(rng.uniform(0, 0.1))
    if rng.random() < 0.5:
        os.killpg(run.pid, signal.SIGKILL)
        for pid in workers_of(folder):  # torchrun gives workers process groups of their own
            _kill(pid)
    else:
        _kill(rng.choice(sorted(workers_of(folder))))  # torchrun ends the other one, and itself
    run.communicate(timeout=120)
    kept = chunks(folder)
    assert run.returncode != 0
    assert 0 < kept < scored.N
    return kept


def _kill(pid: int) -> None:
    if psutil.pid_exists(pid):
        os.kill(pid, signal.SIGKILL)


@pytest.mark.slow
def test_a_scored_run_killed_under_torchrun_ends_in_the_same_bits(expected, tmp_path):
    kept = killed_under_torchrun(tmp_path, seed=0)
    again = scored.score(Run(tmp_path))
    assert again == expected
    assert chunks(tmp_path) == scored.N > kept


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, KILLS + 1))
def test_a_scored_run_killed_at_any_of_20_moments_ends_in_the_same_bits(expected, tmp_path, seed):
    rng = random.Random(seed)
    one, other = (forked.start(scored.as_one_of, tmp_path, rank, 2) for rank in range(2))
    wait_for(rng.randint(1, scored.N - 4), tmp_path)
    time.sleep(rng.uniform(0, 0.1))
    one.kill()
    if seed % 2:  # the other one does the rest
        assert other.result() == expected
        return
    other.kill()
    assert 0 < chunks(tmp_path) < scored.N
    assert scored.score(Run(tmp_path)) == expected


@pytest.mark.slow
@pytest.mark.parametrize("n_workers", [1, 2, 4])
def test_any_number_of_workers_scores_the_same_bits(expected, tmp_path, n_workers):
    assert scored.finish(scored.start(tmp_path, n_workers)) == {expected}


@pytest.mark.slow
def test_scored_runs_survive_a_killed_worker_on_ray(expected, tmp_path):
    pytest.importorskip("ray")
    assert scored.on_ray(tmp_path, KILLS_ON_RAY) == [expected] * KILLS_ON_RAY
