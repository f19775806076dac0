"""Evaluation against a slow twin: one circuit at a time, every reader put together in a loop."""

import families
import pytest
import torch

from circuits import Circuit, random_circuit
from circuits.running.evaluation import evaluate
from patching.anatomy.blocks import EMBEDDING, FINAL_STREAM
from patching.capture import capture, expand_writes
from patching.metrics import logit_diff
from patching.model import Model


@pytest.fixture(scope="module", params=["gpt2", "llama", "gemma2", "qwen3", "neox", "phi"])
def model(request):
    return Model.load(families.module(request.param, torch.float64))


class SlowTwin:
    """Runs one circuit: each reader's input is summed edge by edge, over all positions."""

    def __init__(self, model, batch, circuit):
        self.model, self.graph, self.circuit = model, model.graph, circuit
        everywhere = torch.ones_like(batch.is_token)
        run = capture(model, batch.corrupt, batch, at=everywhere)
        writes = expand_writes(model, run.writes)
        self.positions = run.positions  # a constant: no writer's
        self.corrupt = writes.unflatten(1, batch.corrupt.shape)
        self.live = torch.zeros_like(self.corrupt)
        self.kept = {}

    def seen_by(self, dest, stream):
        total = stream.clone()
        for source in range(len(self.graph.sources)):
            if self.graph.exists[source, dest] and not self.circuit.mask[source, dest]:
                total += self.corrupt[source] - self.live[source]
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


@torch.no_grad()
def slow_values(model, task, circuit):
    (batch,) = task.batches(len(task))
    hooks = SlowTwin(model, batch, circuit).hooks()
    return logit_diff(model.answer_logits(batch.clean, batch, hooks), batch)


def test_batched_circuits_equal_the_slow_twin(model):
    task, graph = families.task(), model.graph
    sizes = (1, 5, graph.n_edges // 2, graph.n_edges - 3)
    circuits = [random_circuit(graph, n, seed=i) for i, n in enumerate(sizes)]
    result = evaluate(model, task, circuits, logit_diff)
    for circuit, found in zip(circuits, result.values, strict=True):
        expected = slow_values(model, task, circuit).double()
        size = expected.abs().max()
        # Rotary families run parts in float32, where the two orders of adding differ
        torch.testing.assert_close(found / size, expected / size, atol=2e-6, rtol=0)


def test_a_circuit_does_not_depend_on_the_others_in_its_batch(model):
    task, graph = families.task(), model.graph
    circuits = [random_circuit(graph, n, seed=n) for n in (3, 20, 60, 61)]
    circuits += [Circuit.full(graph), Circuit.empty(graph)]
    together = evaluate(model, task, circuits, logit_diff).values
    for circuit, values in zip(circuits, together, strict=True):
        alone = evaluate(model, task, [circuit], logit_diff, batch_size=2).values[0]
        size = together.abs().max()
        torch.testing.assert_close(values / size, alone / size, atol=2e-6, rtol=0)
