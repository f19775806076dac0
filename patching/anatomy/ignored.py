"""What of a module no run reads once the model library has wrapped it, and would ignore in silence.

Projections that are stored in one matrix are split when a model is wrapped, and runs read the
parts. Where these are views of the whole (GPT-2), what is done to it in place reaches them; where
they are copies (GPT-NeoX), or the whole gets a tensor of its own, it does not. And LayerNorms of
some families take their epsilon from the configuration.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Protocol, cast, runtime_checkable

import torch
from torch import Tensor, nn
from transformer_lens.model_bridge import TransformerBridge
from transformer_lens.model_bridge.generalized_components.normalization import NormalizationBridge

State = tuple[object, ...]
_SPLITS = {
    "attn": ("split_qkv_matrix", ("q", "k", "v")),
    "mlp": ("split_gate_up_matrix", ("gate", "in")),
}


@runtime_checkable
class Ignored(Protocol):
    """Something that runs do not read, and what they read in its stead."""

    @property
    def why(self) -> str:
        """What is read instead, and what to do."""
        ...

    def agrees(self) -> bool:
        """Whether the two are the same."""
        ...


@dataclass(frozen=True, eq=False)
class Joined:
    """What one attention or MLP has split into parts, and the state in which they were the same."""

    place: str
    bridge: nn.Module
    split: str
    parts: tuple[str, ...]
    seen: list[tuple[State, ...]] = field(default_factory=list)

    @property
    def why(self) -> str:
        """What is read instead, and what to do."""
        parts = ", ".join(f"{self.place}.{part}" for part in self.parts)
        return (
            f"the model library has split its projections into {parts}, which are as they were; "
            "change these, or change the module before it is loaded"
        )

    def agrees(self) -> bool:
        """Whether the parts are those of the whole; looked at only where something was changed."""
        states = tuple(map(state_of, self._original.parameters()))
        if states not in self.seen and not self._is_split_so():
            return False
        self.seen[:] = [states]
        return True

    @property
    def _original(self) -> nn.Module:
        return cast(nn.Module, self.bridge.original_component)

    def _is_split_so(self) -> bool:
        split = cast(Callable[[nn.Module], tuple[nn.Module, ...]], getattr(self.bridge, self.split))
        pairs = zip(split(self._original), self.parts, strict=True)
        return all(_equal(made, getattr(self.bridge, part)) for made, part in pairs)


@dataclass(frozen=True, eq=False)
class Epsilon:
    """A norm whose epsilon is not its module's own, but the configuration's."""

    place: str
    bridge: NormalizationBridge

    @property
    def why(self) -> str:
        """What is read instead, and what to do."""
        return (
            f"{self.place} has the epsilon {self._own}, and runs take the configuration's "
            f"{self._read}; set both (model.bridge.cfg.eps)"
        )

    def agrees(self) -> bool:
        """Whether the two are the same."""
        return self._own is None or self._own == self._read

    @property
    def _own(self) -> float | None:
        module = self.bridge.original_component
        return getattr(module, "eps", getattr(module, "variance_epsilon", None))

    @property
    def _read(self) -> float:
        return getattr(self.bridge.config, "eps", 1e-5)


def find_ignored(bridge: TransformerBridge) -> tuple[Ignored, ...]:
    """All such places of a wrapped model, as it is now."""
    return (*_joined(bridge), *_epsilons(bridge))


def refuse_ignored(name: str, ignored: tuple[Ignored, ...]) -> None:
    """Refuse to run a model that was changed where no run reads it.

    Raises:
        ValueError: naming the place, and what to change instead.
    """
    for one in ignored:
        if not one.agrees():
            raise ValueError(f"{name} was changed where no run reads it: {one.why}")


def state_of(tensor: Tensor) -> State:
    """What another state of a tensor cannot share: no number is looked at."""
    version = None if tensor.is_inference() else tensor._version
    return (tensor.data_ptr(), version, tensor.dtype, tensor.shape, tensor.stride())


def _joined(bridge: TransformerBridge) -> Iterator[Joined]:
    for i, block in enumerate(bridge.blocks):
        for name, (split, parts) in _SPLITS.items():
            part = getattr(block, name, None)
            if isinstance(part, nn.Module) and callable(getattr(part, split, None)):
                one = Joined(f"blocks.{i}.{name}", part, split, parts)
                one.seen.append(tuple(map(state_of, one._original.parameters())))
                yield one


def _epsilons(bridge: TransformerBridge) -> Iterator[Epsilon]:
    for place, part in bridge.named_modules():
        if isinstance(part, NormalizationBridge) and not part.use_native_layernorm_autograd:
            yield Epsilon(place.replace("._original_component", ""), part)


@torch.no_grad()
def _equal(made: nn.Module, part: nn.Module) -> bool:
    """Whether two projections have the same numbers."""
    read = cast(nn.Module, part.original_component)
    pairs = zip(made.parameters(), read.parameters(), strict=True)
    return all(a.shape == b.shape and torch.equal(a, b) for a, b in pairs)
