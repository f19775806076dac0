"""Progress on stderr, with rate and time left, for work that lasts. Knows nothing of the work.

On a terminal and in notebooks a bar, once a second has passed, that is cleared at the end. Where
stderr is a file or a pipe, a plain line at every tenth of the work and at least every minute, but
none in the first ten seconds and within ten seconds of the last. `TQDM_DISABLE=1` in the
environment turns it off.
"""

import os
import sys
import time
from collections.abc import Iterable, Iterator
from importlib.util import find_spec
from types import TracebackType
from typing import TypeVar

from tqdm import tqdm

T = TypeVar("T")

SHORTEST, LONGEST = 10.0, 60.0
"""Seconds between two lines, where there is no terminal."""


def track(iterable: Iterable[T], what: str, total: int | None = None) -> Iterator[T]:
    """The same items, with progress named `what`."""
    if total is None and hasattr(iterable, "__len__"):
        total = len(iterable)  # pyright: ignore[reportArgumentType]
    with Progress(what, total) as progress:
        for i, item in enumerate(iterable):
            yield item
            progress.at(i + 1)


class Progress:
    """How far some work is, for a `with`.

    Of `total` items (None: nobody knows), `done` were done before. `shown` off shows nothing, for
    workers of which another one tells.
    """

    def __init__(self, what: str, total: int | None, *, done: int = 0, shown: bool = True) -> None:
        self._what, self._total, self._first = what, total, done
        self._shown = (
            shown and sys.stderr is not None and os.environ.get("TQDM_DISABLE", "") in ("", "0")
        )
        self._bar = _bar(what, total, done) if self._shown and _draws_bars() else None
        self._start = self._last = time.monotonic()
        self._told = done
        self._words = ""

    def __enter__(self) -> "Progress":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.close()

    def at(self, done: int) -> None:
        """So many are done now."""
        if self._bar is not None:
            self._bar.update(done - self._bar.n)
        elif self._shown:
            self._tell(done)

    def say(self, words: str) -> None:
        """A few words to stand behind the numbers from now on, such as the loss."""
        self._words = words
        if self._bar is not None:
            self._bar.set_postfix_str(words, refresh=False)

    def _tell(self, done: int) -> None:
        now = time.monotonic()
        since = now - self._last
        tenth = self._total is not None and (done - self._told) * 10 >= self._total
        if since >= LONGEST or (since >= SHORTEST and tenth):
            self._write(self._line(done, now - self._start))
            self._last, self._told = now, done

    def _write(self, line: str) -> None:
        """Say it, as long as somebody listens: no work ends because its progress is not read."""
        try:
            sys.stderr.write(line)
            sys.stderr.flush()
        except OSError:
            self._shown = False

    def _line(self, done: int, seconds: float) -> str:
        rate = (done - self._first) / seconds
        words = f", {self._words}" if self._words else ""
        if self._total is None or not rate:
            return f"{self._what}: {done:,} done, {rate:.3g} a second{words}\n"
        left = tqdm.format_interval((self._total - done) / rate)
        share = done / self._total
        count = f"{done:,} of {self._total:,} ({share:.0%})"
        return f"{self._what}: {count}, {rate:.3g}/s, {left} left{words}\n"


def _draws_bars() -> bool:
    return sys.stderr.isatty() or _in_notebook()


def _in_notebook() -> bool:
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return type(shell).__name__ == "ZMQInteractiveShell"


def _bar(what: str, total: int | None, done: int) -> tqdm:
    """A bar of the notebook where it can draw one, of text otherwise."""
    options = {"desc": what, "total": total, "initial": done, "delay": 1, "leave": False}
    if _in_notebook() and find_spec("ipywidgets") is not None:
        from tqdm.notebook import tqdm as notebook_bar

        return notebook_bar(**options)
    return tqdm(**options, file=sys.stderr)
