"""Turns: threads that run one model wait for each other.

Hooks sit on the model itself, so a run in another thread would be changed by them, and what is kept
of it would be kept in the wrong place. A thread that has its turn may take it again inside. To run
at the same time, give each thread a model of its own: `copy.deepcopy(model)`.
"""

from contextlib import AbstractContextManager
from threading import Lock, RLock
from weakref import WeakKeyDictionary

from torch import nn

_TURNS: "WeakKeyDictionary[nn.Module, RLock]" = WeakKeyDictionary()
_MAKING = Lock()


def turn(bridge: nn.Module) -> AbstractContextManager[bool]:
    """The lock that whoever runs a model holds, one for each model."""
    with _MAKING:
        return _TURNS.setdefault(bridge, RLock())
