"""Torch's modes inside our runs: nobody else's autocast, and gradients where they are needed.

Under autocast products are made in another type than that of their factors; what is measured then
is another model than the one that was loaded, differently so from one product to the next. Load a
model in the type it is to compute in (`dtype`). Gradients cannot be taken in inference mode, which
does not note what they would need.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import wraps
from typing import ParamSpec, TypeVar

import torch

P = ParamSpec("P")
R = TypeVar("R")

_KINDS = ("cpu", "cuda")


@contextmanager
def as_typed() -> Iterator[None]:
    """Inside, products are made in the types of their factors, whatever autocast is on around."""
    with ExitStack() as stack:
        for kind in _KINDS:
            if torch.is_autocast_enabled(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))
        yield


@contextmanager
def with_gradients() -> Iterator[None]:
    """Inside, gradients can be taken, and autocast is off.

    Raises:
        ValueError: in inference mode, where they cannot.
    """
    if torch.is_inference_mode_enabled():
        raise ValueError(
            "gradients are needed here, and torch.inference_mode is on, which forbids them; leave "
            "it, or use torch.no_grad instead"
        )
    with as_typed(), torch.enable_grad():
        yield


def without_gradients(function: Callable[P, R]) -> Callable[P, R]:
    """The function without gradients, and with products in the types of their factors."""

    @wraps(function)
    def plainly(*args: P.args, **kwargs: P.kwargs) -> R:
        with torch.no_grad(), as_typed():
            return function(*args, **kwargs)

    return plainly
