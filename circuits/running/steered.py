"""The metric as a smooth function of one number an edge, to be differentiated any number of times.

`L(c)` is the metric, summed over a batch, when every reader j sees

    x_j = live stream - sum_s c[s, j] * D_s          D_s = clean write of s - its replacement

with all that follows recomputed. `L(0)` is the clean run. One `c[s, j] = 1`, the others 0, removes
that edge exactly, for nothing before its reader has moved. Hence at 0

    dL/dc[s, j] = -(EAP's score),        d2L/dc[s, j]2 = D_s . H_jj D_s

where H_jj is the metric's second derivative by the reader's input, downstream live, the curvature
of the norm at the reader included. Readers' inputs are made one by one inside the graph of
operations, which costs several times what a plain gradient costs.
"""

from dataclasses import dataclass

import torch
from einops import einsum
from jaxtyping import Float, Int
from torch import Tensor

from circuits.running.pair import Pair
from circuits.running.rewiring import Layout, Reading, rewired, whole_layout
from patching.anatomy.blocks import Block
from patching.capture import expand_writes, indices
from patching.metrics import Metric, measure_sloped
from patching.model import Model
from patching.tasks.task import Batch


@dataclass(frozen=True, eq=False)
class Steered:
    """One batch's `L`, of independent copies of the batch side by side.

    Only inputs of the layout's readers are put together; what `c` says of others is left out.
    """

    model: Model
    batch: Batch
    metric: Metric
    tokens: tuple[Tensor, ...]
    difference: Float[Tensor, "source token d_model"]
    layout: Layout

    @staticmethod
    def of(model: Model, batch: Batch, metric: Metric, pair: Pair) -> "Steered":
        """`L` at the clean run of a pair; `batch` carries its logits, for metrics that ask."""
        written = expand_writes(model, pair.clean.writes - pair.replaced)
        every = whole_layout(model.graph, tells=False)
        return Steered(model, batch, metric, indices(pair.tokens), written, every)

    def __call__(self, c: Float[Tensor, "copy source dest"]) -> Float[Tensor, " copy"]:
        """The metric of each copy, summed over the examples; differentiable by `c`."""
        n = len(c)
        tokens = self.batch.clean.repeat(n, 1)
        hooks = rewired(self.model, self.layout, _Shifts(self.tokens, self.difference, c))
        logits = self.model.answer_logits(tokens, self.batch, hooks)
        rows = logits.unflatten(0, (n, -1))
        return torch.stack([measure_sloped(self.metric, some, self.batch).sum() for some in rows])


@dataclass(frozen=True, eq=False)
class _Shifts:
    """Fixed differences, taken off in as many ways as there are copies; a `Mix`."""

    tokens: tuple[Tensor, ...]
    difference: Float[Tensor, "source token d_model"]
    c: Float[Tensor, "copy source dest"]

    def chosen(self, x: Float[Tensor, "row pos ..."]) -> Float[Tensor, "copies_x_token ..."]:
        rows, places = self.tokens
        return x.unflatten(0, (len(self.c), -1))[:, rows, places].flatten(0, 1)

    def put(
        self,
        name: str,
        live: Float[Tensor, "row pos ..."],
        made: Float[Tensor, "copies_x_token ..."],
        heads: Int[Tensor, " some"] | None,
    ) -> Float[Tensor, "row pos ..."]:
        rows, places = self.tokens
        out = live.unflatten(0, (len(self.c), -1)).clone()
        made = made.unflatten(0, (len(self.c), -1))
        if heads is None:
            out[:, rows, places] = made
        else:
            out[:, rows[:, None], places[:, None], heads] = made
        return out.flatten(0, 1)

    def inputs(
        self, reading: Reading, name: str, stream: Float[Tensor, "copies_x_token d_model"]
    ) -> Float[Tensor, "reader copies_x_token d_model"]:
        moved = einsum(
            self.c[:, : reading.n_sources, reading.readers],
            self.difference[: reading.n_sources],
            "copy source reader, source token d_model -> reader copy token d_model",
        )
        return stream - moved.flatten(1, 2)

    def on_heads(self, block: Block, head_input: Float[Tensor, "token head d_head"]) -> None:
        """Nothing: the differences are fixed."""

    def on_mlp(self, block: Block, write: Float[Tensor, "token d_model"]) -> None:
        """Nothing: the differences are fixed."""
