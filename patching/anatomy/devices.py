"""Where a model's parts lie: all on one device, or its layers on several.

A model of several devices has one that is home: where tokens go in and logits come out. Hooks meet
every activation there, whichever layer it is from, so that what is made of layers together needs
no thought. A hook that keeps much and mixes nothing says `AtLayer` and works where its layer lies.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Shaped
from torch import Tensor
from transformer_lens.hook_points import HookPoint
from transformer_lens.model_bridge import TransformerBridge
from transformer_lens.model_bridge.generalized_components.base import alias_generation

Hook = Callable[[Tensor], Tensor | None]


@dataclass(frozen=True)
class AtLayer:
    """A hook that takes activations where its layer lies, and gives them back there."""

    change: Hook

    def __call__(self, tensor: Tensor) -> Tensor | None:
        """As the hook itself."""
        return self.change(tensor)


def at_home(change: Hook, home: torch.device) -> Hook:
    """The hook as it sees activations on the home device, and what it returns taken back."""
    if isinstance(change, AtLayer):
        return change.change

    return partial(_change_at, home, change)


def _change_at(home: torch.device, change: Hook, tensor: Tensor) -> Tensor | None:
    changed = change(tensor.to(home))
    return None if changed is None else changed.to(tensor.device)


def rows_at(
    x: Shaped[Tensor, "batch pos ..."], chosen: tuple[Tensor, ...]
) -> Shaped[Tensor, "token ..."]:
    """Activations at some tokens, given by their indices, where the activations lie."""
    return x[tuple(index.to(x.device) for index in chosen)]


def row_tokens(chosen: tuple[Tensor, Tensor]) -> AtLayer:
    """A hook that leaves one token a row: those at some indices, where the activations lie."""
    return AtLayer(lambda x: rows_at(x, chosen)[:, None])


@contextmanager
def placed(bridge: TransformerBridge, hooks: Iterable[tuple[str, Hook]]) -> Iterator[None]:
    """Hooks of ours at the model library's hook points, in this order, and no others removed.

    Its own context finds all hook points of the model anew, which takes longer than a small layer.

    Raises:
        KeyError: if there is no such hook point.
        ValueError: if it does not fire as the model is configured.
    """
    home, points, added = next(bridge.parameters()).device, _points(bridge), []
    together: dict[HookPoint, list[Hook]] = {}
    try:
        for name, hook in hooks:
            if name not in points:
                raise KeyError(f"Hook name {name!r} does not exist on this model.")
            point, is_known = points[name], points[name] in together
            together.setdefault(point, []).append(at_home(hook, home))
            if not is_known:
                change = partial(_as_library, together[point])
                bridge.check_hooks_to_add(point, name, change)
                added.append((point, point.add_hook(change)))
        yield
    finally:
        for point, handle in added:
            handle.hook.remove()
            point.fwd_hooks = [other for other in point.fwd_hooks if other is not handle]


def _as_library(changes: Sequence[Hook], tensor: Tensor, hook: HookPoint) -> Tensor | None:
    """All hooks of one point, one after the other."""
    latest = None
    for change in changes:
        changed = change(tensor)
        if changed is not None:
            tensor = latest = changed
    return latest


def _points(bridge: TransformerBridge) -> Mapping[str, HookPoint]:
    """The hook points by all their names, which a part of a model may bind anew."""
    known = _POINTS.get(bridge)
    if known is None or known[0] != alias_generation():
        _POINTS[bridge] = known = alias_generation(), bridge.hook_dict
    return known[1]


_POINTS: WeakKeyDictionary[TransformerBridge, tuple[int, Mapping[str, HookPoint]]] = (
    WeakKeyDictionary()
)
