"""Telling functions apart: what a metric or a path computes, as far as its code says.

Two functions of one name can differ, and results of one must never be taken for the other's.
"""

import functools
import hashlib
import inspect
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import fields, is_dataclass
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType

import torch
from torch import Tensor

PLAIN = (bool, int, float, complex, str, bytes, type(None), torch.dtype, torch.device, slice)


def fingerprint(thing: object) -> str:
    """A short hash, equal only for what is made alike: plain values, tensors, functions.

    Of a function, its byte code, default values and what it has closed over; what it calls by a
    global name counts by that name alone.

    Raises:
        ValueError: if part of it is of a kind that cannot be told apart.
    """
    digest = hashlib.sha256()
    _feed(thing, digest.update, ())
    return digest.hexdigest()[:16]


def _feed(thing: object, feed: Callable[[bytes], None], inside: tuple[int, ...]) -> None:
    """Hash a thing into `feed`; `inside` are the things it is part of, which may refer to it."""
    if id(thing) in inside:
        return feed(b"itself")
    feed(type(thing).__qualname__.encode())
    if isinstance(thing, PLAIN):
        return feed(repr(thing).encode())
    if isinstance(thing, Tensor):
        return _feed_tensor(thing, feed)
    for part in _parts(thing):
        _feed(part, feed, (*inside, id(thing)))
    return feed(b";")


def _feed_tensor(tensor: Tensor, feed: Callable[[bytes], None]) -> None:
    feed(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
    feed(tensor.detach().cpu().reshape(-1).contiguous().view(torch.uint8).numpy().tobytes())


def _parts(thing: object) -> Sequence[object]:
    """What a thing consists of.

    Raises:
        ValueError: if that cannot be told.
    """
    for kind, parts in PARTS.items():
        if isinstance(thing, kind):
            return parts(thing)
    if is_dataclass(thing):
        return [getattr(thing, part.name) for part in fields(thing)]
    if callable(thing) and isinstance(function := inspect.unwrap(thing), FunctionType):
        return _parts_of_function(function)
    raise ValueError(
        f"a run in a folder has to tell its settings from others, and cannot for "
        f"{type(thing).__module__}.{type(thing).__qualname__}: use functions, frozen dataclasses "
        "and plain values, or run without a folder"
    )


def _parts_of_function(function: FunctionType) -> Sequence[object]:
    closed = [cell.cell_contents for cell in function.__closure__ or ()]
    name = [function.__module__, function.__qualname__]
    return [*name, function.__code__, function.__defaults__, function.__kwdefaults__, closed]


PARTS: dict[type, Callable[..., Sequence[object]]] = {
    type: lambda kind: [kind.__module__, kind.__qualname__],
    Mapping: lambda table: [part for item in table.items() for part in item],
    Set: lambda values: sorted(values, key=repr),
    Sequence: lambda values: [len(values), *values],
    functools.partial: lambda call: [call.func, call.args, call.keywords],
    MethodType: lambda method: [method.__func__, method.__self__],
    BuiltinFunctionType: lambda function: [function.__qualname__],
    CodeType: lambda code: [code.co_code, code.co_names, *code.co_consts],
}
"""What values of a kind consist of."""
