"""Doing work: the same sum whoever does it, however often it is stopped."""

import random
import subprocess
import sys
import time

import forked
import pytest
import working

from patching.memory import budget, current
from patching.work import Limited, Ranks, Run, do, leads, ranks

EXPECTED = working.add_up(None)


def test_without_a_run_chunks_come_one_by_one_and_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    calls = []
    chunks = do(None, lambda i: calls.append(i) or {}, 5, what="adding", settings={})
    next(chunks)
    assert calls == [0]
    assert list(tmp_path.iterdir()) == []


def test_a_finished_run_is_read_back_without_any_work(tmp_path):
    assert working.add_up(Run(tmp_path)) == EXPECTED

    def no_work(number):
        raise AssertionError("everything is there")

    assert working.add_up(Run(tmp_path), no_work) == EXPECTED


@pytest.mark.parametrize("size", [1, 2, 4])
def test_any_number_of_workers_makes_the_same_sum(tmp_path, size):
    workers = [forked.start(working.as_one_of, tmp_path, 0.05, i, size) for i in range(size)]
    assert {worker.result() for worker in workers} == {EXPECTED}


def test_a_worker_alone_of_several_does_everything(tmp_path):
    assert working.add_up(Run(tmp_path, Ranks(2, 3))) == EXPECTED


def test_workers_begin_with_their_own_share_and_then_help(tmp_path):
    order = []
    work = Limited(lambda i: order.append(i) or {}, None)
    Ranks(1, 3)(work, lambda: list(range(7)), lambda i, done: None)
    assert order == [1, 4, 5, 2, 6, 3, 0]


@pytest.mark.slow
def test_torchrun_starts_workers(tmp_path):
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2"]
    command += ["--master-port=0", "--standalone", working.__file__, str(tmp_path), "0.02"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [EXPECTED, EXPECTED]


def _killed_and_resumed(folder, seed: int) -> object:
    """Two workers, killed at random moments, then two that go on."""
    rng = random.Random(seed)
    workers = [forked.start(working.as_one_of, folder, 0.3, i, 2) for i in range(2)]
    deadline = time.monotonic() + 120
    while not list(folder.glob("*/chunk-*")) and time.monotonic() < deadline:
        time.sleep(0.005)
    for worker in workers:
        time.sleep(rng.uniform(0, 0.8))
        worker.kill()
    kept = len(list(folder.glob("*/chunk-*")))
    resumed = [forked.start(working.as_one_of, folder, 0.0, i, 2) for i in range(2)]
    found = {worker.result() for worker in resumed}
    assert 0 < kept < working.N
    assert len(found) == 1
    return found.pop()


def test_a_run_killed_at_a_random_moment_goes_on_to_the_same_sum(tmp_path):
    assert _killed_and_resumed(tmp_path, seed=0) == EXPECTED


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 21))
def test_a_run_killed_at_any_of_20_moments_goes_on_to_the_same_sum(tmp_path, seed):
    assert _killed_and_resumed(tmp_path, seed) == EXPECTED


def test_an_interrupt_gives_the_first_chunks_and_a_second_start_the_rest(tmp_path):
    def stops(number):
        if number == 5:
            raise KeyboardInterrupt
        return working.chunk(number)

    seen = []
    with pytest.raises(KeyboardInterrupt):
        for done in do(Run(tmp_path), stops, working.N, what="adding", settings=working.SETTINGS):
            seen.append(int(done.parts["seen"]))
    assert seen == [0, 1, 2, 3, 4]
    calls = []
    again = working.add_up(Run(tmp_path), lambda i: calls.append(i) or working.chunk(i))
    assert again == EXPECTED
    assert calls == list(range(5, working.N))


def test_what_work_raises_is_raised_and_what_was_done_is_kept(tmp_path):
    def breaks(number):
        if number == 3:
            raise ValueError("the fourth prompt is bad")
        return working.chunk(number)

    with pytest.raises(ValueError, match="fourth prompt"):
        working.add_up(Run(tmp_path), breaks)
    assert len(list(tmp_path.glob("*/chunk-*"))) == 3


def test_work_is_done_under_the_budget_of_whoever_asked(tmp_path):
    limits = []

    def work(number):
        limits.append(current().limit)
        current().halved += 1
        return working.chunk(number)

    def elsewhere(work, missing, keep):
        """As in another process, where no budget is set."""
        with budget(None):
            Ranks(0, 1)(work, missing, keep)

    with budget(12345):
        found = do(Run(tmp_path, elsewhere), work, 2, what="adding", settings={})
        assert [done.memory["halved"] for done in found] == [1, 1]
    assert limits == [12345, 12345]


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"RANK": "1", "WORLD_SIZE": "4"}, Ranks(1, 4)),
        ({"SLURM_PROCID": "2", "SLURM_NTASKS": "3"}, Ranks(2, 3)),
        ({"SLURM_ARRAY_TASK_ID": "3", "SLURM_ARRAY_TASK_COUNT": "5"}, Ranks(3, 5)),
        (
            {
                "SLURM_ARRAY_TASK_ID": "5",
                "SLURM_ARRAY_TASK_COUNT": "3",
                "SLURM_ARRAY_TASK_MIN": "1",
                "SLURM_ARRAY_TASK_STEP": "2",
            },
            Ranks(2, 3),
        ),
    ],
)
def test_launchers_say_which_worker_this_is(environment, expected):
    assert ranks(environment) == expected


def test_without_a_launcher_there_are_no_ranks():
    with pytest.raises(ValueError, match=r"nothing has set RANK and WORLD_SIZE \(torchrun\)"):
        ranks({})


def test_a_rank_is_below_the_number_of_workers():
    with pytest.raises(ValueError, match="2 workers are numbered 0 to 1, got 2"):
        Ranks(2, 2)


def test_the_first_worker_leads():
    assert [leads(Ranks(rank, 3)) for rank in range(3)] == [True, False, False]


def test_keeping_and_checking_cost_little(tmp_path):
    """Loosely: 1 MB chunks of 50 ms take less than twice as long; the benchmark measures."""
    start = time.perf_counter()
    working.add_up(Run(tmp_path), working.slowly(0.05))
    assert time.perf_counter() - start < 2 * working.N * 0.05 + 2.0
