"""Times of jobs in interleaved rounds, their ratios, and rows of a printed table."""

import statistics
import time
from collections.abc import Callable, Mapping

Times = dict[str, list[float]]


def time_jobs(
    jobs: Mapping[str, Callable[[], object]], rounds: int, device: str, *, warm_up: bool = True
) -> Times:
    """Seconds of each job in each round, after one round of warming up."""
    from benchmarks.jobs import synchronise

    times: Times = {name: [] for name in jobs}
    for _ in range(rounds + warm_up):
        for name, job in jobs.items():
            synchronise(device)
            start = time.perf_counter()
            job()
            synchronise(device)
            times[name].append(time.perf_counter() - start)
    return {name: seconds[warm_up:] for name, seconds in times.items()}


def ratio(times: list[float], unit: list[float]) -> float:
    """The median over rounds of how many units something takes."""
    return statistics.median(a / b for a, b in zip(times, unit, strict=True))


def row(*cells: str) -> None:
    """Print one line of a table."""
    print("  " + cells[0].ljust(44) + "".join(cell.rjust(24) for cell in cells[1:]), flush=True)
