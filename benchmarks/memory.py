"""Peak memory of one job above what was resident before it, in this process."""

import re
from pathlib import Path

_KILOBYTE = 1024


def peak_bytes(name: str, device: str, *, wide: bool) -> int:
    """Run the job once to warm up, then once more while the peak is watched."""
    import torch  # here, so that the parent process stays small

    from benchmarks.jobs import MEMORY_JOBS
    from benchmarks.subject import GPT2_SMALL, LLAMA_8B_WIDTHS, make

    torch.set_num_threads(1)
    subject = make(LLAMA_8B_WIDTHS if wide else GPT2_SMALL, device)
    job = MEMORY_JOBS[name]
    if device.startswith("cuda"):
        job(subject)
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        job(subject)
        return torch.cuda.max_memory_allocated() - before
    subject.model.weights  # noqa: B018 - hashed now, so that it is not counted
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak (Linux)
    before = _status("VmRSS")
    job(subject)
    return _status("VmHWM") - before


def _status(field: str) -> int:
    text = Path("/proc/self/status").read_text(encoding="utf-8")
    found = re.search(rf"{field}:\s+(\d+) kB", text)
    assert found, f"/proc/self/status has no {field}"
    return int(found.group(1)) * _KILOBYTE
