"""The memory planner: tiles for a budget, halves when memory runs out."""

import pytest
import torch

from patching.memory import (
    budget,
    current,
    grouping,
    in_tiles,
    is_lack_of_memory,
    takes_many,
)

CPU = torch.device("cpu")


def spans(total: int, bytes_each: int) -> list[tuple[int, int]]:
    done: list[tuple[int, int]] = []
    in_tiles(total, bytes_each, CPU, lambda span: done.append((span.start, span.stop)))
    return done


def test_a_budget_of_bytes_makes_tiles_that_fit_and_cover_everything():
    with budget(100) as ledger:
        assert spans(10, 30) == [(0, 3), (3, 6), (6, 9), (9, 10)]
    assert ledger.report() == {"limit": 100, "largest_tile": 3, "halved": 0, "batches_halved": 0}


def test_one_item_is_done_whatever_it_takes():
    with budget(1):
        assert spans(2, 10**9) == [(0, 1), (1, 2)]


def test_a_tile_that_runs_out_of_memory_is_done_again_in_halves():
    done: list[tuple[int, int]] = []

    def work(span: slice) -> None:
        if span.stop - span.start > 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        done.append((span.start, span.stop))

    with budget(80) as ledger:
        in_tiles(8, 10, CPU, work)
    assert done == [(0, 2), (2, 4), (4, 6), (6, 8)]
    counts = {"largest_tile": 2, "halved": 2, "batches_halved": 0}
    assert ledger.report() == {"limit": 80, **counts}


def test_other_errors_and_single_items_are_not_tried_again():
    def broken(span: slice) -> None:
        raise RuntimeError("shapes do not fit")

    def too_large(span: slice) -> None:
        raise torch.OutOfMemoryError("out of memory")

    with pytest.raises(RuntimeError, match="shapes do not fit"):
        in_tiles(4, 1, CPU, broken)
    with budget(1), pytest.raises(torch.OutOfMemoryError):
        in_tiles(4, 1, CPU, too_large)


def test_a_fraction_is_of_the_devices_free_memory():
    with budget(0.5) as half, budget(0.25) as quarter:
        assert 1.5 < half.bytes_on(CPU) / quarter.bytes_on(CPU) < 2.5  # memory moves meanwhile


def test_budgets_nest_and_end():
    with budget(10):
        with budget(20):
            assert current().limit == 20
        assert current().limit == 10
    assert current().limit is None


@pytest.mark.parametrize("limit", [0, -5, 1.5, 0.0])
def test_a_budget_that_is_none_is_refused(limit):
    with pytest.raises(ValueError, match="bytes or a fraction up to 1.0"), budget(limit):
        pass


def test_lack_of_memory_is_told_from_other_errors():
    assert is_lack_of_memory(
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory")
    )
    assert not is_lack_of_memory(RuntimeError("index out of range"))


def test_accelerators_take_as_many_as_fit_and_the_cpu_few_unless_told():
    gpu = torch.device("cuda", 0)
    assert takes_many(gpu) and not takes_many(CPU)
    with grouping(as_many_as_fit=True):
        assert takes_many(CPU)
        with grouping(as_many_as_fit=False):
            assert not takes_many(gpu)
        with grouping(None):
            assert takes_many(gpu) and not takes_many(CPU)
        assert takes_many(CPU)
    assert not takes_many(CPU)
