"""Gradients at attention patterns by plain hooks: a slow twin of what the QK fix goes by."""

import torch

from patching.metrics import logit_diff


def pattern_slopes(model, batch, tokens):
    """Of the logit difference in a run of these tokens, layer by layer; and the patterns."""
    live = []

    def keep(pattern, hook):
        live.append(pattern.view_as(pattern))
        return live[-1]

    hooks = [(f"blocks.{i}.attn.hook_pattern", keep) for i in range(model.graph.n_layers)]
    root = ("blocks.0.hook_in", lambda x, hook: x.detach().requires_grad_())
    with model.bridge.hooks(fwd_hooks=[root, *hooks]):
        logits = model.bridge(tokens)
    at_answer = logits[torch.arange(len(batch)), batch.answer_pos]
    slopes = torch.autograd.grad(logit_diff(at_answer, batch).sum(), live)
    return slopes, [pattern.detach() for pattern in live]
