"""Peak memory of one job above what was resident before it, in this process, told twice."""

import re
from functools import partial
from pathlib import Path

_KILOBYTE = 1024


def peaks(name: str, device: str, subject_name: str) -> tuple[int, int]:
    """Run a job once to warm up, then twice more while its peak is watched.

    The process's peak (a card's, where there is one), then that of living tensors: the first has
    what kernels and the allocator need besides, the second is exact.
    """
    import torch  # here, so that the parent process stays small

    from benchmarks.jobs import MEMORY_JOBS
    from benchmarks.live import peak_live_bytes
    from benchmarks.subject import open_named

    torch.set_num_threads(1)
    subject = open_named(subject_name, device)
    job = partial(MEMORY_JOBS[name], subject)
    if device.startswith("cuda"):
        job()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        job()
        return torch.cuda.max_memory_allocated() - before, peak_live_bytes(job)
    reset_peak()
    before = in_use()
    job()
    process = peak_in_use() - before
    return process, peak_live_bytes(job)


def reset_peak() -> None:
    """Begin to watch this process's peak anew (Linux)."""
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")


def in_use() -> int:
    """Bytes of this process that are resident now."""
    return _status("VmRSS")


def peak_in_use() -> int:
    """The most that were resident since the peak was reset."""
    return _status("VmHWM")


def _status(field: str) -> int:
    text = Path("/proc/self/status").read_text(encoding="utf-8")
    found = re.search(rf"{field}:\s+(\d+) kB", text)
    assert found, f"/proc/self/status has no {field}"
    return int(found.group(1)) * _KILOBYTE
