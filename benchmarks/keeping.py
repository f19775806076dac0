"""What keeping chunks costs: writing, syncing, hashing and reading back, by size of a chunk.

`python -m benchmarks.keeping`: a Markdown table, in milliseconds and as a share of one-second
chunks.
"""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from patching.work import Done
from patching.work.store import open_store

SIZES = {
    "toy, 1.5 k edges": 1_500,
    "GPT-2 small, 32 k edges": 32_491,
    "GPT-2 medium, 230 k edges": 231_877,
    "Llama-3-8B, 1.59 M edges": 1_592_881,
}
TIMES = 9


def milliseconds(work: Callable[[], object]) -> float:
    """How long something takes."""
    start = time.perf_counter()
    work()
    return 1000 * (time.perf_counter() - start)


def measure(folder: Path, n_edges: int) -> tuple[float, float]:
    """The least times of keeping a chunk of scores, and of reading one with all checks.

    The least, because what others do on the machine only adds.
    """
    store = open_store(folder, "keeping", {"edges": n_edges}, TIMES)
    done = Done({"edges": torch.randn(n_edges, dtype=torch.float64)}, "benchmark", 1.0)
    kept = [milliseconds(lambda i=i: store.keep(i, done)) for i in range(TIMES)]
    read = [milliseconds(lambda i=i: store.read(i)) for i in range(TIMES)]
    return min(kept), min(read)


def main() -> None:
    """Print the table."""
    print("| scores of | keep, ms | read, ms | both, share of a one-second chunk |")
    print("|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for name, n_edges in SIZES.items():
            kept, read = measure(Path(folder), n_edges)
            share = (kept + read) / 1000
            print(f"| {name} | {kept:.1f} | {read:.1f} | {share:.2%} |")


if __name__ == "__main__":
    main()
