"""Processes that begin at once, forked from one that has imported what takes long; to be killed."""

import multiprocessing
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing import connection, forkserver, process
from pathlib import Path

HERE = Path(__file__).parent
LONG_TO_IMPORT = ["kept_going", "scored", "working"]


@dataclass
class Worker:
    """A process that has begun some work, and where it says what that came to."""

    process: process.BaseProcess
    told: connection.Connection

    def kill(self) -> None:
        self.process.kill()
        self.process.join()

    def result(self) -> object:
        """What the work came to; it must have ended well."""
        assert self.told.poll(300), "it takes too long"
        found = self.told.recv()
        self.process.join()
        assert self.process.exitcode == 0
        return found


def start(work: Callable[..., object], *args: object) -> Worker:
    """Begin some work in a process of its own."""
    context = multiprocessing.get_context("forkserver")
    _serve(context)
    here, there = context.Pipe(duplex=False)
    one = context.Process(target=_tell, args=(there, work, *args), daemon=True)
    one.start()
    there.close()
    assert here.recv() == "begun"
    return Worker(one, here)


def _serve(context: multiprocessing.context.ForkServerContext) -> None:
    """Have the server run, which finds the modules of the tests by its environment alone."""
    context.set_forkserver_preload(LONG_TO_IMPORT)
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join([str(HERE.parent), str(HERE), *sys.path])
    try:
        forkserver.ensure_running()
    finally:
        os.environ.pop("PYTHONPATH")
        if before is not None:
            os.environ["PYTHONPATH"] = before


def _tell(told: connection.Connection, work: Callable[..., object], *args: object) -> None:
    told.send("begun")
    told.send(work(*args))
