"""Trainings, logs and tables whose writer is killed: whole or absent, and gone on with."""

import random
import time
from pathlib import Path

import forked
import kept_going
import pytest
import torch

KILLS = 50


@pytest.fixture(scope="module")
def expected() -> torch.Tensor:
    return kept_going.train(None)


def kill(folder: Path, seed: int) -> None:
    """Start a writer and kill it at a random moment of the first half second of its work."""
    writer = forked.start(kept_going.for_ever, folder)
    time.sleep(random.Random(seed).uniform(0, 0.5))
    writer.kill()


def look(folder: Path, expected: torch.Tensor) -> None:
    """What is there is whole; what was begun ends as if nothing had happened."""
    log = kept_going.search(folder / "runs.jsonl")
    for i in range(kept_going.N):
        assert torch.equal(log[str(i)], kept_going.values_of(i))
    if (folder / "table.csv").exists():
        assert (folder / "table.csv").read_text() == "a line\n" * 50_000
    assert torch.equal(kept_going.train(folder / "training"), expected)


def test_a_writer_killed_once_leaves_what_can_be_gone_on_with(tmp_path, expected):
    kill(tmp_path, 0)
    look(tmp_path, expected)


@pytest.mark.slow
def test_writers_killed_at_50_moments_in_one_folder_lose_and_mix_nothing(tmp_path, expected):
    for seed in range(1, KILLS + 1):
        kill(tmp_path, seed)
        if seed % 5 == 0:  # else the next writer finds what the last one left
            look(tmp_path, expected)
