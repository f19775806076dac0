"""The most bytes that tensors hold at one time, exactly: no allocator, no garbage of others.

Every storage that an operation makes is counted from then until it is freed, whoever keeps it:
Python or autograd. What was there before is not, nor what a kernel needs only while it runs.
"""

import gc
import weakref
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


def peak_live_bytes(work: Callable[[], object]) -> int:
    """The peak of what some work holds at once in tensors of its own, in bytes."""
    gc.collect()
    living = _Living()
    with living:
        work()
    return living.peak


class _Living(TorchDispatchMode):
    """Storages made inside, by a weak reference that says when one is freed."""

    def __init__(self) -> None:
        super().__init__()
        self._sizes: dict[weakref.ref[torch.UntypedStorage], int] = {}
        self._now = self.peak = 0

    def __torch_dispatch__(
        self,
        func: torch._ops.OpOverload,
        types: Sequence[type],
        args: Sequence[object] = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> object:
        kwargs = kwargs or {}
        given = [] if func in _OF_PYTHON else _storages((args, kwargs))
        out = func(*args, **kwargs)
        before = {id(storage) for storage in given}
        for storage in _storages(out):
            if id(storage) not in before or weakref.ref(storage) in self._sizes:
                self._hold(storage)
        return out

    def _hold(self, storage: torch.UntypedStorage) -> None:
        key = weakref.ref(storage, self._release)
        self._now += storage.nbytes() - self._sizes.get(key, 0)
        self._sizes[key] = storage.nbytes()
        self.peak = max(self.peak, self._now)

    def _release(self, key: weakref.ref[torch.UntypedStorage]) -> None:
        self._now -= self._sizes.pop(key, 0)


# What `torch.tensor` makes of Python's numbers is first seen when it is handed over
_OF_PYTHON = (torch.ops.aten.lift_fresh.default,)


def _storages(tree: object) -> list[torch.UntypedStorage]:
    return [leaf.untyped_storage() for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]
