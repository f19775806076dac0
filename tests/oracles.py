"""Slow twins: what the engines must compute, written from the formula with explicit copies."""

import torch
from torch import Tensor

from patching.anatomy.blocks import Block
from patching.metrics import Metric
from patching.model import Model
from patching.tasks import Batch


def brute_force_eap(model: Model, batch: Batch, metric: Metric) -> tuple[Tensor, Tensor]:
    """EAP by TransformerLens' own per-head inputs and outputs: scores and which columns it has.

    The library hands each head a copy of the stream (`hook_q_input`, ...) and each head's output
    in d_model (`hook_result`); gradients and differences are taken there, edge by edge. On blocks
    that share one norm between attention and MLP the library has no separate MLP input: those
    columns are missing.
    """
    bridge, graph = model.bridge, model.graph
    for flag in (
        bridge.set_use_split_qkv_input,
        bridge.set_use_hook_mlp_in,
        bridge.set_use_attn_result,
    ):
        flag(True)
    try:
        gradients = _gradients(model, batch, metric)
        difference = _writes(model, batch.clean) - _writes(model, batch.corrupt)
    finally:
        bridge.set_use_split_qkv_input(False)
        bridge.set_use_hook_mlp_in(False)
        bridge.set_use_attn_result(False)
    scores = torch.zeros(graph.exists.shape, dtype=difference.dtype)
    known = torch.zeros(len(graph.destinations), dtype=torch.bool)
    for reader, gradient in gradients.items():
        scores[:, reader] = torch.einsum("sbpd,bpd->s", difference, gradient)
        known[reader] = True
    return (scores * graph.exists / len(batch)).double(), known


def _gradients(model: Model, batch: Batch, metric: Metric) -> dict[int, Tensor]:
    graph, live = model.graph, {}

    def keep(name: str):
        def hook(tensor, hook):
            live[name] = tensor.clone()
            return live[name]

        return name, hook

    names = {}
    for i in range(graph.n_layers):
        names[f"blocks.{i}.attn.hook_q_input"] = graph.q_readers(i)
        names[f"blocks.{i}.attn.hook_k_input"] = graph.k_readers(i)
        names[f"blocks.{i}.attn.hook_v_input"] = graph.v_readers(i)
        names[f"blocks.{i}.hook_mlp_in"] = graph.mlp_reader(i)
    names["ln_final.hook_in"] = len(graph.destinations) - 1
    root = ("blocks.0.hook_in", lambda tensor, hook: tensor.detach().requires_grad_())
    with model.bridge.hooks(fwd_hooks=[root, *map(keep, names)]):
        logits = model.bridge(batch.clean)
    values = metric(logits[torch.arange(len(batch)), batch.answer_pos], batch)
    found = torch.autograd.grad(values.sum(), list(live.values()))
    columns = {}
    for name, gradient in zip(live, found, strict=True):
        where = names[name]
        if isinstance(where, slice):
            for j in range(where.start, where.stop):
                columns[j] = gradient[:, :, j - where.start]
        else:
            columns[where] = gradient
    return columns


@torch.no_grad()
def _writes(model: Model, tokens: Tensor) -> Tensor:
    """Every writer's write, `[source, batch, pos, d_model]`."""
    writes, result = [], {}

    def keep_result(tensor, hook):
        result["heads"] = tensor

    def at_attention_out(block: Block):
        def hook(tensor, hook):
            heads = result["heads"]  # with a block's scale, where it has one
            if block.post_attention_norm is not None:
                total = heads.sum(dim=2)
                sigma = (total.pow(2).mean(-1, keepdim=True) + block.post_attention_norm.eps).sqrt()
                heads = heads / sigma[:, :, None] * block.post_attention_norm.gamma
            writes.append(heads.permute(2, 0, 1, 3))

        return hook

    def keep_write(tensor, hook):
        writes.append(tensor[None])

    hooks = [("blocks.0.hook_in", keep_write)]
    for block in model.blocks:
        hooks.append((f"blocks.{block.index}.attn.hook_result", keep_result))
        hooks.append((block.attention_out, at_attention_out(block)))
        hooks.append((block.mlp_out, keep_write))
    with model.bridge.hooks(fwd_hooks=hooks):
        model.bridge(tokens)
    return torch.cat(writes)
