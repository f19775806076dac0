"""Doing work: every chunk once, in order, from the folder where it is kept or by an engine."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from patching.memory import current
from patching.progress import Progress, track
from patching.work.chunk import Done, Limited, Work, carry_out
from patching.work.engines import leads
from patching.work.kinds import Lengths, all_alike
from patching.work.run import Run
from patching.work.store import Store, open_store


def do(
    run: Run | None,
    work: Work,
    n: int,
    *,
    what: str,
    settings: Mapping[str, object],
    lengths: Lengths = all_alike,
) -> Iterator[Done]:
    """The `n` chunks of some work, in the order of their numbers.

    Without a run, each is done here when it is asked for, and nothing is written. With one, those
    that the run's folder lacks are done first, by its engine; `what` and `settings` say what they
    are chunks of, `lengths` which axes of their parts each has its own. When that is interrupted,
    the first chunks that are there still come, up to the first that is not, and then the interrupt.

    Raises:
        KeyboardInterrupt: if somebody interrupts.
        ValueError: if settings do not fit into JSON, or a chunk to be kept holds NaN.
    """
    limited = Limited(work, current().limit)
    if run is None:
        for number in track(range(n), what.replace("-", " ")):
            yield carry_out(limited, number)
        return
    store = open_store(run.folder, what, settings, n, lengths)
    doing = _Doing(run, limited, store)
    try:
        doing.finish()
    except KeyboardInterrupt:
        yield from doing.first()
        raise
    for number in range(n):
        yield doing.read(number)
    store.tidy()


@dataclass(frozen=True)
class _Doing:
    """One computation, its folder and its engine."""

    run: Run
    work: Limited
    store: Store

    def finish(self) -> None:
        """Check what is there; have the engine do what is not, until nothing is missing."""
        store = self.store
        absent = set(store.missing())
        reused = sum(store.read(i) is not None for i in range(store.n) if i not in absent)
        if reused:
            store.log({"reused": reused, "of": store.n})
        if reused == store.n:
            return
        what = store.folder.name.rpartition("-")[0].replace("-", " ")
        with Progress(what, store.n, done=reused, shown=leads(self.run.engine)) as progress:

            def keep(number: int, done: Done) -> None:
                store.keep(number, done)
                progress.at(store.n - len(store.missing()))

            self.run.engine(self.work, store.missing, keep)

    def read(self, number: int) -> Done:
        """A chunk that has been done, and is done again should it have been damaged since."""
        done = self.store.read(number)
        if done is None:
            self.finish()
            done = self.store.read(number)
        assert done is not None, "an engine returned while a chunk was missing"
        return done

    def first(self) -> Iterator[Done]:
        """The chunks before the first missing one."""
        for number in range(self.store.n):
            done = self.store.read(number)
            if done is None:
                return
            yield done
