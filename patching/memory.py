"""How much memory large products may take: tiles for a budget, halved when memory runs out.

The budget holds inside `with budget(...)`. Tiling never changes a result's meaning: tiles are added
up in float64, in order.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

import torch

DEFAULT_BYTES = {"cpu": 2**25, "cuda": 2**30}


@dataclass
class Ledger:
    """What the planner did: the budget, the largest tile used, how often a tile was halved."""

    limit: int | float | None = None
    largest_tile: int = 0
    halved: int = 0

    def bytes_on(self, device: torch.device) -> int:
        """The budget in bytes; a fraction is of the device's free memory."""
        if self.limit is None:
            return DEFAULT_BYTES.get(device.type, DEFAULT_BYTES["cpu"])
        if isinstance(self.limit, int):
            return self.limit
        return int(self.limit * free_bytes(device))

    def report(self) -> dict[str, object]:
        """For provenance."""
        return {"limit": self.limit, "largest_tile": self.largest_tile, "halved": self.halved}


_CURRENT: ContextVar[Ledger | None] = ContextVar("memory", default=None)


@contextmanager
def budget(limit: int | float | None) -> Iterator[Ledger]:
    """Memory for the tiles of what runs inside: bytes, a fraction of the device, or the default.

    Raises:
        ValueError: if it is no positive number of bytes and no fraction of 1.
    """
    if limit is not None and (limit <= 0 or (isinstance(limit, float) and limit > 1)):
        raise ValueError(
            f"a memory budget is a whole number of bytes or a fraction up to 1.0, got {limit!r}"
        )
    ledger = Ledger(limit)
    token = _CURRENT.set(ledger)
    try:
        yield ledger
    finally:
        _CURRENT.reset(token)


def current() -> Ledger:
    """The ledger of the innermost `budget`, or one of the defaults."""
    return _CURRENT.get() or Ledger()


def in_tiles(
    total: int, bytes_each: int, device: torch.device, work: Callable[[slice], None]
) -> None:
    """Do `work` on consecutive spans of `total` items, as many at once as the budget allows.

    A span for which memory runs out is done again in halves; `work` must add its result up only
    once it has all of it.

    Raises:
        RuntimeError: if memory runs out even for one item, or something else breaks.
    """
    ledger = current()
    size = max(1, min(total, ledger.bytes_on(device) // max(1, bytes_each)))
    start = 0
    while start < total:
        span = slice(start, min(start + size, total))
        try:
            work(span)
        except RuntimeError as error:
            if size == 1 or not is_lack_of_memory(error):
                raise
            size, ledger.halved = size // 2, ledger.halved + 1
            if device.type == "cuda":
                torch.cuda.empty_cache()
            continue
        ledger.largest_tile = max(ledger.largest_tile, span.stop - span.start)
        start = span.stop


def is_lack_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, on any device."""
    said = str(error).lower()
    return isinstance(error, torch.OutOfMemoryError) or any(
        words in said for words in ("out of memory", "can't allocate memory", "not enough memory")
    )


def free_bytes(device: torch.device) -> int:
    """Memory on a device that nobody uses, in bytes."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    import psutil  # comes with accelerate, which transformer-lens needs

    return psutil.virtual_memory().available
