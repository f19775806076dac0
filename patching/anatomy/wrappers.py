"""What others put around a module or into it: taken off, where it changes no number, or refused.

`torch.compile` and data parallelism compute what the module inside computes; our hooks need that
module itself. Adapters (peft) change what projections do beside their weights, which is where edges
are read: they are merged first, or the model is refused, however little they do.
"""

import copy
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from transformer_lens.model_bridge import TransformerBridge
from transformers.pytorch_utils import Conv1D

from patching.anatomy.refusing import refusing

_AROUND = {"OptimizedModule": "_orig_mod", "DataParallel": "module"}
_AROUND |= {"DistributedDataParallel": "module"}
_SHARDED = ("FullyShardedDataParallel", "DTensor")
_ADAPTED = ("base_layer", "lora_A", "lora_B", "lora_embedding_A", "peft_config")
_PROJECTIONS = {"attn": ("q", "k", "v", "o"), "mlp": ("in", "gate", "out")}
_KNOWN = ("torch.", "transformers.", "transformer_lens.")
_TOLERANCE = 1e-10
"""Relative, in float64: an adapter that does less does nothing in any type."""


def unwrapped(module: nn.Module) -> nn.Module:
    """The module inside what torch puts around it, and around its parts, which come out in place.

    Raises:
        ValueError: if its weights are spread over processes.
    """
    while type(module).__name__ in _AROUND:
        module = getattr(module, _AROUND[type(module).__name__])
    for part in list(module.modules()):
        part._compiled_call_impl = None  # by module.compile()
        for name, child in part.named_children():
            if type(child).__name__ in _AROUND:
                setattr(part, name, unwrapped(child))
    _refuse_sharded(module)
    return module


def refuse_adapted(name: str, module: nn.Module) -> None:
    """Refuse a module that peft has put adapters around or into.

    Raises:
        ValueError: naming the first adapter, and the way out.
    """
    for place, part in module.named_modules():
        found = next((word for word in _ADAPTED if hasattr(part, word)), None)
        if found is not None or type(part).__module__.startswith("peft."):
            where = f"in {place}" if place else "around it"
            raise ValueError(
                f"{name} is refused: it has an adapter {where} ({type(part).__name__}), which "
                "works beside its weights; merge it first: model = peft_model.merge_and_unload()"
            )


def refuse_foreign(name: str, bridge: TransformerBridge) -> None:
    """Refuse projections that do something else, however little, than multiply by their weight.

    Only those that are not torch's or the model library's own, or have hooks or another forward
    put on them, are tried.

    Raises:
        ValueError: naming the first.
    """
    for place, projection in _projections(bridge):
        if not _is_plain(projection):
            with refusing(name, f"its {place} is of a kind that is not known here"):
                error = _beside_weight(projection)
            if error > _TOLERANCE:
                raise ValueError(
                    f"{name} is refused: its {place} (a {type(projection).__name__}) does something"
                    f" beside its weight, as adapters and hooks do ({error:.0e} of what it gives); "
                    "merge that into the weight, or take it off"
                )


def _refuse_sharded(module: nn.Module) -> None:
    kinds = {type(part).__name__ for part in (*module.modules(), *module.parameters())}
    found = sorted(kinds.intersection(_SHARDED))
    if found:
        raise ValueError(
            f"this {type(module).__name__} is spread over processes ({found[0]}), which hooks on "
            "one of them do not see; load it on one, or over several devices (device_map)"
        )


def _projections(bridge: TransformerBridge) -> Iterator[tuple[str, nn.Module]]:
    for i, block in enumerate(bridge.blocks):
        for owner, names in _PROJECTIONS.items():
            for name in names:
                part = getattr(getattr(block, owner, None), name, None)
                projection = getattr(part, "original_component", None)
                if isinstance(projection, nn.Module):
                    yield f"blocks.{i}.{owner}.{name}", projection
    head = getattr(bridge.unembed, "original_component", None)
    if isinstance(head, nn.Module):
        yield "unembed", head


def _is_plain(projection: nn.Module) -> bool:
    hooks = (projection._forward_hooks, projection._forward_pre_hooks)
    moved = hasattr(projection, "_hf_hook")  # by accelerate, to where its weight lies
    known = type(projection).__module__.startswith(_KNOWN)
    return known and not any(hooks) and ("forward" not in vars(projection) or moved)


@torch.no_grad()
def _beside_weight(projection: nn.Module) -> float:
    """How much of a projection's output is not its weight's, relative, in float64."""
    wide = copy.deepcopy(projection).double()
    weight, bias = wide.weight, getattr(wide, "bias", None)
    assert isinstance(weight, Tensor), "a projection has a weight"
    weight = weight if isinstance(projection, Conv1D) else weight.T
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(3, weight.shape[0], generator=generator, dtype=torch.float64).to(weight.device)
    made = x @ weight if bias is None else x @ weight + bias
    return float((wide(x) - made).abs().max() / made.abs().max().clamp(min=1e-300))
