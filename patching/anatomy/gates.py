"""Gates of heads: what a head has gathered is multiplied by numbers made of the stream.

AFMoE and Laguna have them. They are readers of the stream like queries, keys and values are.
"""

from typing import cast

from jaxtyping import Float
from torch import Tensor, nn
from transformer_lens.conversion_utils.conversion_steps import RearrangeTensorConversion


def shows_gates(block: nn.Module) -> bool:
    """Whether a layer has a projection `gate` of the stream to as many numbers for every head.

    Its hook point is made to show them by head. That z is multiplied by them, and nothing else is
    read of the stream, is for the proof to say.
    """
    gate = getattr(getattr(block, "attn", None), "gate", None)
    made = getattr(gate, "original_component", None)
    if not isinstance(made, nn.Linear) or made.out_features % _n_heads(block):
        return False
    shape = "batch pos (head width) -> batch pos head width"
    conversion = RearrangeTensorConversion(shape, head=_n_heads(block))
    setattr(cast(nn.Module, gate).hook_out, "hook_conversion", conversion)  # noqa: B010 - as theirs
    return True


def w_gate(block: nn.Module) -> Float[Tensor, "head d_model width"]:
    """The gates' projections: of a number for each head, or for each of its z."""
    return _gate(block).weight.detach().unflatten(0, (_n_heads(block), -1)).transpose(1, 2)


def b_gate(block: nn.Module) -> Float[Tensor, "head width"] | None:
    """Their biases, where there are some."""
    bias = _gate(block).bias
    return None if bias is None else bias.detach().unflatten(0, (_n_heads(block), -1))


def _gate(block: nn.Module) -> nn.Linear:
    return cast(nn.Linear, getattr(getattr(block.attn, "gate"), "original_component"))  # noqa: B009


def _n_heads(block: nn.Module) -> int:
    return len(cast(Tensor, cast(nn.Module, block.attn).W_Q))
