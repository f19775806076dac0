"""Handing chunks to workers that may die: by a stand-in for Ray, and on a real cluster."""

import os
import signal
import sys
from types import ModuleType, SimpleNamespace

import pytest
import torch

from patching.work.chunk import Done, Limited
from patching.work.engines import in_process
from patching.work.ray_engine import Ray

KILLS = 20


class RayError(Exception):
    pass


class TaskError(RayError):
    def __init__(self, cause: Exception) -> None:
        self.cause = cause


class SystemError_(RayError):
    def __init__(self, client_exc: Exception) -> None:
        self.client_exc = client_exc


class PretendedRay(ModuleType):
    """As much of Ray as the engine uses: calls are carried out when they are waited for.

    `deaths` says how often a chunk kills its worker; None stands for getting ready. A worker that
    is named in `stuck` never answers.
    """

    exceptions = SimpleNamespace(
        RayError=RayError, RayTaskError=TaskError, RaySystemError=SystemError_
    )

    def __init__(self, resources, deaths=None, stuck=()) -> None:
        super().__init__("ray")
        self.resources, self.deaths, self.stuck = resources, dict(deaths or {}), stuck
        self.options: list[dict] = []
        self.killed: list[object] = []
        self.started = 0

    def is_initialized(self) -> bool:
        return True

    def cluster_resources(self):
        return self.resources

    def put(self, value):
        return value

    def remote(self, **options):
        self.options.append(options)
        return lambda worker: SimpleNamespace(remote=lambda: self._handle(worker()))

    def _handle(self, worker):
        self.started += 1
        name = self.started

        def method(of, number):
            return SimpleNamespace(remote=lambda arg: (name, of, number(arg), lambda: of(arg)))

        return SimpleNamespace(
            load=method(worker.load, lambda _: None), do=method(worker.do, lambda n: n), name=name
        )

    def wait(self, calls):
        live = [call for call in calls if call[0] not in self.stuck]
        assert live, "everybody is stuck"
        return live[-1:], []  # the last one asked answers first

    def get(self, call):
        _, _, number, run = call
        if self.deaths.get(number, 0):
            self.deaths[number] -= 1
            raise RayError("the worker is gone\nand more")
        try:
            return run()
        except ValueError as error:
            raise (SystemError_ if number is None else TaskError)(error) from error

    def kill(self, worker) -> None:
        self.killed.append(worker.name)


@pytest.fixture
def pretend(monkeypatch):
    def start(**given) -> PretendedRay:
        ray = PretendedRay(given.pop("resources", {"CPU": 2.0}), **given)
        monkeypatch.setitem(sys.modules, "ray", ray)
        return ray

    return start


def work(number: int):
    return {"edges": torch.tensor([0.1 * number, number**0.5], dtype=torch.float64)}


def run(engine, work=work, n=7) -> dict[int, Done]:
    kept: dict[int, Done] = {}
    engine(Limited(work, None), lambda: [i for i in range(n) if i not in kept], kept.__setitem__)
    return kept


def assert_same(found: dict[int, Done], expected: dict[int, Done]) -> None:
    assert sorted(found) == sorted(expected)
    for number, done in expected.items():
        assert torch.equal(found[number].parts["edges"], done.parts["edges"])


@pytest.mark.parametrize("n_workers", [1, 2, 4])
def test_any_number_of_workers_does_every_chunk_once(pretend, n_workers):
    ray = pretend()
    assert_same(run(Ray(workers=n_workers)), run(in_process))
    assert ray.started == n_workers
    assert sorted(ray.killed) == list(range(1, n_workers + 1))


def test_there_are_no_more_workers_than_chunks(pretend):
    ray = pretend()
    run(Ray(workers=9), n=2)
    assert ray.started == 2


def test_a_chunk_whose_worker_dies_is_given_out_anew(pretend):
    ray = pretend(deaths={3: 2, None: 1})
    assert_same(run(Ray(workers=2)), run(in_process))
    assert ray.started == 2 + 3  # each of the dead is replaced


def test_others_do_the_chunk_while_no_place_is_found_for_a_new_worker(pretend):
    pretend(deaths={4: 1}, stuck=(3,))
    assert_same(run(Ray(workers=2)), run(in_process))


def test_a_chunk_that_kills_every_worker_is_given_up(pretend):
    pretend(deaths={3: 9})
    with pytest.raises(RuntimeError, match="chunk 3 has cost 4 workers their lives.*is gone$"):
        run(Ray(workers=2))


def test_workers_that_die_before_they_are_ready_are_given_up(pretend):
    pretend(deaths={None: 9})
    with pytest.raises(RuntimeError, match="starting has cost 1 workers their lives"):
        run(Ray(workers=2, retries=0))


def test_what_the_work_raises_is_raised_as_it_was_and_workers_end(pretend):
    def bad(number: int):
        raise ValueError(f"no such row {number}")

    ray = pretend()
    with pytest.raises(ValueError, match="^no such row 0$"):
        run(Ray(workers=1), bad)
    assert ray.started == 1


def test_work_that_cannot_be_unpacked_says_why(pretend, monkeypatch):
    def load(self, work):
        raise ValueError("toy holds other weights here")

    pretend()
    monkeypatch.setattr("patching.work.ray_engine._Worker.load", load)
    with pytest.raises(ValueError, match="^toy holds other weights here$"):
        run(Ray(workers=1))


def test_nothing_is_started_where_nothing_is_missing(pretend):
    ray = pretend()
    assert run(Ray(), n=0) == {}
    assert not ray.started


@pytest.mark.parametrize(
    ("resources", "engine", "expected"),
    [
        ({"CPU": 8.0}, Ray(), (8, 0.0)),
        ({"CPU": 8.0}, Ray(cpus=3), (2, 0.0)),
        ({"CPU": 8.0, "GPU": 2.0}, Ray(), (2, 1.0)),
        ({"CPU": 8.0, "GPU": 2.0}, Ray(gpus=0), (8, 0.0)),
        ({"CPU": 8.0, "GPU": 2.0}, Ray(gpus=0.25), (8, 0.25)),
        ({"CPU": 8.0, "GPU": 3.0}, Ray(gpus=2), (1, 2.0)),
        ({"CPU": 1.0}, Ray(workers=5), (5, 0.0)),
    ],
)
def test_workers_are_as_many_as_the_cluster_has_room_for(resources, engine, expected):
    assert engine.room(resources) == expected


def test_a_worker_gets_its_cores_gpus_and_threads(pretend):
    ray = pretend(resources={"CPU": 8.0, "GPU": 1.0})
    run(Ray(cpus=4))
    (options,) = ray.options
    threads = {"OMP_NUM_THREADS": "4", "MKL_NUM_THREADS": "4"}
    assert options == {"num_cpus": 4, "num_gpus": 1.0, "runtime_env": {"env_vars": threads}}


def test_a_cluster_without_room_is_refused(pretend):
    pretend(resources={"CPU": 2.0})
    with pytest.raises(ValueError, match="has 2 cores and 0 GPUs, too few for one worker with 4"):
        run(Ray(cpus=4))


@pytest.mark.parametrize("wrong", [{"cpus": 0}, {"workers": 0}, {"retries": -1}])
def test_impossible_workers_are_refused(wrong):
    with pytest.raises(ValueError, match="at least 1 worker with at least 1 core"):
        Ray(**wrong)


def test_the_extra_is_named_where_ray_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ValueError, match=r"pip install 'circuit-workbench\[ray\]'"):
        run(Ray())


@pytest.fixture
def by_value():
    """Ray, whose workers get the functions of this file as they are: they cannot import it."""
    ray = pytest.importorskip("ray")
    here = sys.modules[__name__]
    ray.cloudpickle.register_pickle_by_value(here)
    yield ray
    ray.cloudpickle.unregister_pickle_by_value(here)


@pytest.fixture
def cluster(by_value):
    """A cluster of this machine's two cores, for one test."""
    ray = by_value
    ray.init("local", num_cpus=2, include_dashboard=False, logging_level="error")
    yield
    ray.shutdown()


@pytest.mark.slow
def test_a_killed_worker_does_not_end_the_run(cluster, tmp_path):
    """On a real cluster, with real processes; twenty times, at every chunk."""
    for victim in range(KILLS):

        def once(number: int, path=tmp_path / str(victim), victim=victim % 7):
            if number == victim and not path.exists():
                path.touch()
                os.kill(os.getpid(), signal.SIGKILL)
            return work(number)

        assert_same(run(Ray(workers=2), once), run(in_process))
        assert (tmp_path / str(victim)).exists()


@pytest.mark.slow
def test_a_cluster_of_ones_own_ends_with_the_run(by_value):
    assert_same(run(Ray(workers=1), n=2), run(in_process, n=2))
    assert not by_value.is_initialized()


@pytest.mark.parametrize(
    "address", ["127.0.0.1:1", "ray://127.0.0.1:1", "no.such.host:6379", "host:x"]
)
def test_an_address_at_which_nobody_listens_is_said_at_once(pretend, monkeypatch, address):
    ray = pretend()
    monkeypatch.setattr(ray, "is_initialized", lambda: False)  # and nothing to start it with
    with pytest.raises(ValueError, match=f"there is no Ray cluster at '{address}'; start one"):
        run(Ray(address=address))
