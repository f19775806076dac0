"""What an accelerator takes: time in units of the plain model on the same card, and peak memory.

The GPT-2-small shape in float32, and Llama 8B's widths in bfloat16 with as many layers as memory
allows. Any device will do, so that this is tested where there is no card.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import torch

from benchmarks.jobs import Job, evaluate_share, score_eap, score_eap_ig
from benchmarks.live import peak_live_bytes
from benchmarks.subject import GPT2_SMALL, LLAMA_8B_WIDTHS, Shape, Subject, make
from benchmarks.timing import ratio, row, time_jobs
from patching.memory import free_bytes

GROUPS = (1, 8, 64, 256)
SHARES = (0.5, 0.01)
LLAMA_8B = replace(LLAMA_8B_WIDTHS, n_layers=32, vocab=128_256, batch=4, pos=32)


def print_card(device: str, rounds: int) -> None:
    """Print both tables for a device."""
    free = free_bytes(torch.device(device))
    _print_shape(GPT2_SMALL, torch.float32, device, rounds)
    n_layers = layers_that_fit(LLAMA_8B, free)
    if n_layers == 0:
        row(f"Llama 8B's widths: no layer fits into half of {free / 2**30:.1f} GiB, twice")
        return
    name = f"{n_layers} of {LLAMA_8B.n_layers} layers of Llama 8B's widths"
    shape = replace(LLAMA_8B, name=name, n_layers=n_layers)
    _print_shape(shape, torch.bfloat16, device, rounds)


def layers_that_fit(shape: Shape, free: int, bytes_each: int = 2) -> int:
    """How many of a shape's layers fit twice, plain and wrapped, into half of what is free."""
    kv_share = (shape.n_kv_heads or shape.n_heads) / shape.n_heads
    d_mlp = shape.d_mlp or 4 * shape.d_model
    layer = shape.d_model * (shape.d_model * (2 + 2 * kv_share) + 3 * d_mlp)
    ends = 2 * shape.vocab * shape.d_model
    room = free / (2 * 2 * bytes_each) - ends
    return max(0, min(shape.n_layers, int(room / layer)))


def measure_on(
    subject: Subject, device: str, rounds: int, groups: Sequence[int] = GROUPS
) -> dict[str, tuple[float, int]]:
    """How long each job takes, and its peak memory in bytes above what was there before.

    Scores are in units of two forwards and one backward of the plain model, circuits in its
    forwards of the same rows: prompts times circuits.
    """
    jobs: dict[str, tuple[Job, str, int]] = {
        "EAP": (score_eap, "unit", 1),
        "EAP-IG, 5 steps": (score_eap_ig, "unit", 1),
    }
    for share in SHARES:
        for n in groups:
            jobs[f"{n} circuits of {share:.0%}"] = (evaluate_share(share, n), "forward", n)
    works: dict[str, Callable[[], object]] = {"unit": subject.unit, "forward": subject.forward}
    works |= {name: partial(job, subject) for name, (job, _, _) in jobs.items()}
    times = time_jobs(works, rounds, device)
    return {
        name: (ratio(times[name], times[unit]) / n, peak_on(works[name], device))
        for name, (_, unit, n) in jobs.items()
    }


def peak_on(work: Callable[[], object], device: str) -> int:
    """The peak above what was there before: as CUDA tells it, elsewhere of living tensors."""
    if not device.startswith("cuda"):
        return peak_live_bytes(work)
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    work()
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device) - before


def _print_shape(shape: Shape, dtype: torch.dtype, device: str, rounds: int) -> None:
    subject = make(shape, device, dtype)
    name = str(dtype).removeprefix("torch.")
    print(f"\n{shape.name}, {name}, {shape.batch} x {shape.pos} tokens, {device}")
    plain = peak_on(subject.forward_backward, device)
    row("plain forward + backward", "", f"{plain / 2**20:.0f} MB")
    for what, (times, peak) in measure_on(subject, device, rounds).items():
        unit = "forwards a circuit" if "circuits" in what else "units"
        row(what, f"{times:.2f} {unit}", f"{peak / 2**20:.0f} MB")
