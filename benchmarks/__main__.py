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
import warnings
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from benchmarks.machine import device_name, versions
from benchmarks.memory import peaks
from benchmarks.roofline import CARDS, estimate
from benchmarks.timing import ratio, row, time_jobs

if TYPE_CHECKING:
    from benchmarks.jobs import Job
    from benchmarks.subject import Subject


def main() -> None:
    """Parse the command line and print the tables."""
    os.environ.setdefault("TQDM_DISABLE", "1")
    args = _parser().parse_args()
    warnings.simplefilter("ignore")
    if args.peak_of:
        print(*peaks(args.peak_of, args.device, args.subject))
        return
    import torch  # here, so that --help does not wait for it

    if args.threads:
        torch.set_num_threads(args.threads)
    print(f"{device_name(args.device)}; {versions()}")
    if args.device != "cpu":
        from benchmarks.card import print_card

        print_card(args.device, args.rounds)
    for name in args.tables:
        _TABLES[name](args)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tables", nargs="+", choices=_TABLES, default=tuple(_TABLES))
    parser.add_argument("--model", metavar="FOLDER", help="a real model beside the random ones")
    parser.add_argument("--card", choices=CARDS, default="h100", help="of the estimate (h100)")
    parser.add_argument(
        "--library", action="store_true", help="TransformerLens' sweeps beside ours: minutes more"
    )
    parser.add_argument("--threads", type=int, default=0, help="0: as torch chooses")
    parser.add_argument("--peak-of", help="internal: measure one job's memory in this process")
    parser.add_argument("--subject", default="gpt2", help="internal: on which model")
    return parser


def _print_operations(args: argparse.Namespace) -> None:
    """Exact counts, and what a card would take at least by them."""
    from benchmarks.passes import count_passes
    from benchmarks.subject import GPT2_SMALL, make

    card, shape = CARDS[args.card], GPT2_SMALL
    print(f"\nOperations a pass, {shape.name}, {shape.batch} x {shape.pos} tokens: exact counts")
    print(f"(last column: an ESTIMATE for {card.name}, a lower bound, and what it would wait for)")
    row("", "launches", "read back", "on host plans", "estimate")
    for name, found in count_passes(make(shape, "cpu")).items():
        at_least = estimate(found, card)
        row(
            name,
            f"{found.launches:,}",
            f"{found.read_backs:,}",
            f"{found.host_operations:,}",
            f"{1000 * at_least.seconds:.1f} ms ({at_least.bound})",
        )


def _print_speed(args: argparse.Namespace) -> None:
    from benchmarks.jobs import EVALUATION_JOBS, EXACT_JOBS, SPEED_JOBS, TINY_JOBS
    from benchmarks.subject import GPT2_SMALL, SMALL, TINY, make, open_subject

    device, rounds = args.device, args.rounds
    print(f"\nTime, {device}, medians of {rounds} rounds")
    subject = make(GPT2_SMALL, device)
    _print_times(GPT2_SMALL.name, subject, SPEED_JOBS | EVALUATION_JOBS | EXACT_JOBS, rounds)
    _print_answers(subject, rounds)
    _print_spans(subject, rounds)
    two = dict(list(SPEED_JOBS.items())[:2])
    _print_times(SMALL.name, make(SMALL, device), two | EVALUATION_JOBS, rounds)
    if args.model is not None:
        _print_times(args.model, open_subject(args.model, device), two | EVALUATION_JOBS, rounds)
    _print_times(TINY.name, make(TINY, device), TINY_JOBS, rounds)


def _print_answers(subject: "Subject", rounds: int) -> None:
    """Answers of three tokens against answers of one, in rows of the same length."""
    from benchmarks.answers import jobs

    for name, (one, three) in jobs(subject).items():
        times = time_jobs({"one": one, "three": three}, rounds, str(subject.model.device))
        row(f"  answers of 3 tokens, {name}", f"{ratio(times['three'], times['one']):.2f} x one")


def _print_spans(subject: "Subject", rounds: int) -> None:
    """Edges at spans of their own against edges at all of them."""
    from benchmarks.spans import jobs

    for name, (whole, apart) in jobs(subject).items():
        times = time_jobs({"whole": whole, "apart": apart}, rounds, str(subject.model.device))
        row(f"  by span, {name}", f"{ratio(times['apart'], times['whole']):.2f} x without")


def _print_times(title: str, subject: "Subject", jobs: "dict[str, Job]", rounds: int) -> None:
    """Scores in units, what runs circuits or edges in forwards each."""
    from benchmarks.jobs import EVALUATION_JOBS, EXACT_JOBS, N_CIRCUITS, N_EXACT

    device = str(subject.model.device)
    works: dict[str, Callable[[], object]] = {"unit": subject.unit, "forward": subject.forward}
    works |= {name: partial(job, subject) for name, job in jobs.items()}
    times = time_jobs(works, rounds, device)
    n_rows, n_pos = subject.clean.shape
    seconds = f"{statistics.median(times['unit']):.3f} s"
    row(f"{title}, {n_rows} x {n_pos} tokens: unit", seconds)
    for name in jobs:
        if name in EVALUATION_JOBS:
            each = ratio(times[name], times["forward"]) / N_CIRCUITS
            row(f"  {name}", f"{each:.2f} forwards a circuit")
        elif name in EXACT_JOBS:
            row(
                f"  {name}",
                f"{ratio(times[name], times['forward']) / N_EXACT:.2f} forwards an edge",
            )
        else:
            row(f"  {name}", f"{ratio(times[name], times['unit']):.2f} units")


def _print_sweeps(args: argparse.Namespace) -> None:
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

    device, with_library = args.device, args.library
    subject = make(GPT2_SMALL, device)
    print(f"\nactivation patching, {GPT2_SMALL.name}, {GPT2_SMALL.batch} x {GPT2_SMALL.pos} tokens")
    jobs = {"unit": subject.unit, "attribution": lambda: attribute_everything(subject)}
    times = time_jobs(jobs, args.rounds, device)
    row(ATTRIBUTION, f"{ratio(times['attribution'], times['unit']):.2f} units")
    jobs = {"pass": subject.forward_backward, "neurons": lambda: context_aware_neurons(subject)}
    times = time_jobs(jobs, 1, device)
    share = ratio(times["neurons"], times["pass"]) / ircan_passes(subject)
    row("IRCAN, of the passes its formula needs", f"{share:.2f} x")
    for name, (ours, library) in SWEEPS.items():
        jobs = {"forward": subject.forward, "ours": partial(ours, subject)}
        jobs |= {"library": partial(library, subject)} if with_library else {}
        with torch.no_grad():
            times = time_jobs(jobs, 1, device, warm_up=False)
        cells = [f"{ratio(times['ours'], times['forward']):.0f} forwards"]
        if with_library:
            faster = ratio(times["library"], times["ours"])
            cells.append(f"{faster:.1f} x faster than the library")
        row(name, *cells)


def _print_memory(args: argparse.Namespace) -> None:
    for name in ("gpt2", "wide", *([] if args.model is None else [args.model])):
        _print_peaks(args.device, name)


def _print_peaks(device: str, name: str) -> None:
    from benchmarks.jobs import MEMORY_JOBS, WIDE_MEMORY_JOBS
    from benchmarks.subject import SHAPES

    title = SHAPES[name].name if name in SHAPES else name
    print(f"\nPeak memory above resting, fresh processes: {title}")
    row("", "process", "", "living tensors, exact", "")
    command = [sys.executable, "-m", "benchmarks", "--device", device, "--subject", name]
    # Large blocks go back to the system when freed, so that the peak is of what is in use
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"}
    reference: list[int] = []
    for job in MEMORY_JOBS if name == "gpt2" else WIDE_MEMORY_JOBS:
        measure = [*command, "--peak-of", job]
        done = subprocess.run(measure, check=True, capture_output=True, env=environment)
        found = [int(word) for word in done.stdout.split()[-2:]]
        reference = reference or found
        cells = [
            cell
            for peak, plain in zip(found, reference, strict=True)
            for cell in (f"{peak / 2**20:.0f} MB", f"{peak / plain:.2f} x")
        ]
        row(job, *cells)


_TABLES: dict[str, Callable[[argparse.Namespace], None]] = {
    "operations": _print_operations,
    "speed": _print_speed,
    "sweeps": _print_sweeps,
    "memory": _print_memory,
}

if __name__ == "__main__":
    main()
