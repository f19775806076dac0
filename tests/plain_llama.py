"""Circuits of a plain Llama of Hugging Face's, by its own modules: no model library, no engine."""

from collections.abc import Mapping

import torch
from torch import Tensor
from transformers import LlamaForCausalLM
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb


@torch.no_grad()
def logits_under_zero(
    plain: LlamaForCausalLM, tokens: Tensor, edges: list[tuple[str, str]]
) -> Tensor:
    """Logits `[pos vocab]` of one prompt where each reader sees the writers of its edges alone."""
    into: dict[str, list[str]] = {}
    for source, dest in edges:
        into.setdefault(dest, []).append(source)
    writes = {"embed": plain.model.embed_tokens(tokens[None])}
    positions = torch.arange(len(tokens))[None]
    turns = plain.model.rotary_emb(writes["embed"], positions)
    for i, layer in enumerate(plain.model.layers):
        writes |= _heads(layer, i, writes, into, turns)
        writes[f"m{i}"] = layer.mlp(layer.post_attention_layernorm(_sum(writes, into, f"m{i}")))
    return plain.lm_head(plain.model.norm(_sum(writes, into, "logits")))[0]


def _sum(writes: Mapping[str, Tensor], into: Mapping[str, list[str]], dest: str) -> Tensor:
    parts = [writes[source] for source in into.get(dest, ())]
    return sum(parts, torch.zeros_like(writes["embed"]))


def _heads(layer, i: int, writes, into, turns) -> dict[str, Tensor]:
    attention, config = layer.self_attn, layer.self_attn.config
    n, shared, d = config.num_attention_heads, config.num_key_value_heads, attention.head_dim
    letter = "h" if n == shared else "g"

    def read(name: str, projection: torch.nn.Linear, head: int) -> Tensor:
        x = layer.input_layernorm(_sum(writes, into, name))
        return x @ projection.weight[head * d : (head + 1) * d].T

    found = {}
    mask = torch.full((writes["embed"].shape[1],) * 2, -torch.inf).triu(1)
    for h in range(n):
        g = h // (n // shared)
        q = read(f"a{i}.h{h}.q", attention.q_proj, h)
        k = read(f"a{i}.{letter}{g}.k", attention.k_proj, g)
        v = read(f"a{i}.{letter}{g}.v", attention.v_proj, g)
        q, k = apply_rotary_pos_emb(q[:, None], k[:, None], *turns)
        pattern = (q @ k.mT * attention.scaling + mask.to(q)).softmax(dim=-1)
        z = (pattern @ v[:, None])[:, 0]
        found[f"a{i}.h{h}"] = z @ attention.o_proj.weight[:, h * d : (h + 1) * d].T
    return found
