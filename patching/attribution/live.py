"""One differentiated run: the activations at chosen hook points and the metric's gradient there."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from patching.anatomy.blocks import EMBEDDING
from patching.gradients import Start
from patching.metrics import Metric, measure_sloped
from patching.model import Hook, Model
from patching.modes import with_gradients
from patching.rules import Rule
from patching.tasks.task import Batch


class Live:
    """Hooks that keep the tensors at some hook points, and root the graph at the embedding.

    A hook hands on a view, so that its gradient is that of what reads it. What a rule has cut
    off starts anew there: its gradient is that of what follows.
    """

    def __init__(
        self, names: Iterable[str], embedding: Float[Tensor, "batch pos d_model"] | None = None
    ) -> None:
        self.tensors: dict[str, Tensor] = {}
        self._names = [name for name in dict.fromkeys(names) if name != EMBEDDING]
        self._embedding = embedding

    def hooks(self, names: Iterable[str] | None = None) -> list[tuple[str, Hook]]:
        """To be in place during the run: the root and all hook points, or only those named."""
        chosen = self._names if names is None else [n for n in self._names if n in set(names)]
        root: list[tuple[str, Hook]] = [(EMBEDDING, self._root)] if names is None else []
        return [*root, *((name, partial(self._keep, name)) for name in chosen)]

    def around(self, model: Model, rule: list[tuple[str, Hook]]) -> list[tuple[str, Hook]]:
        """The hooks with a rule's between them.

        Queries, keys and values are kept before a rule acts on them, as readers' gradients are;
        elsewhere a tensor is what a rule leaves of it: a ruled norm's output is the write.
        """
        early = {name for block in model.blocks for name in block.qkv}
        late = [name for name in self._names if name not in early]
        return [(EMBEDDING, self._root), *self.hooks(early), *rule, *self.hooks(late)]

    def _root(self, embedding: Tensor) -> Tensor:
        start = embedding if self._embedding is None else self._embedding
        self.tensors[EMBEDDING] = start.detach().requires_grad_(torch.is_grad_enabled())
        return self.tensors[EMBEDDING]

    def _keep(self, name: str, tensor: Tensor) -> Tensor:
        cut = torch.is_grad_enabled() and not tensor.requires_grad
        kept = tensor.detach().requires_grad_() if cut else tensor.view_as(tensor)
        self.tensors[name] = kept
        return kept


@dataclass(frozen=True)
class Differentiated:
    """A run's logits and metric, and the gradients of the metric's sum by hook point."""

    logits: Float[Tensor, "batch vocab"]
    values: Float[Tensor, " batch"]
    gradients: dict[str, Tensor]


def differentiate(
    model: Model, batch: Batch, metric: Metric, rule: Rule, live: Live, start: Start
) -> Differentiated:
    """Run the prompts of `start` and take gradients at all that `live` keeps, under a rule.

    Hooks of `start` come last at their hook points.
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
    return Differentiated(
        logits.detach(), values.detach(), dict(zip(live.tensors, found, strict=True))
    )
