"""Ray as the engine: chunks are done by workers on one machine or a whole cluster.

This process hands out the chunks and keeps what comes back; a worker loads the model once. Ray
starts workers where there is room, and again elsewhere when a process or its machine is lost; the
chunk that was lost goes to whoever is free. Imported only when used: Ray is an optional extra.
"""

import os
import socket
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from types import ModuleType
from typing import Protocol

from patching.work.chunk import Done, Limited, carry_out
from patching.work.engines import Keep, Missing


@dataclass(frozen=True)
class Ray:
    """Workers of a Ray cluster, each with some cores and GPUs of its own.

    `address` is that of a running cluster, or "auto" for the one this machine belongs to; None
    starts one on this machine and ends it with the run. There are `workers`, or as many as the
    cluster has room for now; give their number where a cluster grows on demand. Each has `cpus`
    cores, and `gpus` (None: one each where the cluster has any). A chunk whose worker dies is given
    out anew up to `retries` times.

    The same sums as in process, bit for bit, on machines of one kind: a worker computes with `cpus`
    threads, and only the number of threads and the kind of processor can change a rounding.
    """

    address: str | None = None
    workers: int | None = None
    cpus: int = 1
    gpus: float | int | None = None
    retries: int = 3

    def __post_init__(self) -> None:
        if self.cpus < 1 or (self.workers is not None and self.workers < 1) or self.retries < 0:
            raise ValueError(
                "Ray takes at least 1 worker with at least 1 core, and 0 or more retries; got "
                f"workers={self.workers}, cpus={self.cpus}, retries={self.retries}"
            )

    def __call__(self, work: Limited, missing: Missing, keep: Keep) -> None:
        """Have workers do what is missing; keep each chunk as it arrives.

        Raises:
            ValueError: if Ray is not installed, there is no such cluster, or it has no room.
            RuntimeError: if a chunk's worker died more often than `retries` allows.
        """
        numbers = list(missing())
        if not numbers:
            return
        with self._connected() as ray:
            _HandingOut(ray, self, work, keep).all_of(numbers)

    def room(self, resources: dict[str, float]) -> tuple[int, float | int]:
        """How many workers a cluster has room for, and how many GPUs each gets.

        Raises:
            ValueError: if there is no room for one, and no number was asked for.
        """
        gpus = self.gpus
        if gpus is None:
            gpus = 1.0 if resources.get("GPU", 0.0) >= 1 else 0.0
        if self.workers is not None:
            return self.workers, gpus
        room = int(resources.get("CPU", 0.0) // self.cpus)
        if gpus:
            room = min(room, int(resources.get("GPU", 0.0) // gpus))
        if not room:
            raise ValueError(
                f"the Ray cluster has {resources.get('CPU', 0.0):g} cores and "
                f"{resources.get('GPU', 0.0):g} GPUs, too few for one worker with {self.cpus} "
                f"cores and {gpus:g} GPUs; say how many workers to wait for if it grows on demand"
            )
        return room, gpus

    @contextmanager
    def _connected(self) -> Iterator[ModuleType]:
        """Ray, connected to the cluster; what was connected before stays so.

        Raises:
            ValueError: if there is no such cluster.
        """
        ray = _import()
        if ray.is_initialized():
            yield ray
            return
        try:
            if self.address is None:
                cores = None if self.workers is None else self.workers * self.cpus
                ray.init("local", num_cpus=cores, include_dashboard=False, **_QUIET)
            else:
                _require_listener(self.address)
                ray.init(self.address, **_QUIET)
        except ConnectionError as error:
            raise ValueError(
                f"there is no Ray cluster at {self.address!r}; start one with `ray start --head`, "
                "or leave the address out for one on this machine"
            ) from error
        try:
            yield ray
        finally:
            ray.shutdown()


_PATIENCE = 10.0  # seconds
_QUIET = {"logging_level": "error", "log_to_driver": False}


class _Method(Protocol):
    def remote(self, *args: object) -> object: ...


class _Handle(Protocol):
    """A `_Worker` somewhere, as Ray shows it."""

    load: _Method
    do: _Method


class _Worker:
    """Does chunks in a process of its own; what they are made from is unpacked once."""

    def load(self, work: Limited) -> None:
        """Be ready: with the work comes its model."""
        self._work = work

    def do(self, number: int) -> Done:
        """One chunk."""
        return carry_out(self._work, number)


class _HandingOut:
    """Chunks to idle workers, one each at a time; results to `keep` in the order of arrival."""

    def __init__(self, ray: ModuleType, engine: Ray, work: Limited, keep: Keep) -> None:
        self._ray, self._engine, self._keep = ray, engine, keep
        self._work = ray.put(work)
        self._waiting: deque[int] = deque()
        self._idle: deque[_Handle] = deque()
        self._busy: dict[object, tuple[_Handle, int | None]] = {}  # None: getting ready
        self._losses: Counter[int | None] = Counter()

    def all_of(self, numbers: Sequence[int]) -> None:
        """Return when all are kept; the workers end with it."""
        n, gpus = self._engine.room(self._ray.cluster_resources())
        self._waiting.extend(numbers)
        left = len(numbers)
        try:
            for _ in range(min(n, left)):
                self._start(gpus)
            while left:
                self._give()
                left -= self._receive(gpus)
        finally:
            for worker in [*self._idle, *(worker for worker, _ in self._busy.values())]:
                self._ray.kill(worker)

    def _start(self, gpus: float | int) -> None:
        """One more worker, wherever Ray finds room."""
        cpus = self._engine.cpus
        threads = {name: str(cpus) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
        settings = {"num_cpus": cpus, "num_gpus": gpus, "runtime_env": {"env_vars": threads}}
        worker = self._ray.remote(**settings)(_Worker).remote()
        self._busy[worker.load.remote(self._work)] = worker, None

    def _give(self) -> None:
        """Something to do for everybody who is idle."""
        for _ in range(min(len(self._idle), len(self._waiting))):
            worker, number = self._idle.popleft(), self._waiting.popleft()
            self._busy[worker.do.remote(number)] = worker, number

    def _receive(self, gpus: float | int) -> int:
        """Wait for one answer and deal with it; how many chunks it finished.

        What went wrong in the work itself is raised as it was; a worker that is gone is replaced.
        """
        (answer, *_), _ = self._ray.wait(list(self._busy))
        worker, number = self._busy.pop(answer)
        errors = self._ray.exceptions
        try:
            done = self._ray.get(answer)
        except errors.RayTaskError as error:
            raise error.cause from error
        except errors.RaySystemError as error:  # the work could not be unpacked
            raise error.client_exc from error
        except errors.RayError as error:
            self._lose(number, error)
            self._start(gpus)
            return 0
        self._idle.append(worker)
        if number is not None:
            self._keep(number, done)
        return number is not None

    def _lose(self, number: int | None, error: Exception) -> None:
        """A worker is gone: its chunk is the next to be given out.

        Raises:
            RuntimeError: if that has happened too often.
        """
        self._losses[number] += 1
        if self._losses[number] > self._engine.retries:
            what = "starting" if number is None else f"chunk {number}"
            raise RuntimeError(
                f"{what} has cost {self._losses[number]} workers their lives: is there enough "
                f"memory for one? Ray says: {str(error).strip().splitlines()[0]}"
            ) from error
        if number is not None:
            self._waiting.appendleft(number)


def _require_listener(address: str) -> None:
    """Refuse at once an address at which nobody listens: Ray itself tries for minutes.

    Raises:
        ConnectionError: if nobody does, or it is no address.
    """
    host, colon, port = address.rpartition("://")[2].rpartition(":")
    try:
        if colon:
            socket.create_connection((host.strip("[]"), int(port)), timeout=_PATIENCE).close()
    except (OSError, ValueError) as error:
        raise ConnectionError(str(error)) from error


def _import() -> ModuleType:
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # Ray's next default
    try:
        return import_module("ray")
    except ImportError as error:
        raise ValueError(
            "Ray is not installed; it comes with `pip install 'circuit-workbench[ray]'`"
        ) from error
