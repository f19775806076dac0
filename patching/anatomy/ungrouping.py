"""Keys and values for every query head: what heads share is given to each as a copy of its own.

The model computes what it did, and its graph has a key and a value reader for each query head, as
the graphs of EAP-IG and MIB have. That nothing else has changed is for the proof to say: the plain
model has answered the probe before.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from torch import nn
from transformer_lens.model_bridge import TransformerBridge
from transformers import PreTrainedModel


@dataclass(frozen=True)
class Ungrouped:
    """A source of a model, to be loaded with keys and values for every query head.

    Scores of its edges into keys and values add up, over the query heads of a group, to those of
    the model as it is (where they are gradients), and a circuit may keep a group's edge for some of
    its heads. Costs the memory of the copies. Without shared keys and values nothing is changed.

    >>> from patching import Model
    >>> Model.load(Ungrouped("toy-llama")).graph.describe()
    '4 sequential layers, 4 heads, 4 key-value heads'
    """

    source: str | Path | PreTrainedModel | TransformerBridge


def ungroup(name: str, module: PreTrainedModel) -> None:
    """Give every query head of a model keys and values of its own, in place.

    Raises:
        ValueError: if the model has heads that share them, and no projections that say which.
    """
    config = module.config.get_text_config()
    n_heads = config.num_attention_heads
    shared = getattr(config, "num_key_value_heads", None) or getattr(config, "num_kv_heads", None)
    if (shared or n_heads) == n_heads and not getattr(config, "multi_query", False):
        return
    parts = [part for part in module.modules() if getattr(part, "num_key_value_groups", 1) > 1]
    if not parts or not all(_projects(part) for part in parts):
        raise ValueError(
            f"{name} is refused: its keys and values are no projections of their own, of which "
            "every query head could be given a copy; load it as it is"
        )
    with torch.no_grad():
        for part in parts:
            _copy(part)
    config.num_key_value_heads = n_heads


def _projects(attention: nn.Module) -> bool:
    apart = all(hasattr(attention, f"{letter}_proj") for letter in "qkv")
    return (apart or hasattr(attention, "qkv_proj")) and hasattr(attention, "head_dim")


def _copy(attention: nn.Module) -> None:
    """As many copies of each key-value head's weights as query heads share it, side by side."""
    n_copies, width = cast(int, attention.num_key_value_groups), cast(int, attention.head_dim)
    if hasattr(attention, "qkv_proj"):
        fused = cast(nn.Linear, attention.qkv_proj)
        n_shared = fused.out_features // width // (n_copies + 2)
        _repeat(fused, 2 * n_shared, n_copies, start=n_shared * n_copies * width)
    else:
        projections = [cast(nn.Linear, getattr(attention, f"{letter}_proj")) for letter in "kv"]
        n_shared = projections[0].out_features // width
        for projection in projections:
            _repeat(projection, n_shared, n_copies)
    queries, keys = (getattr(attention, f"{letter}_norm", None) for letter in "qk")
    if _size(keys) and _size(queries) == n_copies * _size(keys):  # not one scale for all heads
        _repeat(cast(nn.Module, keys), n_shared, n_copies)
    setattr(attention, "num_key_value_groups", 1)  # noqa: B010 - no declared attribute
    if hasattr(attention, "num_key_value_heads"):
        setattr(attention, "num_key_value_heads", n_shared * n_copies)  # noqa: B010 - likewise


def _size(norm: nn.Module | None) -> int:
    weight = getattr(norm, "weight", None)
    return 0 if weight is None else weight.numel()


def _repeat(module: nn.Module, n_heads: int, n_copies: int, *, start: int = 0) -> None:
    """Repeat the rows of each of some heads, from row `start` on, in weight and bias."""
    for name, weight in dict(module.named_parameters(recurse=False)).items():
        rows = weight[start:].unflatten(0, (n_heads, -1)).repeat_interleave(n_copies, dim=0)
        whole = torch.cat([weight[:start], rows.flatten(0, 1)])
        setattr(module, name, nn.Parameter(whole, requires_grad=False))
        if isinstance(module, nn.Linear):
            module.out_features = len(whole)
