"""Progress on stderr, with rate and time left, for work that lasts. Knows nothing of the work.

The outermost that knows how much there is tells; those inside it say how far its current item is,
and what knows of no number counts runs of the model (`beat`). On a terminal and in notebooks a bar,
once a second has passed, that is cleared at the end. Where stderr is a file or a pipe, a plain line
after two seconds, then at every tenth of the work and at least every minute, but none within ten
seconds of the last. `TQDM_DISABLE=1` in the environment turns it off.
"""

import os
import sys
import time
from collections.abc import Iterable, Iterator, Sized
from contextlib import suppress
from contextvars import ContextVar
from dataclasses import dataclass, field
from importlib.util import find_spec
from types import TracebackType
from typing import Protocol, TypeVar, cast, runtime_checkable

T = TypeVar("T")

FIRST, SHORTEST, LONGEST = 2.0, 10.0, 60.0
"""Seconds before the first line and between two, where there is no terminal."""


def track(iterable: Iterable[T], what: str, total: int | None = None) -> Iterator[T]:
    """The same items, with progress named `what`."""
    return _counted(iterable, what, total, shown=True)


def within(iterable: Iterable[T], total: int | None = None) -> Iterator[T]:
    """The same items, as parts of an item of the progress around them; alone they show nothing."""
    return _counted(iterable, "", total, shown=False)


def _counted(iterable: Iterable[T], what: str, total: int | None, *, shown: bool) -> Iterator[T]:
    if total is None and isinstance(iterable, Sized):
        total = len(iterable)
    with Progress(what, total, shown=shown) as progress:
        progress.caller = id(sys._getframe(1))
        for i, item in enumerate(iterable):
            yield item
            progress.at(i + 1)


def beat() -> None:
    """One more run of a model: all that can be told where nobody knows how many there will be."""
    running = _RUNNING.get()
    if running:
        running[-1].ran()


def is_on() -> bool:
    """Whether progress is shown in this process at all."""
    return sys.stderr is not None and os.environ.get("TQDM_DISABLE", "") in ("", "0")


def show(line: str) -> None:
    """A line of progress that another process has told."""
    if is_on():
        with suppress(OSError):  # no work ends because its progress is not read
            sys.stderr.write(line)
            sys.stderr.flush()


@runtime_checkable
class _Bar(Protocol):
    """What is needed of tqdm's bars, which are imported when one is drawn."""

    n: float

    def update(self, n: float = 1, /) -> object: ...

    def set_postfix_str(self, s: str = "", refresh: bool = True) -> object: ...

    def close(self) -> object: ...


@dataclass
class _Lines:
    """When the last line was written, or what it would be about began."""

    last: float = field(default_factory=lambda: time.monotonic())
    any: bool = False


class Progress:
    """How far some work is, for a `with`.

    Of `total` items (None: nobody knows), `done` were done before. `shown` off shows nothing, for
    workers of which another one tells, and for parts of one item. `caller` is the frame that goes
    through items of `track`: an error may have left it while its traceback keeps all alive.
    """

    caller: int | None = None

    def __init__(self, what: str, total: int | None, *, done: int = 0, shown: bool = True) -> None:
        self._what, self._total, self._first, self._done = what, total, done, done
        self._shown, self._inside, self._runs, self._words = shown and is_on(), 0.0, 0, ""
        self._outer: Progress | None = None
        self._bar: _Bar | None = None
        self._lines, self._start = _Lines(), time.monotonic()
        self._told: float | None = None

    def __enter__(self) -> "Progress":
        running = _running()
        self._shown &= all(one._shown and one._total is None for one in running)
        if running:
            self._outer, self._lines = running[-1], running[-1]._lines
        if self._shown and _draws_bars():
            self._bar = _bar(self._what, self._total, self._done)
        _RUNNING.set((*_RUNNING.get(), self))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        _RUNNING.set(tuple(one for one in _RUNNING.get() if one is not self))
        if self._bar is not None:
            self._bar.close()

    def at(self, done: int) -> None:
        """So many are done now."""
        self._done, self._inside = done, 0.0
        self._tell()

    def say(self, words: str) -> None:
        """A few words to stand behind the numbers from now on, such as the loss."""
        self._words = words
        if self._bar is not None:
            self._bar.set_postfix_str(words, refresh=False)

    def ran(self, *, told: bool = False) -> None:
        """A model was run on the way; `told`: one inside this tells of it in lines."""
        self._runs += 1
        if self._shown and (self._bar is not None or not told):
            self._show()
        if self._outer is not None:
            self._outer.ran(told=told or self._shown)

    def _within(self, share: float) -> None:
        """So much of the item after those that are done."""
        self._inside = max(self._inside, min(share, 1.0))
        self._tell()

    def _tell(self) -> None:
        if self._shown:
            self._show()
        elif self._outer is not None and self._total:
            self._outer._within((self._done + self._inside) / self._total)

    def _show(self) -> None:
        if self._bar is not None:
            now = self._count if self._total is None else self._done + self._inside
            self._bar.update(now - self._bar.n)
            return
        done, lines, now = self._done + self._inside, self._lines, time.monotonic()
        since = now - lines.last
        told, total = self._told, self._total
        tenth = told is None or (total is not None and (done - told) * 10 >= total)
        due = since >= SHORTEST and tenth if lines.any else since >= FIRST
        if (due or since >= LONGEST) and done != self._total and self in _running():
            self._write(self._line(done, now - self._start))
            lines.last, lines.any, self._told = now, True, done

    @property
    def _count(self) -> int:
        """Where nobody knows how many there will be: items or, of none, runs."""
        return self._done or self._runs

    @property
    def _ran(self) -> str:
        """How often a model was run, in words."""
        return f"{self._runs:,} run{'' if self._runs == 1 else 's'} of the model so far"

    def _write(self, line: str) -> None:
        """Say it, as long as somebody listens: no work ends because its progress is not read."""
        try:
            sys.stderr.write(line)
            sys.stderr.flush()
        except OSError:
            self._shown = False

    def _line(self, done: float, seconds: float) -> str:
        words = f", {self._words}" if self._words else ""
        if self._total is None:
            count = f"{self._done:,} done, {self._done / seconds:.3g} a second"
            return f"{self._what}: {count if self._done else self._ran}{words}\n"
        rate, share = (done - self._first) / seconds, f"{done / self._total:.0%}"
        count = share if self._total == 1 else f"{int(done):,} of {self._total:,} ({share})"
        if not rate:
            runs = f", {self._ran}" if self._runs else ""
            return f"{self._what}: {count}{runs}{words}\n"
        speed = "" if self._total == 1 else f", {rate:.3g}/s"
        return f"{self._what}: {count}{speed}, {_clock((self._total - done) / rate)} left{words}\n"


_RUNNING: ContextVar[tuple[Progress, ...]] = ContextVar("progress", default=())
"""What is going on in this thread, the outermost first."""


def _running() -> tuple[Progress, ...]:
    """What is going on, without what an error has left."""
    running, stack = _RUNNING.get(), set[int]()
    frame = sys._getframe()
    while frame is not None and any(one.caller for one in running):
        stack.add(id(frame))
        frame = frame.f_back
    return tuple(one for one in running if one.caller is None or one.caller in stack)


def _clock(seconds: float) -> str:
    """Hours, minutes and seconds.

    >>> _clock(75.0), _clock(7275.0)
    ('01:15', '2:01:15')
    """
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes:02}:{rest:02}"


def _draws_bars() -> bool:
    return sys.stderr.isatty() or _in_notebook()


def _in_notebook() -> bool:
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return type(shell).__name__ == "ZMQInteractiveShell"


def _bar(what: str, total: int | None, done: int) -> _Bar:
    """A bar of the notebook where it can draw one, of text otherwise."""
    options = {"desc": what, "total": total, "initial": done, "delay": 1}
    options |= {"leave": False, "disable": False}  # tqdm would keep what it was told when imported
    form = None if total is None else _PARTLY.replace("FORM", ".3g" if total < 100 else ".0f")
    if _in_notebook() and find_spec("ipywidgets") is not None:
        from tqdm.notebook import tqdm as notebook_bar

        return cast(_Bar, notebook_bar(**options, bar_format=form))
    from tqdm import tqdm

    return tqdm(**options, bar_format=form, file=sys.stderr)


_PARTLY = "{l_bar}{bar}| {n:FORM}/{total_fmt} [{elapsed}<{remaining}, {rate_fmt}{postfix}]"
"""A bar whose items may be partly done."""
