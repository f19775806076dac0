"""Telling functions apart: what a metric or a path computes, as far as its code says.

Two functions of one name can differ, and results of one must never be taken for the other's.
"""

import functools
import hashlib
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import fields, is_dataclass
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType

import torch
from torch import Tensor

_LAYERS = ("jaxtyping", "beartype", "typeguard", "torch.utils._contextlib", "patching.modes")
"""Whose decorators change no number: they check types, or switch gradients and autocast off."""

PLAIN = (bool, int, float, complex, str, bytes, type(None), torch.dtype, torch.device, slice)


def fingerprint(thing: object) -> str:
    """A short hash, equal only for what is made alike: plain values, tensors, functions.

    Of a function, its byte code, default values and what it has closed over, of a dataclass also
    its methods; what they call by a global name counts by that name alone.

    Raises:
        ValueError: if part of it is of a kind that cannot be told apart.
    """
    digest = hashlib.sha256()
    _feed(thing, digest.update, ())
    return digest.hexdigest()[:16]


def told_apart(described: Mapping[str, object], functions: object) -> str:
    """The fingerprint of functions that a user may have written, for what is kept in a folder.

    `described` is the provenance of what is kept, which has no more than their names.

    Raises:
        ValueError: as `fingerprint`, and if hooks are in place, of which nothing is known.
    """
    hooks = described.get("hooks")
    if isinstance(hooks, list):
        raise ValueError(
            "a run in a folder has to tell its settings from others, and cannot for the hooks that "
            f"are in place ({', '.join(map(str, hooks))}); leave the `with` that put them there, "
            "or run without a folder"
        )
    return fingerprint(functions)


def difference(of: object, identity: Mapping[str, object]) -> str:
    """In which facts two works differ, for the end of a message."""
    before, now = _flat_facts(of if isinstance(of, dict) else {}), _flat_facts(identity)
    names = [name for name in sorted({*before, *now}) if before.get(name) != now.get(name)]
    return f" ({', '.join(name[:40] for name in names[:9])} differ)" if names else ""


def _flat_facts(facts: Mapping[str, object], within: str = "") -> dict[str, object]:
    flat: dict[str, object] = {}
    for name, value in facts.items():
        if isinstance(value, dict):
            flat |= _flat_facts(value, f"{within}{name}.")
        else:
            flat[within + name] = value
    return flat


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
        values = [getattr(thing, part.name) for part in fields(thing)]
        return [*_parts_of_class(type(thing)), *values]
    raise ValueError(
        f"a run in a folder has to tell its settings from others, and cannot for "
        f"{type(thing).__module__}.{type(thing).__qualname__}: use functions, frozen dataclasses "
        "and plain values, or run without a folder"
    )


def _parts_of_class(kind: type) -> Sequence[object]:
    """Its name and what its methods do, inherited ones too; not what `dataclass` has written."""
    found = [(name, m) for base in kind.__mro__[:-1] for name, m in sorted(vars(base).items())]
    bare = [(name, getattr(m, "fget", None) or getattr(m, "__func__", m)) for name, m in found]
    methods = [(name, _bare(m)) for name, m in bare if isinstance(m, FunctionType)]
    written = [(name, m) for name, m in methods if m.__code__.co_filename != "<string>"]
    return [kind.__module__, kind.__qualname__, *written]


def _bare(function: FunctionType) -> FunctionType:
    """The function below decorators that change no number."""
    while function.__globals__.get("__name__", "").startswith(_LAYERS):
        inner = getattr(function, "__wrapped__", None)
        if not isinstance(inner, FunctionType):
            break
        function = inner
    return function


def _parts_of_function(function: FunctionType) -> Sequence[object]:
    function = _bare(function)
    closed = [cell.cell_contents for cell in function.__closure__ or ()]
    name = [function.__module__, function.__qualname__]
    return [*name, function.__code__, function.__defaults__, function.__kwdefaults__, closed]


PARTS: dict[type, Callable[..., Sequence[object]]] = {
    type: lambda kind: [kind.__module__, kind.__qualname__],
    Mapping: lambda table: [part for item in table.items() for part in item],
    Set: lambda values: sorted(values, key=repr),
    Sequence: lambda values: [len(values), *values],
    functools.partial: lambda call: [call.func, call.args, call.keywords],
    FunctionType: _parts_of_function,
    type(functools.cache(len)): lambda cached: [cached.__wrapped__],
    MethodType: lambda method: [method.__func__, method.__self__],
    BuiltinFunctionType: lambda function: [function.__qualname__],
    CodeType: lambda code: [code.co_code, code.co_names, *code.co_consts],
}
"""What values of a kind consist of."""
