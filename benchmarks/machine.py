"""What a table was measured on: the processor or card, the versions, the commit."""

import platform
import re
import subprocess
from importlib.metadata import version
from pathlib import Path

PACKAGES = ("torch", "transformers", "transformer-lens")


def processor() -> str:
    """The processor's name, as the system tells it (Linux), or as Python does."""
    told = Path("/proc/cpuinfo")
    found = re.search(r"model name\s*:\s*(.+)", told.read_text()) if told.is_file() else None
    return (found[1].strip() if found else platform.processor()) or platform.machine()


def device_name(device: str) -> str:
    """The name of what does the work: the card, or the processor and its threads."""
    import torch  # here, so that the parent process stays small

    if device.startswith("cuda"):
        return torch.cuda.get_device_name(device)
    threads = torch.get_num_threads()
    return f"{processor()}, {threads} thread{'s' if threads > 1 else ''}"


def commit() -> str:
    """The commit of this checkout, with a + where files differ from it; unknown outside one."""
    command = ["git", "describe", "--always", "--dirty=+", "--abbrev=10"]
    try:
        folder = Path(__file__).parent
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return done.stdout.strip()


def versions() -> str:
    """Python, what the numbers hang on most, and the commit."""
    packages = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    return f"Python {platform.python_version()}, {packages}, commit {commit()}"
