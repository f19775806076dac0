"""Two devices on a machine that has none: tensors that say where they lie and do not mix.

Numbers are computed on the CPU as ever. A tensor on a pretended device shows that device, takes it
along through every operation, and leaves it only by being moved; an operation on tensors of two
devices raises what PyTorch raises. The CPU itself is a third device.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

KIND = "meta"
HOME, AWAY = torch.device(KIND, 0), torch.device(KIND, 1)

_MOVES = {"aten::copy_", "aten::_to_copy"}
_INDEXED = {"aten::index", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_"}


class On(Tensor):
    """A tensor that says it lies on a device, and the one on the CPU that holds its numbers."""

    @staticmethod
    def __new__(cls, raw: Tensor, device: torch.device):
        return torch.Tensor._make_wrapper_subclass(
            cls,
            raw.shape,
            strides=raw.stride(),
            storage_offset=raw.storage_offset(),
            dtype=raw.dtype,
            device=device,
            requires_grad=raw.requires_grad,
        )

    def __init__(self, raw: Tensor, device: torch.device) -> None:
        self.raw = raw

    def __repr__(self) -> str:
        return f"On({self.device}, {self.raw})"

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return run(func, args, kwargs or {})


class Pretending(TorchDispatchMode):
    """Tensors that are made on a pretended device are there from the beginning."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return run(func, args, kwargs or {})


def run(func, args, kwargs):
    """One operation, on the numbers; refused if its tensors lie on several devices."""
    name = func._schema.name
    device = _asked_for(kwargs) or _device_of(name, args, kwargs)
    plain = {**kwargs, "device": torch.device("cpu")} if kwargs.get("device") else kwargs
    found = func(*tree_map(_raw, args), **tree_map(_raw, plain))
    arguments = func._schema.arguments
    changed = [a for a, s in zip(args, arguments, strict=False) if _is_written(s)]
    changed += [kwargs[s.name] for s in arguments if _is_written(s) and s.name in kwargs]
    if changed:
        return changed[0] if isinstance(found, Tensor) else found
    return tree_map(lambda x: _on(x, device), found)


def _asked_for(kwargs) -> torch.device | None:
    device = kwargs.get("device")
    return None if device is None else torch.device(device)


def _device_of(name, args, kwargs) -> torch.device:
    tensors = [x for x in tree_flatten((args, kwargs))[0] if isinstance(x, Tensor)]
    if name in _MOVES and tensors:
        return tensors[0].device
    if name in _INDEXED and tensors:
        first = tensors[0].device
        _same(name, [tensors[0], *(x for x in tensors if x.device.type != "cpu")])
        return first
    return _same(name, [x for x in tensors if x.ndim or x.device.type != "cpu"] or tensors)


def _same(name, tensors) -> torch.device:
    devices = dict.fromkeys(x.device for x in tensors)
    if len(devices) > 1:
        raise RuntimeError(f"{name}: tensors lie on {', '.join(map(str, devices))}")
    return next(iter(devices), torch.device("cpu"))


def _is_written(argument) -> bool:
    return argument.alias_info is not None and argument.alias_info.is_write


def _raw(x):
    return x.raw if isinstance(x, On) else x


def _on(x, device):
    if isinstance(x, Tensor) and not isinstance(x, On) and device.type == KIND:
        return On(x, device)
    return x


class Making(TorchFunctionMode):
    """What PyTorch makes of Python numbers before any operation: it would have none on `meta`."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if func is torch.tensor and (device := _asked_for(kwargs)) and device.type == KIND:
            return On(torch.tensor(*args, **{**kwargs, "device": "cpu"}), device)
        if func in (Tensor.__getitem__, Tensor.__setitem__) and isinstance(args[0], On):
            args = (args[0], _as_tensors(args[1]), *args[2:])
        return func(*args, **kwargs)


def _as_tensors(index):
    if isinstance(index, tuple):
        return tuple(map(_as_tensors, index))
    return torch.tensor(index) if isinstance(index, list) else index


def lay(module: nn.Module, parts: dict[str, torch.device]) -> None:
    """Lay a module's parts over pretended devices; each takes its inputs there, as accelerate's."""
    for prefix, device in parts.items():
        for _, part in module.get_submodule(prefix).named_modules():
            for key, value in list(part._parameters.items()):
                if value is not None and not isinstance(value, On):
                    there = On(value.data, device)
                    part._parameters[key] = nn.Parameter(there, requires_grad=False)
            for key, value in list(part._buffers.items()):
                if value is not None and not isinstance(value, On):
                    part._buffers[key] = On(value, device)
            part.register_forward_pre_hook(_bring(device), with_kwargs=True)


def _bring(device: torch.device):
    def hook(module, args, kwargs):
        return tree_map(lambda x: x.to(device) if isinstance(x, On) else x, (args, kwargs))

    return hook


@contextmanager
def pretending() -> Iterator[None]:
    """Runs inside can use the pretended devices."""
    with Pretending(), Making():
        yield
