"""`python -m benchmarks`: print a table of speed and memory.

Times are medians over interleaved rounds, in units of two forwards and one backward of the plain
Hugging Face model (eager attention, frozen parameters, full logits) timed in the same round;
evaluations are per circuit, in plain forwards. Memory is the peak above what was resident before,
each job in a fresh process.
"""

import argparse
import os
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Mapping

from benchmarks.memory import peak_bytes

os.environ.setdefault("TQDM_DISABLE", "1")


def main() -> None:
    """Parse the command line and print the tables."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument(
        "--no-library", action="store_true", help="leave out TransformerLens' sweeps: minutes"
    )
    parser.add_argument("--threads", type=int, default=0, help="0: as torch chooses")
    parser.add_argument("--peak-of", help="internal: measure one job's memory in this process")
    parser.add_argument("--wide", action="store_true", help="internal: at Llama 8B's widths")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    if args.peak_of:
        print(peak_bytes(args.peak_of, args.device, wide=args.wide))
        return
    _print_speed(args.device, args.rounds, args.threads)
    _print_sweeps(args.device, args.rounds, with_library=not args.no_library)
    _print_memory(args.device, wide=False)
    _print_memory(args.device, wide=True)


def _print_speed(device: str, rounds: int, threads: int) -> None:
    import torch  # here, so that --help does not wait for it

    from benchmarks.jobs import (
        EVALUATION_JOBS,
        EXACT_JOBS,
        N_CIRCUITS,
        N_EXACT,
        SPEED_JOBS,
        TINY_JOBS,
    )
    from benchmarks.subject import GPT2_SMALL, TINY, make

    if threads:
        torch.set_num_threads(threads)
    subject = make(GPT2_SMALL, device)
    shape = f"{GPT2_SMALL.name}, {GPT2_SMALL.batch} x {GPT2_SMALL.pos} tokens"
    print(f"{shape}, {device}, {torch.get_num_threads()} threads, {rounds} rounds")
    jobs: dict[str, Callable[[], object]] = {"unit": subject.unit, "forward": subject.forward}
    for name, job in {**SPEED_JOBS, **EVALUATION_JOBS, **EXACT_JOBS}.items():
        jobs[name] = lambda job=job: job(subject)
    times = _time(jobs, rounds, device)
    _row("unit: 2 forwards + 1 backward, plain", f"{statistics.median(times['unit']):.3f} s")
    for name in SPEED_JOBS:
        _row(name, f"{_ratio(times[name], times['unit']):.2f} units")
    for name in EVALUATION_JOBS:
        ratio = _ratio(times[name], times["forward"]) / N_CIRCUITS
        _row(name, f"{ratio:.2f} forwards a circuit")
    for name in EXACT_JOBS:
        ratio = _ratio(times[name], times["forward"]) / N_EXACT
        _row(name, f"{ratio:.2f} forwards an edge")
    tiny = make(TINY, device)
    print(f"\n{TINY.name}, {TINY.batch} x {TINY.pos} tokens")
    jobs = {name: lambda job=job: job(tiny) for name, job in TINY_JOBS.items()}
    times = _time({"unit": tiny.unit, **jobs}, min(rounds, 5), device)
    for name in TINY_JOBS:
        _row(name, f"{_ratio(times[name], times['unit']):.1f} units")


def _print_sweeps(device: str, rounds: int, *, with_library: bool) -> None:
    """One round beside TransformerLens: it takes minutes, and the ratio is large."""
    import torch

    from benchmarks.subject import GPT2_SMALL, make
    from benchmarks.sweeps import (
        ATTRIBUTION,
        SWEEPS,
        attribute_everything,
        context_aware_neurons,
        ircan_passes,
    )

    subject = make(GPT2_SMALL, device)
    print(f"\nactivation patching, {GPT2_SMALL.name}, {GPT2_SMALL.batch} x {GPT2_SMALL.pos} tokens")
    jobs = {"unit": subject.unit, "attribution": lambda: attribute_everything(subject)}
    times = _time(jobs, min(rounds, 5), device)
    _row(ATTRIBUTION, f"{_ratio(times['attribution'], times['unit']):.2f} units")
    jobs = {"pass": subject.forward_backward, "neurons": lambda: context_aware_neurons(subject)}
    times = _time(jobs, 2, device)
    share = _ratio(times["neurons"], times["pass"]) / ircan_passes(subject)
    _row("IRCAN, of the passes its formula needs", f"{share:.2f} x")
    for name, (ours, library) in SWEEPS.items():
        jobs = {"forward": subject.forward, "ours": lambda job=ours: job(subject)}
        jobs |= {"library": lambda job=library: job(subject)} if with_library else {}
        with torch.no_grad():
            times = _time(jobs, 1, device, warm_up=False)
        cells = [f"{_ratio(times['ours'], times['forward']):.0f} forwards"]
        if with_library:
            faster = _ratio(times["library"], times["ours"])
            cells.append(f"{faster:.1f} x faster than the library")
        _row(name, *cells)


def _print_memory(device: str, *, wide: bool) -> None:
    from benchmarks.jobs import MEMORY_JOBS, WIDE_MEMORY_JOBS
    from benchmarks.subject import GPT2_SMALL, LLAMA_8B_WIDTHS

    shape = LLAMA_8B_WIDTHS if wide else GPT2_SMALL
    print(f"\nPeak memory above resting, fresh processes: {shape.name}")
    command = [sys.executable, "-m", "benchmarks", "--device", device]
    command += ["--wide"] if wide else []
    # Large blocks go back to the system when freed, so that the peak is of what is in use
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"}
    peaks = {}
    for name in WIDE_MEMORY_JOBS if wide else MEMORY_JOBS:
        measure = [*command, "--peak-of", name]
        done = subprocess.run(measure, check=True, capture_output=True, env=environment)
        peaks[name] = int(done.stdout.split()[-1])
    reference = next(iter(peaks.values()))
    for name, peak in peaks.items():
        _row(name, f"{peak / 2**20:.0f} MB", f"{peak / reference:.2f} x")


def _time(
    jobs: Mapping[str, Callable[[], object]], rounds: int, device: str, *, warm_up: bool = True
) -> dict[str, list[float]]:
    """Seconds of each job in each round, after one round of warming up."""
    from benchmarks.jobs import synchronise

    times: dict[str, list[float]] = {name: [] for name in jobs}
    for _ in range(rounds + warm_up):
        for name, job in jobs.items():
            synchronise(device)
            start = time.perf_counter()
            job()
            synchronise(device)
            times[name].append(time.perf_counter() - start)
    return {name: seconds[warm_up:] for name, seconds in times.items()}


def _ratio(times: list[float], unit: list[float]) -> float:
    return statistics.median(a / b for a, b in zip(times, unit, strict=True))


def _row(*cells: str) -> None:
    print("  " + cells[0].ljust(44) + "".join(cell.rjust(24) for cell in cells[1:]), flush=True)


if __name__ == "__main__":
    main()
