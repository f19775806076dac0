"""One differentiated run: the activations at chosen hook points and the metric's gradient there.

The parameters are frozen and the graph of operations starts at the embedding. No backward hooks:
gradients are those of tensors that hooks hand on.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Float, Int
from torch import Tensor

from patching.anatomy.blocks import EMBEDDING, FINAL_STREAM
from patching.anatomy.devices import AtLayer, Hook
from patching.metrics import Metric, measure_sloped
from patching.model import Model
from patching.modes import with_gradients
from patching.rules import Rule
from patching.tasks.task import Batch


@dataclass(frozen=True)
class Start:
    """A run to differentiate: which prompts, from which embedding, with what changed."""

    weight: float
    prompts: Int[Tensor, "batch pos"]
    embedding: Float[Tensor, "batch pos d_model"] | None = None
    hooks: tuple[tuple[str, Hook], ...] = ()


@dataclass(frozen=True)
class Point:
    """A run that was differentiated: its metric, its logits, and gradients by hook point.

    Gradients are of the metric's sum over examples; each lies where its layer lies.
    """

    values: Float[Tensor, " batch"]
    logits: Float[Tensor, "asked vocab"]
    gradients: Mapping[str, Tensor]

    @property
    def embedding_gradient(self) -> Float[Tensor, "batch pos d_model"]:
        """The gradient at the whole embedding."""
        return self.gradients[EMBEDDING]


class Live:
    """Hooks that keep the tensors at some hook points, and root the graph at the embedding.

    A hook point hands every consumer the same tensor; the view handed on in its place makes the
    gradient that of what reads it alone. What a rule has cut off starts anew there: its gradient
    is that of what follows. Tensors lie where their layers lie.
    """

    def __init__(
        self, names: Iterable[str], embedding: Float[Tensor, "batch pos d_model"] | None = None
    ) -> None:
        self.tensors: dict[str, Tensor] = {}
        self._names = [name for name in dict.fromkeys(names) if name != EMBEDDING]
        self._embedding = embedding

    def hooks(self) -> list[tuple[str, Hook]]:
        """To be in place during a run. Not kept: they and the graph would hold each other."""
        return [(EMBEDDING, self._root), *self._keeping(self._names)]

    def around(self, model: Model, rule: list[tuple[str, Hook]]) -> list[tuple[str, Hook]]:
        """The hooks with a rule's between them.

        What readers read is kept before a rule acts on it; elsewhere a tensor is what a rule
        leaves of it: a ruled norm's output is the write.
        """
        read = {FINAL_STREAM}.union(
            *((*b.projections, b.mlp_stream, b.mlp_in) for b in model.blocks)
        )
        early = [name for name in self._names if name in read]
        late = [name for name in self._names if name not in read]
        return [(EMBEDDING, self._root), *self._keeping(early), *rule, *self._keeping(late)]

    def _keeping(self, names: Iterable[str]) -> list[tuple[str, Hook]]:
        return [(name, AtLayer(partial(self._keep, name))) for name in names]

    def _root(self, embedding: Tensor) -> Tensor:
        start = embedding if self._embedding is None else self._embedding
        self.tensors[EMBEDDING] = start.detach().requires_grad_(torch.is_grad_enabled())
        return self.tensors[EMBEDDING]

    def _keep(self, name: str, tensor: Tensor) -> Tensor:
        cut = torch.is_grad_enabled() and not tensor.requires_grad
        self.tensors[name] = tensor.detach().requires_grad_() if cut else tensor.view_as(tensor)
        return self.tensors[name]


def differentiate(
    model: Model, batch: Batch, metric: Metric, rule: Rule, live: Live, start: Start
) -> Point:
    """Run the prompts of `start` and take gradients at all that `live` keeps, under a rule.

    Hooks of `start` come last at their hook points.

    Raises:
        ValueError: if the metric's values hang on nothing that could be differentiated by, or the
            rule did not act everywhere.
    """
    ruled = rule.start(model)
    with with_gradients():
        hooks = [*live.around(model, ruled.hooks), *start.hooks]
        logits = model.answer_logits(start.prompts, batch, hooks)
        values = measure_sloped(metric, logits, batch)
        found = torch.autograd.grad(
            values.sum(),
            list(live.tensors.values()),
            allow_unused=True,
            materialize_grads=True,
        )
    ruled.check()
    gradients = dict(zip(live.tensors, found, strict=True))
    return Point(values.detach(), logits.detach(), gradients)
