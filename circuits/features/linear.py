"""One run of a prompt as a linear function of what writes to the stream, differentiated backwards.

Attention patterns and the denominators of norms count as constants, by backward rules, and an MLP
passes nothing: its output is a leaf. What a reader gets is then a sum over the embedding and all
outputs of MLPs, weighted by gradients. Ameisen et al. 2025, transformer-circuits.pub/2025/
attribution-graphs.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Float, Int
from torch import Tensor

from circuits.features.held import Frozen, Keeping
from circuits.features.mixing import Mixing
from patching.anatomy.blocks import EMBEDDING, POSITIONS, UNEMBED_IN
from patching.model import Hook, Model
from patching.modes import with_gradients
from patching.rules import Rule, attention_rule, norm_rule
from patching.rules.parts import value_norm_rule
from patching.rules.sites import Part

Passing = Callable[[int, Sequence[Tensor], Tensor, Tensor | None], Tensor | None]
"""What of a layer's MLP still hangs on its input, and those of MLPs before.

Given are its output, and the denominator of a norm that follows it, where there is one.
"""


@dataclass(frozen=True, eq=False)
class LinearRun:
    """A run of one prompt, its graph of operations kept.

    `inputs` are what each MLP reads (after its norm), `final` what the unembedding reads; both
    hang on `outputs`, what each MLP wrote, and on `embedding`. `positions` is the learned part of
    the embedding (zero where there is none). `seen` are further tensors that were asked for.
    """

    model: Model
    tokens: Int[Tensor, " pos"]
    logits: Float[Tensor, " vocab"]
    embedding: Float[Tensor, "1 pos d_model"]
    positions: Float[Tensor, "1 pos d_model"]
    inputs: tuple[Float[Tensor, "1 pos d_model"], ...]
    outputs: tuple[Float[Tensor, "1 pos d_model"], ...]
    final: Float[Tensor, "1 pos d_model"]
    seen: Mapping[str, Tensor]
    frozen: Frozen

    def pull_back(
        self, at: Float[Tensor, "1 pos d_model"], seeds: Float[Tensor, "target 1 pos d_model"]
    ) -> "Gradients":
        """Gradients of many targets at all that could have been written before `at`, at once."""
        found = torch.vmap(partial(_gradients, at, [self.embedding, *self._below(at)]))(seeds)
        return Gradients(found[0][:, 0], tuple(g[:, 0] for g in found[1:]))

    def _below(self, at: Tensor) -> tuple[Tensor, ...]:
        """The outputs of the MLPs before the one that reads `at`; all of them before the end."""
        layer = next((i for i, x in enumerate(self.inputs) if x is at), len(self.inputs))
        return self.outputs[:layer]


@dataclass(frozen=True, eq=False)
class Gradients:
    """Of several targets, at the embedding and at the outputs of the MLPs below them."""

    embedding: Float[Tensor, "target pos d_model"]
    outputs: tuple[Float[Tensor, "target pos d_model"], ...]


def run_linear(
    model: Model,
    tokens: Int[Tensor, " pos"],
    *,
    parts: Sequence[Part] = (),
    points: Iterable[str] = (),
    passing: Passing | None = None,
) -> LinearRun:
    """Run a prompt so that it can be pulled back.

    `parts` of backward rules act inside MLPs, besides the two that freeze norms and attention;
    `points` are hook points whose tensors are wanted as well; `passing` is what MLPs let through.

    Raises:
        ValueError: if a rule did not act everywhere, or in inference mode.
    """
    held = (norm_rule, value_norm_rule, attention_rule)
    ruled = Rule("frozen", (*held, *parts), freezes_norms=True).start(model)
    keeping = Keeping(model)
    cut = _Cut(passing, keeping.sigma_after)
    mixing = [hook for block in model.blocks for hook in Mixing(block).hooks]
    before = [(block.mlp_in, partial(cut.enter, block.index)) for block in model.blocks]
    after = [(block.mlp_out, partial(cut.leave, block.index)) for block in model.blocks]
    wanted = {*points, *((POSITIONS,) if model.learns_positions else ())}
    ends: list[tuple[str, Hook]] = [
        (EMBEDDING, cut.start),
        *((name, partial(cut.see, name)) for name in sorted(wanted)),
        (UNEMBED_IN, partial(cut.see, UNEMBED_IN)),
    ]
    # the cut comes after the rules: a post-norm's stands at the very hook point of the MLP's output
    hooks = [*keeping.hooks, *before, *ruled.hooks, *mixing, *ends, *after]
    with with_gradients(), model.hooked(hooks):
        logits = model.bridge(tokens[None]).to(model.device)
    ruled.check()
    layers = range(len(model.blocks))
    learned = cut.seen.get(POSITIONS)
    return LinearRun(
        model,
        tokens,
        logits[0, -1].detach(),
        cut.embedding[0],
        torch.zeros_like(cut.embedding[0]) if learned is None else learned.detach(),
        tuple(cut.inputs[i] for i in layers),
        tuple(cut.outputs[i] for i in layers),
        cut.seen[UNEMBED_IN],
        cut.seen,
        keeping.finish(),
    )


def _gradients(at: Tensor, sources: Sequence[Tensor], seed: Tensor) -> tuple[Tensor, ...]:
    return torch.autograd.grad(
        at, sources, seed, retain_graph=True, materialize_grads=True, allow_unused=True
    )


class _Cut:
    """Hooks that make leaves of what MLPs write, and keep what they read."""

    def __init__(
        self, passing: Passing | None, sigma_after: Callable[[int], Tensor | None]
    ) -> None:
        self.inputs: dict[int, Tensor] = {}
        self.outputs: dict[int, Tensor] = {}
        self.embedding: list[Tensor] = []
        self.seen: dict[str, Tensor] = {}
        self._passing, self._sigma_after = passing, sigma_after

    def start(self, x: Tensor) -> Tensor:
        self.embedding.append(x.detach().clone().requires_grad_())
        return self.embedding[0]

    def enter(self, layer: int, x: Tensor) -> Tensor:
        self.inputs[layer] = x.view_as(x)
        return self.inputs[layer]

    def leave(self, layer: int, y: Tensor) -> Tensor:
        self.outputs[layer] = y.detach().clone().requires_grad_()
        out, read = self.outputs[layer], [self.inputs[i] for i in range(layer + 1)]
        if self._passing is None:
            return out
        passed = self._passing(layer, read, y, self._sigma_after(layer))
        return out if passed is None else out + (passed - passed.detach()).to(out.dtype)

    def see(self, name: str, x: Tensor) -> Tensor:
        self.seen[name] = x.view_as(x)
        return self.seen[name]
