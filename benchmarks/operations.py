"""What a run would ask of an accelerator, counted exactly on any machine.

Launches, values read back, bytes moved and multiplications, apart for the device and for the host's
plans. The device's is what is made of given tensors (a model's weights, its tokens) or was put on a
device in words (`device=`, `.to(device)`), also where that device is the CPU; the rest, such as the
index tensors of a plan before they are sent over, is the host's.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry
from torch.utils.weak import WeakIdKeyDictionary

Arguments = Sequence[object]
Keywords = Mapping[str, object]

READ_BACKS = frozenset(
    "aten._local_scalar_dense aten.nonzero aten.masked_select aten.unique_dim aten._unique "
    "aten._unique2 aten.unique_consecutive aten.equal aten.bincount".split()
)
WITHOUT_A_KERNEL = frozenset(
    "aten.empty aten.empty_like aten.empty_strided aten.new_empty aten.new_empty_strided "
    "aten._unsafe_view aten.is_same_size".split()
)
_INDEXING = frozenset("aten.index aten.index_put aten.index_put_ aten._index_put_impl_".split())


@dataclass(frozen=True)
class Operations:
    """Operations by name: each launch of the device, each value it gave back, each of the host.

    `bytes_moved` is what the launches read and wrote, if nothing stays in a cache; `flops` counts
    a multiplication and an addition of matrix products as two.
    """

    launched: Counter[str] = field(default_factory=Counter)
    read_back: Counter[str] = field(default_factory=Counter)
    on_host: Counter[str] = field(default_factory=Counter)
    bytes_moved: int = 0
    flops: int = 0

    @property
    def launches(self) -> int:
        """Operations of the device, without views and empty allocations."""
        return self.launched.total()

    @property
    def read_backs(self) -> int:
        """How often Python waited for a value of the device."""
        return self.read_back.total()

    @property
    def host_operations(self) -> int:
        """Operations on what the host plans with."""
        return self.on_host.total()

    @property
    def in_all(self) -> int:
        """Operations wherever they are done."""
        return self.launches + self.host_operations


def tensors_of(module: nn.Module) -> list[Tensor]:
    """What a module has on the device: its parameters and buffers."""
    return [*module.parameters(), *module.buffers()]


def count(work: Callable[[], object], device_tensors: Iterable[Tensor]) -> Operations:
    """The operations of some work, where these tensors, such as `tensors_of` a model, are there."""
    device = _Device(device_tensors)
    dispatched = _Dispatched(device)
    with dispatched, _Calls(device, dispatched):
        work()
    return Operations(
        dispatched.launched,
        dispatched.read_back,
        dispatched.on_host,
        dispatched.bytes_moved,
        dispatched.flops,
    )


class _Device:
    """The storages that lie on the device."""

    def __init__(self, tensors: Iterable[Tensor]) -> None:
        self._storages = WeakIdKeyDictionary()
        for tensor in tensors:
            self.take(tensor)

    def take(self, tensor: Tensor) -> None:
        """From now on this tensor, and whatever shares its memory, is the device's."""
        self._storages[tensor.untyped_storage()] = True

    def has(self, tensor: Tensor) -> bool:
        """Whether a tensor lies on the device."""
        return tensor.device.type != "cpu" or tensor.untyped_storage() in self._storages


class _Dispatched(TorchDispatchMode):
    """Counts what reaches PyTorch's kernels."""

    def __init__(self, device: _Device) -> None:
        super().__init__()
        self._device = device
        self.forced = False
        self.launched: Counter[str] = Counter()
        self.read_back: Counter[str] = Counter()
        self.on_host: Counter[str] = Counter()
        self.bytes_moved = self.flops = 0

    def __torch_dispatch__(
        self,
        func: torch._ops.OpOverload,
        types: Sequence[type],
        args: Arguments = (),
        kwargs: Keywords | None = None,
    ) -> object:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        given, made = _tensors((args, kwargs)), _tensors(out)
        on_device = self.forced or any(map(self._device.has, given))
        if on_device:
            for tensor in made:
                self._device.take(tensor)
        name = str(func.overloadpacket)
        if not (name in WITHOUT_A_KERNEL or _is_view(func)):
            self._note(name, args, on_device=on_device)
            if on_device:
                self.bytes_moved += sum(x.numel() * x.element_size() for x in given + made)
                formula = flop_registry.get(func.overloadpacket)
                self.flops += 0 if formula is None else formula(*args, **kwargs, out_val=out)
        return out

    def _note(self, name: str, args: Arguments, *, on_device: bool) -> None:
        (self.launched if on_device else self.on_host)[name] += 1
        if on_device and (name in READ_BACKS or (name in _INDEXING and self._by_truth(args))):
            self.read_back[name] += 1

    def _by_truth(self, args: Arguments) -> bool:
        """Whether an indexing looks for what is true there; to fill in one number, it need not."""
        fills = len(args) > 2 and isinstance(args[2], Tensor) and args[2].numel() == 1
        masks = [x for x in _tensors(args[1]) if x.dtype is torch.bool]
        return not fills and any(map(self._device.has, masks))


class _Calls(TorchFunctionMode):
    """Sees what leaves no operation on a CPU: what is made on a device, sent there, fetched."""

    def __init__(self, device: _Device, dispatched: _Dispatched) -> None:
        super().__init__()
        self._device, self._dispatched = device, dispatched

    def __torch_function__(
        self,
        func: Callable[..., object],
        types: Sequence[type],
        args: Arguments = (),
        kwargs: Keywords | None = None,
    ) -> object:
        kwargs = kwargs or {}
        if func in (Tensor.cpu, Tensor.tolist, Tensor.numpy) and self._lies_there(args[0]):
            return self._fetch(func, args, kwargs)
        if not _names_a_device(func, args, kwargs):
            return func(*args, **kwargs)
        if func is Tensor.to:
            return self._send(func, args, kwargs)
        return self._made_there(func, args, kwargs)

    def _lies_there(self, x: object) -> bool:
        return isinstance(x, Tensor) and self._device.has(x)

    def _fetch(self, func: Callable[..., object], args: Arguments, kwargs: Keywords) -> object:
        self._dispatched.read_back[f"Tensor.{func.__name__}"] += 1
        out = func(*args, **kwargs)
        if isinstance(out, Tensor) and self._device.has(out):
            with torch._C._DisableTorchDispatch():
                return out.clone()
        return out

    def _send(self, func: Callable[..., object], args: Arguments, kwargs: Keywords) -> object:
        """A tensor of the host becomes one of the device: a copy, as it would be there."""
        sent = func(*args, **kwargs)
        if isinstance(sent, Tensor) and not self._device.has(sent):
            with torch._C._DisableTorchDispatch():
                sent = sent.clone()
            self._note_sent(sent)
        return sent

    def _made_there(self, func: Callable[..., object], args: Arguments, kwargs: Keywords) -> object:
        outer, self._dispatched.forced = self._dispatched.forced, True
        try:
            made = func(*args, **kwargs)
        finally:
            self._dispatched.forced = outer
        if func in (torch.tensor, torch.as_tensor) and isinstance(made, Tensor):
            self._note_sent(made)
        return made

    def _note_sent(self, tensor: Tensor) -> None:
        self._dispatched.launched["to the device"] += 1
        self._device.take(tensor)


def _tensors(tree: object) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def _is_view(func: torch._ops.OpOverload) -> bool:
    """Whether what is returned shares memory with what is given, and nothing is written."""
    returned = [one.alias_info for one in func._schema.returns]
    return bool(returned) and all(info is not None and not info.is_write for info in returned)


def _names_a_device(func: object, args: Arguments, kwargs: Keywords) -> bool:
    """Whether a call says on which device; the words `"cpu"` mean the host itself."""
    said = kwargs.get("device")
    if said is None and func is Tensor.to:
        said = next((x for x in args[1:] if isinstance(x, torch.device | str)), None)
    return said is not None and said != "cpu"
