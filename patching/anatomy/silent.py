"""Models of attention only, such as the model library's classic toys: their layers have no MLPs.

Each layer is given one that writes nothing, whatever it reads: the model computes what it did, and
all that walks through layers finds in it what it finds in others. Its graph has no edge from or to
these MLPs.
"""

import copy
from dataclasses import replace

import torch
from torch import nn
from transformer_lens.model_bridge import TransformerBridge
from transformer_lens.model_bridge.sources import build_bridge_from_module
from transformer_lens.model_bridge.sources.native import NativeMLP, NativeModel

_WRAPPED = "._original_component"


class SilentMLP(NativeMLP):
    """An MLP of one neuron whose weights are all zero."""


def is_silent(mlp: object) -> bool:
    """Whether a layer's MLP only stands where it has none."""
    return isinstance(getattr(mlp, "original_component", mlp), SilentMLP)


def with_silent_mlps(bridge: TransformerBridge) -> TransformerBridge:
    """A native model of attention only as one with silent MLPs; other bridges as they are.

    The new one shares its weights with the one that was given, whose hooks it does not have.
    """
    plain = bridge.original_model
    if not getattr(bridge.cfg, "attn_only", False) or not isinstance(plain, NativeModel):
        return bridge
    config = replace(copy.deepcopy(bridge.cfg), **_WITH_MLPS)
    with torch.random.fork_rng(devices=()):
        model = NativeModel(config)
    for layer in model.layers:
        layer.mlp = SilentMLP(config)
        for parameter in layer.mlp.parameters():
            nn.init.zeros_(parameter)
    state = plain.state_dict(keep_vars=True)
    weights = {name.replace(_WRAPPED, ""): tensor for name, tensor in state.items()}
    lacks, _ = model.load_state_dict(weights, strict=False, assign=True)
    assert all(".mlp." in name or ".ln2." in name for name in lacks), "all others are there"
    return build_bridge_from_module(
        model.to(bridge.embed.weight),
        "TransformerLensNative",
        tl_config=config,
        tokenizer=bridge.tokenizer,
        model_name=bridge.cfg.model_name,
    )


_WITH_MLPS = {"attn_only": False, "gated_mlp": False, "d_mlp": 1, "act_fn": "relu"}
