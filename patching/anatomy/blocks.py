"""One transformer block as the rest of the project sees it: weights, norms and hook points.

Hook names of the model library live here (and, for rules alone, in `rules.sites`): nowhere else.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformer_lens.model_bridge import TransformerBridge

from patching.anatomy.gates import b_gate, shows_gates, w_gate
from patching.anatomy.norms import Norm, find_norm, offset, widen
from patching.anatomy.refusing import refusing

EMBEDDING = "blocks.0.hook_in"
POSITIONS = "pos_embed.hook_out"
FINAL_STREAM = "ln_final.hook_in"
UNEMBED_IN = "unembed.hook_in"


@dataclass(frozen=True)
class Block:
    """One layer: where its readers and writers sit in the model, and with which weights.

    Weights are read anew at each use: they may have been changed in memory.
    """

    index: int
    bridge: nn.Module
    parallel: bool
    attention_norm: Norm | None
    mlp_norm: Norm | None
    post_attention_norm: Norm | None
    gated: bool = False

    # Hook points, in the order in which they fire.

    @property
    def stream_in(self) -> str:
        """The residual stream before the block."""
        return f"blocks.{self.index}.hook_in"

    @property
    def stream_out(self) -> str:
        """The residual stream after the block."""
        return f"blocks.{self.index}.hook_out"

    @property
    def qkv(self) -> tuple[str, str, str]:
        """Queries, keys and values, `[batch pos head d_head]`, before any rotation or norm."""
        q, k, v = (f"blocks.{self.index}.attn.{x}.hook_out" for x in "qkv")
        return q, k, v

    @property
    def projections(self) -> tuple[str, ...]:
        """Queries, keys, values and, where heads have them, gates: all that attention reads."""
        gate = f"blocks.{self.index}.attn.gate.hook_out"
        return (*self.qkv, gate) if self.gated else self.qkv

    @property
    def z(self) -> str:
        """Mixed values of each head, `[batch pos head d_head]`, before the output projection."""
        return f"blocks.{self.index}.attn.o.hook_in"

    @property
    def attention_sum(self) -> str:
        """The attention's output before its post-norm; fires only where there is such a norm."""
        return f"blocks.{self.index}.ln1_post.hook_in"

    @property
    def attention_out(self) -> str:
        """What the attention writes to the stream."""
        return f"blocks.{self.index}.hook_attn_out"

    @property
    def mlp_stream(self) -> str:
        """The stream that the MLP reads, before its norm; a branch: edits change nothing else."""
        if self.parallel:
            return self.stream_in
        return f"blocks.{self.index}.ln2.hook_in" if self.mlp_norm else self.mlp_in

    @property
    def mlp_in(self) -> str:
        """The MLP's input after its norm; a branch: edits reach the MLP alone."""
        return f"blocks.{self.index}.mlp.hook_in"

    @property
    def mlp_out(self) -> str:
        """What the MLP writes to the stream."""
        return f"blocks.{self.index}.hook_mlp_out"

    @property
    def tokenwise(self) -> tuple[tuple[str, str], ...]:
        """Hook points between which each token is worked on by itself: q, k, v, heads, MLP."""
        parts = [f"blocks.{self.index}.attn.{x}.hook_" for x in "qkvo"]
        linear = tuple((f"{part}in", f"{part}out") for part in parts)
        return linear if self.mlp_keeps_shape else (*linear, (self.mlp_in, self.mlp_out))

    # Weights: views of the model's own, one matrix a head, on the layer's device. What the methods
    # below are given is taken there, and their results lie where it lay.

    @property
    def scale(self) -> float:
        """What multiplies all that the block writes (1 in all families but Granite)."""
        return float(getattr(self.bridge, "residual_contribution_scale", None) or 1.0)

    @property
    def device(self) -> torch.device:
        """Where the layer's attention lies."""
        return next(cast(nn.Module, self.bridge.attn).parameters()).device

    def projected(
        self,
        part: int,
        x: Float[Tensor, "head token d_model"],
        heads: Int[Tensor, " head"] | None = None,
    ) -> Float[Tensor, "head token d_head"]:
        """Queries (0), keys (1), values (2) or gates (3) of some heads, each from its own input."""
        w, b = self.w_projections[part], self.b_projections[part]
        if heads is not None and len(heads) < len(w):
            w, b = w[heads.to(w.device)], None if b is None else b[heads.to(b.device)]
        made = torch.bmm(x.to(w.device), w)
        return (made if b is None else made + b[:, None]).to(x.device)

    @property
    def w_qkv(self) -> tuple[Float[Tensor, "_ d_model d_head"], ...]:
        """Query, key and value projections."""
        return self._attention("W_Q"), self._attention("W_K"), self._attention("W_V")

    @property
    def b_qkv(self) -> tuple[Float[Tensor, "head d_head"] | None, ...]:
        """Query, key and value biases, where the family has them."""
        return tuple(getattr(self.bridge.attn, name, None) for name in ("b_Q", "b_K", "b_V"))

    @property
    def w_projections(self) -> tuple[Float[Tensor, "_ d_model _"], ...]:
        """Those of `projections`."""
        return (*self.w_qkv, w_gate(self.bridge)) if self.gated else self.w_qkv

    @property
    def b_projections(self) -> tuple[Tensor | None, ...]:
        """Biases of `projections`, by head."""
        return (*self.b_qkv, b_gate(self.bridge)) if self.gated else self.b_qkv

    @cached_property
    def couples_heads(self) -> bool:
        """Whether a head's write depends on the inputs of others too: by a norm over them all."""
        norms = (getattr(self.bridge.attn, name, None) for name in ("q_norm", "k_norm"))
        gammas = [gamma for norm in norms if norm is not None for gamma in norm.parameters()]
        d_head = self.w_o.shape[1]
        return self.post_attention_norm is not None or any(len(g) > d_head for g in gammas)

    @property
    def mlp_keeps_shape(self) -> bool:
        """Whether the MLP's output must have its input's numbers of rows and tokens (Llama 4)."""
        return "Llama4MoE" in type(self.bridge.mlp).__name__

    @property
    def post_mlp_norm(self) -> Norm | None:
        """The norm between the MLP and the stream, where the family has one."""
        return find_norm(getattr(self.bridge, "ln2_post", None))

    @property
    def w_o(self) -> Float[Tensor, "head d_head d_model"]:
        """Output projections."""
        return self._attention("W_O")

    def head_input(
        self,
        z: Float[Tensor, "*rows head d_head"],
        attention_sum: Float[Tensor, "*rows d_model"] | None,
    ) -> Float[Tensor, "*rows head d_head"]:
        """What of a head's write lies before `W_O`: z, over sigma where a post-norm follows.

        The exact additive split of an RMS post-norm is `gamma * (z_h W_O_h) / sigma(sum)`, with
        one sigma per run, so differences between runs can be taken here, in d_head.
        """
        if self.post_attention_norm is None:
            return widen(z)
        assert attention_sum is not None, "a post-norm block needs the sum of its heads"
        return widen(z) / self.post_attention_norm.sigma(attention_sum.to(z.device))[..., None]

    def head_writes(
        self,
        head_input: Float[Tensor, "token head d_head"],
        *,
        heads: Int[Tensor, " head"] | None = None,
        out: Float[Tensor, "head token d_model"] | None = None,
    ) -> Float[Tensor, "head token d_model"]:
        """What each head adds to the stream, given its `head_input` (or a difference of two).

        `heads` says which ones `head_input` holds, where it is not all of them.
        """
        w = self.w_o if heads is None else self.w_o[heads.to(self.device)]
        made = out if out is not None and out.device == w.device else None
        z = head_input.to(w.device).transpose(0, 1)
        writes = self._scale_(torch.bmm(z, w.to(z.dtype), out=made))
        if out is not None and made is None:
            return out.copy_(writes)
        return writes.to(head_input.device) if out is None else writes

    def attention_write(
        self, head_input: Float[Tensor, "token head d_head"]
    ) -> Float[Tensor, "token d_model"]:
        """What the attention adds to the stream in all: its heads' writes and its own bias."""
        z, w = head_input.flatten(1).to(self.device), self.w_o.flatten(0, 1)
        write, bias = self._scale_(z @ w.to(z.dtype)), self.attention_bias
        return (write if bias is None else write + bias).to(head_input.device)

    @property
    def attention_bias(self) -> Float[Tensor, " d_model"] | None:
        """What the attention adds whatever its heads do, where its projection has a bias."""
        bias = getattr(self.bridge.attn, "b_O", None)
        return None if bias is None else widen(bias.detach()) * self.scale

    def _scale_(self, write: Float[Tensor, "*rows d_model"]) -> Float[Tensor, "*rows d_model"]:
        """The way from the output projection to the stream, in place."""
        norm = self.post_attention_norm
        gamma = None if norm is None else norm.gamma
        if gamma is not None:
            write *= gamma.to(write)
        if self.scale != 1.0:
            write *= self.scale
        return write

    def pull_back_qkv(
        self,
        g: Float[Tensor, "token reader d_head"],
        *,
        centre: bool = True,
        out: Float[Tensor, "reader token d_model"] | None = None,
    ) -> Float[Tensor, "reader token d_model"]:
        """Gradients at all projections (divided by sigma) taken back to the stream.

        `centre(gamma * (W_j g_j))` for each reader j: the norm's own derivative is complete with
        the part along `x_hat`, which the caller subtracts. Without `centre`, the caller multiplies
        by what is centred. `out` is room for the result, where the layer lies.
        """
        ws, here = self.w_projections, g.to(self.device)
        back = here.new_empty(g.shape[1], g.shape[0], ws[0].shape[1]) if out is None else out
        sizes = [len(w) for w in ws]
        for w, part, to in zip(ws, here.split(sizes, dim=1), back.split(sizes), strict=True):
            x = part[..., : w.shape[2]].transpose(0, 1)  # a gate may be of one number
            torch.bmm(x, w.to(g.dtype).transpose(1, 2), out=to)
        if self.attention_norm is not None:
            back = self.attention_norm.pull_back_(back, centre=centre)
        return back.to(g.device)

    @property
    def offsets(self) -> tuple[Float[Tensor, "_ _"], ...]:
        """What of the projections does not depend on the stream: `W beta + b`."""
        beta = None if self.attention_norm is None else self.attention_norm.beta
        pairs = zip(self.w_projections, self.b_projections, strict=True)
        return tuple(offset(w, b, beta) for w, b in pairs)

    def forget_pattern(self) -> None:
        """Drop the last pattern, which some attentions keep together with its graph."""
        if getattr(self.bridge.attn, "_pattern", None) is not None:
            setattr(self.bridge.attn, "_pattern", None)  # noqa: B010 - no declared attribute

    def _attention(self, name: str) -> Tensor:
        return cast(Tensor, getattr(self.bridge.attn, name)).detach()


def find_blocks(bridge: TransformerBridge) -> tuple[Block, ...]:
    """The blocks of a booted model.

    Raises:
        ValueError: if it is not a stack of blocks with attention and MLP.
    """
    stack = getattr(bridge, "blocks", [])
    if not stack or any(not hasattr(b, "attn") or not hasattr(b, "mlp") for b in stack):
        raise ValueError(
            f"{bridge.cfg.model_name} is refused: it is not one stack of blocks, each with "
            "attention and an MLP"
        )
    with refusing(str(bridge.cfg.model_name), "its layers hold what this workbench does not know"):
        return tuple(_find_block(bridge, i) for i in range(len(bridge.blocks)))


def _find_block(bridge: TransformerBridge, index: int) -> Block:
    block = bridge.blocks[index]
    parallel = "Parallel" in type(block).__name__ or bool(
        getattr(bridge.cfg, "parallel_attn_mlp", False)
    )
    attention_norm = find_norm(getattr(block, "ln1", None))
    mlp_norm = find_norm(getattr(block, "ln2", None))
    return Block(
        index=index,
        bridge=block,
        parallel=parallel,
        attention_norm=attention_norm,
        mlp_norm=attention_norm if parallel and mlp_norm is None else mlp_norm,
        post_attention_norm=find_norm(getattr(block, "ln1_post", None)),
        gated=shows_gates(block),
    )
