"""How much memory large products may take: tiles for a budget, halved when memory runs out.

The budget holds inside `with budget(...)`. Tiling never changes a result's meaning: tiles are added
up in float64, in order.
"""

import re
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Protocol, TypeVar, runtime_checkable

import torch

from patching.progress import Progress

R = TypeVar("R")
S = TypeVar("S")

DEFAULT_BYTES = {"cpu": 2**25, "cuda": 2**30}


@dataclass
class Ledger:
    """What the planner did: the budget, the largest tile, how often tiles and batches were halved.

    What is done under a budget inside this one counts here too.
    """

    limit: int | float | None = None
    largest_tile: int = 0
    halved: int = 0
    batches_halved: int = 0

    def bytes_on(self, device: torch.device) -> int:
        """The budget in bytes; a fraction is of the device's free memory."""
        if self.limit is None:
            return DEFAULT_BYTES.get(device.type, DEFAULT_BYTES["cpu"])
        if isinstance(self.limit, int):
            return self.limit
        return int(self.limit * free_bytes(device))

    def counts(self) -> dict[str, int]:
        """What was done, without the budget it was done under."""
        return {
            "largest_tile": self.largest_tile,
            "halved": self.halved,
            "batches_halved": self.batches_halved,
        }

    def add(self, counts: Mapping[str, int]) -> None:
        """Count in what was done elsewhere."""
        self.largest_tile = max(self.largest_tile, counts["largest_tile"])
        self.halved += counts["halved"]
        self.batches_halved += counts["batches_halved"]

    def report(self) -> dict[str, object]:
        """For provenance."""
        return {"limit": self.limit, **self.counts()}


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
    ledger, outer = Ledger(limit), _CURRENT.get()
    token = _CURRENT.set(ledger)
    try:
        yield ledger
    finally:
        _CURRENT.reset(token)
        if outer is not None:
            outer.add(ledger.counts())


def current() -> Ledger:
    """The ledger of the innermost `budget`, or one of the defaults."""
    return _CURRENT.get() or Ledger()


_GROUPING: ContextVar[bool | None] = ContextVar("grouping", default=None)


@contextmanager
def grouping(as_many_as_fit: bool | None) -> Iterator[None]:
    """How many circuits or places runs inside take at once.

    True: as many as the budget allows, which share one structure and work on all their rows, so
    that a pass of many launches as many operations as a pass of one. False: few, which skip what
    none of them needs, so that less is computed. None is the default: as many as fit on
    accelerators, where launches are what costs, and few on the CPU, where arithmetic is.
    """
    token = _GROUPING.set(as_many_as_fit)
    try:
        yield
    finally:
        _GROUPING.reset(token)


def takes_many(device: torch.device) -> bool:
    """Whether runs on a device take as many circuits or places at once as fit; see `grouping`."""
    chosen = _GROUPING.get()
    return device.type != "cpu" if chosen is None else chosen


def in_tiles(
    total: int,
    bytes_each: int,
    device: torch.device,
    work: Callable[[slice], None],
    *,
    share: float | None = None,
) -> None:
    """Do `work` on consecutive spans of `total` items, as many at once as the budget allows.

    Where no budget is set, that is its default, or a `share` of what is free. A span for which
    memory runs out is done again in halves; `work` must add its result up only
    once it has all of it.

    Raises:
        RuntimeError: if memory runs out even for one item, or something else breaks.
    """
    ledger = current()
    asked = ledger if share is None or ledger.limit is not None else Ledger(share)
    size = max(1, min(total, asked.bytes_on(device) // max(1, bytes_each)))
    start = 0
    with Progress("", total, shown=False) as progress:
        while start < total:
            span = slice(start, min(start + size, total))
            try:
                work(span)
            except RuntimeError as error:
                if size == 1 or not is_lack_of_memory(error):
                    raise
                size, ledger.halved = size // 2, ledger.halved + 1
                _free_cached()
                continue
            ledger.largest_tile = max(ledger.largest_tile, span.stop - span.start)
            start = span.stop
            progress.at(start)


@runtime_checkable
class Examples(Protocol):
    """Some examples, of which slices are examples again."""

    def __len__(self) -> int:
        """How many."""
        ...

    def __getitem__(self: S, some: slice, /) -> S:
        """Some of them."""
        ...


E = TypeVar("E", bound=Examples)


def in_halves(examples: E, work: Callable[[E], R], join: Callable[[R, R], R]) -> R:
    """`work` on examples at once, or, where memory runs out, on their halves joined.

    Raises:
        MemoryError: if memory runs out even for one example.
        RuntimeError: if something else breaks.
    """
    try:
        return work(examples)
    except RuntimeError as error:
        if not is_lack_of_memory(error):
            raise
        said = str(error).partition("\n")[0]
    if len(examples) == 1:
        raise MemoryError(
            f"memory runs out even for one example at a time ({said}); {_in_need_of(said)}. A "
            "device with more memory, a model laid over several (--n-devices), weights in bfloat16 "
            "(--dtype), shorter prompts, or smaller tiles of large products (--memory, now "
            f"{_in_words(tiles_bytes())}) would be right"
        )
    _free_cached()
    current().batches_halved += 1
    middle = len(examples) // 2
    first, second = examples[:middle], examples[middle:]
    return join(in_halves(first, work, join), in_halves(second, work, join))


def tiles_bytes() -> int:
    """What tiles of large products may take, where the work is done."""
    return current().bytes_on(torch.device("cuda" if torch.cuda.is_initialized() else "cpu"))


def peak_bytes() -> dict[str, int]:
    """The most memory this process has had so far, on "cpu" and, where it uses one, on "cuda"."""
    peaks = {"cpu": _peak_on_host()}
    if torch.cuda.is_initialized():
        peaks["cuda"] = torch.cuda.max_memory_allocated()
    return peaks


def _peak_on_host() -> int:
    """The largest resident size so far; on Windows, without `resource`, the peak working set."""
    try:
        import resource
    except ModuleNotFoundError:
        import psutil

        return int(psutil.Process().memory_info()._asdict()["peak_wset"])
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _in_need_of(said: str) -> str:
    """A lower bound on what was needed, from the peak so far and from what was asked for last."""
    device, peak = list(peak_bytes().items())[-1]
    asked = re.search(r"allocate ([\d.]+) ?(bytes|[KMGT]iB)", said)
    more = 0 if asked is None else int(float(asked[1]) * _UNITS[asked[2]])
    return (
        f"it needs {_in_words(peak + more)} on {device} or more, weights included, of which the "
        f"process has had {_in_words(peak)}"
    )


_UNITS = {"bytes": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}


def _in_words(n_bytes: int) -> str:
    unit = next(u for u in reversed(_UNITS) if n_bytes >= _UNITS[u] or u == "bytes")
    return f"{n_bytes / _UNITS[unit]:.3g} {unit}"


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


def _free_cached() -> None:
    """Give memory back that torch keeps for later; pieces of it may be too small for anything."""
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
