"""A slow twin of all runs of circuits: no plans, no windows, no products; hook by hook."""

import torch

from patching.anatomy.blocks import EMBEDDING, FINAL_STREAM
from patching.capture import capture, expand_writes


@torch.no_grad()
def slow_logits(model, batch, ablation, removed):
    """Logits at the answer positions, with edges removed in part."""
    hooks = SlowTwin(model, batch, ablation, removed).hooks()
    return model.answer_logits(batch.clean, batch, hooks)


class SlowTwin:
    """Runs with edges removed in part: each reader's input is summed edge by edge, everywhere."""

    def __init__(self, model, batch, ablation, removed):
        self.model, self.graph, self.removed = model, model.graph, removed
        everywhere = torch.ones_like(batch.is_token)
        clean = capture(model, batch.clean, batch, at=everywhere)
        corrupt = capture(model, batch.corrupt, batch, at=everywhere)
        self.positions = clean.positions  # a constant: no writer's
        self.live = expand_writes(model, clean.writes).unflatten(1, batch.clean.shape)
        if ablation.paired:
            self.replaced = expand_writes(model, corrupt.writes).unflatten(1, batch.clean.shape)
        else:
            writes = ablation.replace(batch, clean, None).writes
            self.replaced = self.live.clone()
            self.replaced[:, ablation.tokens(batch)] = expand_writes(model, writes)
        self.kept = {}

    def seen_by(self, dest, stream):
        total = stream.clone()
        for source in self.graph.exists[:, dest].nonzero().flatten().tolist():
            total += self.removed[source, dest] * (self.replaced[source] - self.live[source])
        return total

    def hooks(self):
        hooks = [(EMBEDDING, lambda x: self.wrote(0, x - self.positions))]
        for block in self.model.blocks:
            hooks += self.attention_hooks(block) + self.mlp_hooks(block)
        last = len(self.graph.destinations) - 1
        return [*hooks, (FINAL_STREAM, lambda x: self.seen_by(last, x))]

    def attention_hooks(self, block):
        graph, i = self.graph, block.index
        spans = (graph.q_readers(i), graph.k_readers(i), graph.v_readers(i))
        hooks = [(block.stream_in, lambda x: self.keep("in", x))]
        for part, span in enumerate(spans):
            hooks.append((block.qkv[part], self.project(block, part, span)))
        hooks.append((block.z, lambda z: self.keep("z", z)))
        if block.post_attention_norm is None:
            return [*hooks, (block.z, lambda _: self.heads_wrote(block, None))]
        return [*hooks, (block.attention_sum, lambda total: self.heads_wrote(block, total))]

    def project(self, block, part, span):
        def hook(live):
            out = live.clone()
            for head, reader in enumerate(range(span.start, span.stop)):
                x = self.seen_by(reader, self.kept["in"])
                x = x if block.attention_norm is None else block.attention_norm(x)
                out[:, :, head] = x @ block.w_qkv[part][head]
                if block.b_qkv[part] is not None:
                    out[:, :, head] += block.b_qkv[part][head]
            return out

        return hook

    def mlp_hooks(self, block):
        def to_mlp(_):
            x = self.seen_by(self.graph.mlp_reader(block.index), self.kept["mid"])
            return x if block.mlp_norm is None else block.mlp_norm(x)

        return [
            (block.mlp_stream, lambda x: self.keep("mid", x)),
            (block.mlp_in, to_mlp),
            (block.mlp_out, lambda x: self.wrote(self.graph.mlp_source(block.index), x)),
        ]

    def heads_wrote(self, block, total):
        z = self.kept["z"]
        flat = None if total is None else total.flatten(0, 1)
        writes = block.head_writes(block.head_input(z.flatten(0, 1), flat))
        self.wrote(self.graph.head_sources(block.index), writes.unflatten(1, z.shape[:2]))

    def wrote(self, source, x):
        self.live[source] = x

    def keep(self, name, x):
        self.kept[name] = x
