"""Whether a model is still what it was when it was loaded.

Three looks, from cheap to thorough. Version counters and storages of all tensors, with a few
numbers of each, see what is done to weights and buffers in the open, and whole tensors that were
written to behind the counters' backs (`.data`). The structure sees attributes, hooks, submodules
and replaced functions. The answer, a bitwise hash of what the model says to a small fixed probe,
sees all that reaches its logits, and sums of the bits of embeddings their other rows; it takes a
run, and is asked for where results are to be reused. A device is read once a look.

The answer's bits hang on the device, its libraries and the number of threads, so it is compared
only within one process, with that of the moment of loading, under as many threads.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor, nn
from transformer_lens.hook_points import HookPoint
from transformer_lens.model_bridge import TransformerBridge

from patching.anatomy.answer import hash_answer, hashed_answer
from patching.anatomy.claims import Probe
from patching.anatomy.identity import attributes_of, name_of, short_hash
from patching.anatomy.ignored import Ignored, State, find_ignored, state_of
from patching.anatomy.turns import turn
from patching.anatomy.weights import WRAPPED, Names, hash_tensors

_SAMPLED = 32
_Structure = list[dict[str, Any]]


@dataclass(frozen=True, eq=False)
class _Held:
    """A tensor of a model: its name in the checkpoint, and where it hangs."""

    name: str
    owner: nn.Module
    key: str

    @property
    def tensor(self) -> Tensor | None:
        """The one that hangs there now."""
        found = self.owner._parameters.get(self.key)
        return self.owner._buffers.get(self.key) if found is None else found


@dataclass(frozen=True)
class Look:
    """What is seen of a model at one moment.

    States of all tensors, hashes of a few numbers of those that its checkpoint has and of all
    others, the structure, and the answer to the probe, None if it was not asked for.
    """

    states: tuple[State, ...]
    stored: bytes
    derived: bytes
    structure: _Structure
    answer: str | None


@dataclass(frozen=True, eq=False)
class Standing:
    """How a model stood when it was loaded: what a look saw `then`.

    `stored` are the tensors that its checkpoint has, `derived` all others, `ignored` what no run
    reads.
    """

    bridge: TransformerBridge
    names: Names
    stored: tuple[_Held, ...]
    derived: tuple[_Held, ...]
    ignored: tuple[Ignored, ...]
    then: Look
    tokens: Int[Tensor, "batch pos"]
    n_threads: int
    _known: dict[str, tuple[object, str]] = field(default_factory=dict)

    @staticmethod
    def of(
        bridge: TransformerBridge, names: Names, answered: Probe, weights: str | None
    ) -> "Standing":
        """How it stands now, having `answered` so just before.

        `weights` is the hash of the stored tensors, where it is known.
        """
        held = list(_held(bridge, names.by_id))
        stored = tuple(one for named, one in held if named)
        derived = tuple(one for named, one in held if not named)
        then = _look(bridge, stored, derived, hash_answer(bridge, answered))
        ignored, n_threads = find_ignored(bridge), torch.get_num_threads()
        tokens = answered.tokens
        now = Standing(bridge, names, stored, derived, ignored, then, tokens, n_threads)
        if weights is not None:
            now._once("weights", now._stored_in(then), lambda: weights)
        return now

    def look(self, *, asking: bool = False) -> Look:
        """The model as it is now; `asking` takes a run, and sees what nothing else tells."""
        with turn(self.bridge):
            answer = self._answer_now() if asking else None
            return _look(self.bridge, self.stored, self.derived, answer)

    def is_kept(self, look: Look) -> bool:
        """Whether the model is as it was, as far as a look tells."""
        asked = look if look.answer is not None else replace(look, answer=self.then.answer)
        return asked == self.then

    def new_hooks(self) -> list[str]:
        """The modules whose hooks of PyTorch's own are not those of then."""
        with turn(self.bridge):
            now, then = _hooks(self.bridge), self.then.structure[0]
        names = [name for name in {*now, *then} if now.get(name) != then.get(name)]
        return sorted({name.replace(WRAPPED, "") for name in names})

    def names_in(self, memo: Mapping[int, object]) -> Names:
        """The names of stored tensors in a deep copy of the bridge, which `memo` is of."""
        held = [(one.name, one.tensor) for one in self.stored if one.tensor is not None]
        by_id = {id(memo[id(tensor)]): name for name, tensor in held}
        return replace(self.names, by_id=by_id)

    def weights(self, look: Look) -> str:
        """The hash of the tensors that the checkpoint has, as a look sees them."""
        hashed = partial(_hash, self.stored, self.names.prefix)
        return self._once("weights", self._stored_in(look), hashed)

    def inside(self, look: Look) -> str:
        """A hash of all that configuration and weights do not say. Runs what has changed, once."""
        answer = self.then.answer if self.is_kept(look) else look.answer
        if answer is None:
            seen = (look.states, look.stored, look.derived, json.dumps(look.structure))
            answer = self._once("answer", seen, self._answer_now)
        seen = (look.states[len(self.stored) :], look.derived, answer)
        derived = self._once("derived", seen, partial(_hash, self.derived, ""))
        return short_hash(json.dumps([look.structure, derived, answer]))

    def _stored_in(self, look: Look) -> tuple[object, ...]:
        """What a look tells of the stored tensors; another answer may be of others than it saw."""
        other = None if look.answer in (None, self.then.answer) else look.answer
        return (look.states[: len(self.stored)], look.stored, other)

    def _once(self, what: str, seen: object, find: Callable[[], str]) -> str:
        """What is found now, again only if something else is seen than the last time."""
        if what not in self._known or self._known[what][0] != seen:
            self._known[what] = seen, find()
        return self._known[what][1]

    def _answer_now(self) -> str:
        """The answer under as many threads as then: how sums are split may decide a bit."""
        n_threads = torch.get_num_threads()
        if n_threads == self.n_threads:
            return hashed_answer(self.bridge, self.tokens)
        torch.set_num_threads(self.n_threads)
        try:
            return hashed_answer(self.bridge, self.tokens)
        finally:
            torch.set_num_threads(n_threads)


def refuse_to_send(name: str, standing: Standing, *, in_memory: bool) -> None:
    """Refuse to let a model go to another process, which would load another.

    Raises:
        ValueError: if it was made of something in memory, or changed there since it was loaded.
    """
    kept = "keep it in a folder (module.save_pretrained) and load it from there"
    if in_memory:
        raise ValueError(
            f"{name} was made of a model in memory, which cannot go to another process; {kept}"
        )
    if not standing.is_kept(standing.look(asking=True)):
        raise ValueError(
            f"{name} was changed in memory since it was loaded, and another process would load it "
            f"as it was; {kept}"
        )


def _held(bridge: TransformerBridge, names: Mapping[int, str]) -> Iterator[tuple[bool, _Held]]:
    """Every tensor of a model once, and whether its checkpoint has it."""
    seen: set[int] = set()
    for path, module in _modules(bridge):
        for key, tensor in (*module._parameters.items(), *module._buffers.items()):
            if tensor is not None and id(tensor) not in seen:
                seen.add(id(tensor))
                name = names.get(id(tensor), f"{path}.{key}")
                yield id(tensor) in names, _Held(name, module, key)


def _look(
    bridge: TransformerBridge,
    stored: tuple[_Held, ...],
    derived: tuple[_Held, ...],
    answer: str | None,
) -> Look:
    tensors = [one.tensor for one in (*stored, *derived)]
    states = tuple(() if tensor is None else state_of(tensor) for tensor in tensors)
    kept, others = _samples(tensors[: len(stored)], tensors[len(stored) :])
    return Look(states, kept, others, _structure(bridge), answer)


def _hash(held: tuple[_Held, ...], prefix: str) -> str:
    tensors = ((one.name, one.tensor) for one in held if one.tensor is not None)
    return hash_tensors(tensors, prefix=prefix)


def _samples(*groups: Sequence[Tensor | None]) -> list[bytes]:
    """A hash of each group: a few numbers of each tensor, evenly spaced, its first among them."""
    found: dict[torch.device, dict[tuple[int, torch.dtype], list[Tensor]]] = {}
    for group, tensors in enumerate(groups):
        for tensor in tensors:
            if tensor is not None and tensor.numel():
                kinds = found.setdefault(tensor.device, {})
                kinds.setdefault((group, tensor.dtype), []).append(_sample(tensor.detach()))
    digests = [hashlib.sha256() for _ in groups]
    for kinds in found.values():
        joined = [torch.cat(samples).view(torch.uint8) for samples in kinds.values()]
        read = torch.cat(joined).cpu().split([len(part) for part in joined])
        for (group, _), part in zip(kinds, read, strict=True):
            digests[group].update(part.numpy().tobytes())
    return [digest.digest() for digest in digests]


def _sample(tensor: Tensor) -> Tensor:
    step = max(1, tensor.numel() // _SAMPLED)
    if tensor.is_contiguous():
        return tensor.view(-1)[::step]  # a view: nothing is copied yet
    at = torch.arange(0, tensor.numel(), step)  # on the host
    return tensor[torch.unravel_index(at, tensor.shape)]


def _structure(bridge: TransformerBridge) -> _Structure:
    """Names, kinds, plain attributes, functions and hooks of all modules.

    Left out are hook points, whose hooks provenance names, and what begins with an underscore,
    where models keep what they computed last.
    """
    modules = {
        path: [name_of(module), attributes_of(vars(module))]
        for path, module in _modules(bridge)
        if module is not bridge
    }
    return [_hooks(bridge), attributes_of(vars(bridge.cfg)), modules]


def _hooks(bridge: TransformerBridge) -> dict[str, list[str]]:
    """The functions that PyTorch calls before and after modules, by module."""
    found = {}
    for path, module in _modules(bridge):
        hooks = (*module._forward_pre_hooks.values(), *module._forward_hooks.values())
        hooks = (*hooks, *module._backward_pre_hooks.values(), *module._backward_hooks.values())
        if hooks:
            found[path] = [name_of(hook) for hook in hooks]
    return found


def _modules(bridge: TransformerBridge) -> Iterator[tuple[str, nn.Module]]:
    """All modules but hook points: the bridge's, then what else the original has."""
    seen: set[nn.Module] = set()
    trees = [bridge.named_modules(seen)]
    if isinstance(bridge.original_model, nn.Module):
        trees.append(bridge.original_model.named_modules(seen, "original"))
    for path, module in chain(*trees):
        if not isinstance(module, HookPoint):
            yield path, module
