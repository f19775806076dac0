"""Laying a model that does not fit on one device over several, through accelerate.

Layers lie on one device after the other, and only one device computes at a time. What the model
library cannot do is refused: parts on disk, and maps that mix the CPU with GPUs. Tensor parallelism
cannot even be asked for.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

from torch import nn
from transformer_lens.utilities.multi_gpu import (
    find_misplaced_modules,
    is_mixed_offload_gpu,
    resolve_device_map,
)

DeviceMap = str | Mapping[str, str | int]
"""Which part of a model goes where, as accelerate has it: "auto", "balanced", {module: device}."""

_ONLY = (
    "the workbench reads weights where they lie, so a map names GPUs alone (n_devices=2, "
    "device_map='balanced') or the CPU alone"
)


@dataclass(frozen=True)
class Spread:
    """How a model is laid over devices: by a map, or evenly over a number of GPUs."""

    device_map: str | tuple[tuple[str, str | int], ...] | None
    n_devices: int | None

    @staticmethod
    def over(
        device_map: DeviceMap | None, n_devices: int | None, device: str | None
    ) -> "Spread | None":
        """What was asked for; None for a model on one device.

        Raises:
            ValueError: if more than one of the three was given, the number is not positive, or
                the map holds what cannot be.
        """
        asked = {"device": device, "device_map": device_map, "n_devices": n_devices}
        given = [name for name, value in asked.items() if value is not None]
        if len(given) > 1:
            raise ValueError(f"{' and '.join(given)} exclude each other: give one")
        if n_devices is not None and n_devices < 1:
            raise ValueError(f"a model lies on 1 device or more, got n_devices={n_devices}")
        if device_map is None and n_devices in (None, 1):
            return None
        if isinstance(device_map, Mapping):
            _refuse("this device map", device_map)
            return Spread(tuple(device_map.items()), None)
        return Spread(device_map, n_devices)

    def options(self) -> Mapping[str, object]:
        """For `from_pretrained`.

        Raises:
            ValueError: if there are not that many GPUs.
        """
        wanted = self.device_map
        wanted = dict(wanted) if isinstance(wanted, tuple) else wanted
        device_map, max_memory = resolve_device_map(self.n_devices, wanted, None)
        return {"device_map": device_map} | ({"max_memory": max_memory} if max_memory else {})


def device_map_of(module: nn.Module) -> dict[str, str | int] | None:
    """Where accelerate has put a model's parts; None if it has not."""
    found = getattr(module, "hf_device_map", None)
    return None if found is None else {str(name): _plain(where) for name, where in found.items()}


def check_spread(name: str, module: nn.Module) -> None:
    """Refuse a model whose parts have come to lie where they cannot be used.

    Raises:
        ValueError: naming what lies where.
    """
    found = device_map_of(module)
    if found is None:
        return
    _refuse(f"{name}, with too little room on its GPUs,", found)
    wrong = cast("list[tuple[str, str, str]]", find_misplaced_modules(module))
    if wrong:
        part, wanted, there = wrong[0]
        raise ValueError(
            f"{name}: the device map puts {part} on {wanted}, but it shares weights with a part "
            f"on {there}; give both the same device"
        )


def _refuse(what: str, device_map: Mapping[str, str | int]) -> None:
    absent = [part for part, where in device_map.items() if str(where).lower() in ("disk", "meta")]
    if absent:
        raise ValueError(
            f"{what} leaves {absent[0] or 'the model'} on {device_map[absent[0]]}: {_ONLY}"
        )
    if is_mixed_offload_gpu(device_map.values()):
        raise ValueError(f"{what} mixes the CPU with GPUs, which TransformerLens refuses: {_ONLY}")


def _plain(where: object) -> str | int:
    return where if isinstance(where, int) else str(where)
