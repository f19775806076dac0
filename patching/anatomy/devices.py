"""Where a model's parts lie: all on one device, or its layers on several.

A model of several devices has one that is home: where tokens go in and logits come out. Hooks meet
every activation there, whichever layer it is from, so that what is made of layers together needs
no thought. A hook that keeps much and mixes nothing says `AtLayer` and works where its layer lies.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Shaped
from torch import Tensor

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


def library_hook(change: Hook) -> Callable[..., Tensor | None]:
    """A hook as the model library calls them: with the hook point as a second argument."""
    return lambda tensor, hook: change(tensor)
