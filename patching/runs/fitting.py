"""Fitting a batch into memory: all its examples at once, or as many as there is room for."""

from collections.abc import Callable
from functools import partial
from typing import TypeVar

import torch

from patching.memory import in_halves
from patching.tasks.task import Batch

R = TypeVar("R")


def fitted(batch: Batch, work: Callable[[Batch], R], join: Callable[[R, R], R]) -> R:
    """`work` on a batch; where memory runs out, on its halves, and halves of these, joined.

    Padding stays that of the whole batch.

    Raises:
        MemoryError: if not even one example fits.
        RuntimeError: if something else breaks.
    """
    return in_halves(range(len(batch)), partial(_on_rows, batch, work), join)


def _on_rows(batch: Batch, work: Callable[[Batch], R], rows: range) -> R:
    if len(rows) == len(batch):
        return work(batch)
    return work(batch.at(torch.tensor(rows, device=batch.clean.device)))
