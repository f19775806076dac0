"""Circuits of a plain Llama of Hugging Face's by plain hooks: no model library, no engine.

python tests/plain_llama.py FOLDER    # 500 edges of a model on indirect objects, all zeroed else
"""

import sys
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, LlamaForCausalLM


@torch.no_grad()
def logits_under_zero(
    plain: LlamaForCausalLM, tokens: Tensor, edges: Iterable[tuple[str, str]]
) -> Tensor:
    """Logits `[pos vocab]` of one prompt where each reader sees the writers of its edges alone."""
    hooked = _Hooked(plain)
    for source, dest in edges:
        hooked.into.setdefault(dest, []).append(source)
    with ExitStack() as stack:
        for handle in hooked.handles():
            stack.callback(handle.remove)
        return plain(tokens[None], use_cache=False).logits[0]


@dataclass
class _Hooked:
    """What has been written in a run, and hooks that make of it what each reader reads."""

    plain: LlamaForCausalLM
    into: dict[str, list[str]] = field(default_factory=dict)
    writes: dict[str, Tensor] = field(default_factory=dict)

    def handles(self) -> list[torch.utils.hooks.RemovableHandle]:
        model, config = self.plain.model, self.plain.config
        heads, shared = config.num_attention_heads, config.num_key_value_heads
        letter = "h" if heads == shared else "g"
        found = [
            model.embed_tokens.register_forward_hook(partial(self._written, "embed")),
            model.norm.register_forward_pre_hook(partial(self._reads, "logits")),
        ]
        for i, layer in enumerate(model.layers):
            attention = layer.self_attn
            for part, name in (("q", "h"), ("k", letter), ("v", letter)):
                readers = [
                    f"a{i}.{name}{n}.{part}" for n in range(heads if part == "q" else shared)
                ]
                made = partial(self._projected, layer.input_layernorm, readers)
                found.append(getattr(attention, f"{part}_proj").register_forward_hook(made))
            seen = partial(self._heads_written, [f"a{i}.h{h}" for h in range(heads)])
            found.append(attention.o_proj.register_forward_pre_hook(seen))
            read = partial(self._mlp_reads, layer.post_attention_layernorm, f"m{i}")
            found.append(layer.mlp.register_forward_pre_hook(read))
            found.append(layer.mlp.register_forward_hook(partial(self._written, f"m{i}")))
        return found

    def _read(self, dest: str) -> Tensor:
        parts = [self.writes[source] for source in self.into.get(dest, ())]
        return sum(parts, torch.zeros_like(self.writes["embed"]))

    def _reads(self, dest: str, module: nn.Module, x: object) -> Tensor:
        return self._read(dest)

    def _written(self, name: str, module: nn.Module, x: object, made: Tensor) -> None:
        self.writes[name] = made

    def _projected(
        self, norm: nn.Module, readers: list[str], module: nn.Linear, x: object, made: Tensor
    ) -> Tensor:
        """Each head's queries, keys or values, of its own input."""
        parts = zip(readers, module.weight.chunk(len(readers)), strict=True)
        return torch.cat([norm(self._read(name)) @ rows.T for name, rows in parts], dim=-1)

    def _heads_written(self, heads: list[str], module: nn.Linear, x: tuple[Tensor]) -> None:
        mixed, weights = x[0].chunk(len(heads), dim=-1), module.weight.chunk(len(heads), dim=1)
        for name, z, weight in zip(heads, mixed, weights, strict=True):
            self.writes[name] = z @ weight.T

    def _mlp_reads(self, norm: nn.Module, name: str, module: nn.Module, x: object) -> Tensor:
        return norm(self._read(name))


def main(folder: str) -> None:
    """A prompt a row: what `evaluate` gives in float32, and plain hooks in float32 and float64."""
    from circuits import eap_ig, evaluate, top_n
    from patching import Model, logit_diff, tasks
    from patching.ablations import zero

    model = Model.load(folder)
    task = tasks.ioi(model.tokenizer, n=8, seed=0)
    scores = eap_ig(model, task, logit_diff, steps=5)
    circuit = top_n(scores, 500, ranking="absolute")
    empty = top_n(scores, 0, ranking="absolute")
    found = evaluate(model, task, [circuit, empty], logit_diff, ablation=zero)
    rows = []
    for dtype in (torch.float32, torch.float64):
        plain = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
        for prompt in task.prompts:
            last = logits_under_zero(plain, torch.tensor(prompt.clean), circuit.edges)[-1]
            rows.append(float(last[prompt.answers[0]] - last[prompt.wrong_answers[0]]))
    half = len(task)
    table = zip(found.values[0].tolist(), rows[:half], rows[half:], strict=True)
    sys.stdout.write("product  plain, float32  plain, float64\n")
    sys.stdout.writelines("{:8.4f} {:8.4f} {:8.4f}\n".format(*row) for row in table)
    gap = float((found.clean - found.corrupt).abs().mean())
    off = max(abs(a - b) for a, b in zip(found.values[0].tolist(), rows[half:], strict=True))
    nothing = float(found.values[1].abs().max())
    sys.stdout.write(
        f"gap {gap:.3f}, largest difference {off:.1e}, the empty circuit {nothing:g}\n"
    )


if __name__ == "__main__":
    main(sys.argv[1])
